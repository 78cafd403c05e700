"""The figures by name, their files, and the check that their numbers are still what the tables say.

A figure reads Results only. Results lie in one folder, as `Result.save(folder, name)` wrote them, beside the `tables/` they came from::

    make_figures("artifacts/results/activation", "artifacts/figures")
    check_figures("artifacts/results/activation", "artifacts/figures")  # [] where all is as committed
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm.auto import tqdm

from latentreason.errors import InvalidInput, LatentReasonError, unknown_name
from latentreason.figures import (
    claims_charts,
    compare_charts,
    geometry_charts,
    passk_charts,
    published_chart,
    recovery_charts,
    taxonomy_chart,
    verdict_charts,
    zoo_charts,
)
from latentreason.figures.figure import Figure, Results
from latentreason.figures.style import look, rendered
from latentreason.files import read_json, read_table, write_bytes, write_json
from latentreason.studies.recompute import AUDITS, JUDGED, RESULTS, ZOO, result_dir, tables_dir
from latentreason.studies.result import Result

FIGURES: dict[str, Figure] = {
    "recovery": recovery_charts.recovery_at("recovery"),
    "recovery_greedy": recovery_charts.recovery_at("recovery_greedy"),
    "routers": recovery_charts.ROUTERS,
    "shares": recovery_charts.SHARES_OF_GAIN,
    "strategies": recovery_charts.STRATEGIES,
    "passk": passk_charts.PASSK,
    "ledger": passk_charts.LEDGER,
    "reach": passk_charts.REACH,
    "arms": recovery_charts.ARMS_AT_ONE_BUDGET,
    "geometry": geometry_charts.GEOMETRY,
    "dose": geometry_charts.DOSE,
    "routing": compare_charts.ROUTING,
    "rivals": compare_charts.RIVALS,
    "steering": compare_charts.STEERING,
    "trained": compare_charts.TRAINED,
    "trained_greedy": compare_charts.TRAINED_GREEDY,
    "elicitation": compare_charts.ELICITATION,
    "contamination": claims_charts.CONTAMINATION,
    "coherence": claims_charts.COHERENCE,
    "planning": claims_charts.PLANNING,
    "taxonomy": taxonomy_chart.TAXONOMY,
    "published": published_chart.PUBLISHED,
    "verdict": verdict_charts.VERDICT,
    "calibration": verdict_charts.CALIBRATION,
    "verdicts": verdict_charts.VERDICTS,
    **zoo_charts.ZOO_FIGURES,
}
"""Name -> figure. One more is one more entry."""


def load_results(results_dir: str | Path) -> dict[str, Result]:
    """The results that are stored in a folder, by name, and beside a run the audits; those that are not there are left out.

    Raises:
        CorruptArtifact: a file is damaged.
        InvalidInput: there is none in the folder itself.
    """
    root = Path(results_dir)
    is_run = any((root / f"{name}.json").is_file() for name in RESULTS)
    folders = {name: result_dir(name, root) for name in (*RESULTS, *ZOO, *JUDGED, *(AUDITS if is_run else ()))}
    found = {name: Result.load(folder, name) for name, folder in folders.items() if (folder / f"{name}.json").is_file()}
    if not any((root / f"{name}.json").is_file() for name in found):
        raise InvalidInput(f"{root} holds no results. Fix: give the folder of a run, with {next(iter(RESULTS))}.json in it.")
    return found


def make_figures(results_dir: str | Path, out: str | Path, names: Sequence[str] | None = None, progress: bool = True) -> list[Path]:
    """Draw figures: `NAME.png`, `NAME.pdf` and `NAME.json` (inputs with hashes, numbers, caption), the same bytes each time.

    Args:
        results_dir: folder with results.
        out: folder for the figures.
        names: which; None for all whose results are there.
        progress: show a progress bar.

    Returns:
        The JSON files, in the order of FIGURES.

    Raises:
        UnknownName: no such figure.
        InvalidInput: a result that a named figure reads is not there, or none at all is.
        ArtifactWriteError: the disk is full or refuses the write.
    """
    root, folder, results, written = Path(results_dir), Path(out), load_results(results_dir), []
    for name in tqdm(_chosen(names, results), desc="figures", disable=not progress):
        drawing = FIGURES[name].plot(results)
        with look():
            for kind in ("png", "pdf"):
                write_bytes(folder / f"{name}.{kind}", rendered(drawing, kind))
        written.append(folder / f"{name}.json")
        write_json(written[-1], _record(name, results, root))  # last: a figure without numbers does not exist
    return written


def check_figures(results_dir: str | Path, figures_dir: str | Path, names: Sequence[str] | None = None) -> list[str]:
    """Recompute results from their tables and figures' numbers from these; what differs from the stored files, one line a difference.

    Never compares pixels. Floats are equal within 1e-9 (relative above 1).

    Args:
        results_dir: folder with results and `tables/`.
        figures_dir: folder with figures.
        names: which figures, with the results that they read; None for all that is stored.

    Raises:
        UnknownName: no such figure.
        InvalidInput: a result that a named figure reads is not there, or none at all is.
    """
    root, folder, stored = Path(results_dir), Path(figures_dir), load_results(results_dir)
    chosen = _chosen(names, stored)
    wanted = list(stored) if names is None else [r for r in stored if any(r in FIGURES[name].inputs for name in chosen)]
    faults, again = list(_contradictions(root / "tables")), {}
    with tempfile.TemporaryDirectory() as temporary:  # written and read back, so that both sides have gone the same way
        for name in wanted:
            try:
                (RESULTS | AUDITS | ZOO | JUDGED)[name](tables_dir(name, root)).save(temporary, name)
            except (LatentReasonError, LookupError, ValueError, TypeError) as error:
                faults.append(f"{name}: cannot be computed from {tables_dir(name, root)}: {type(error).__name__}: {error}")
                continue
            again[name] = Result.load(temporary, name)
            faults += _differences(_plain(stored[name]), _plain(again[name]), name)
        for name in chosen:
            if not all(i in again for i in FIGURES[name].inputs):
                continue  # said above
            files = [folder / f"{name}.{kind}" for kind in ("json", "png", "pdf")]
            if missing := [file.name for file in files if not file.is_file()]:
                faults.append(f"figure {name}: {', '.join(missing)} not in {folder}; fix: make it with `latentreason figures {name}`")
                continue
            write_json(Path(temporary) / "figure.json", _record(name, again, root))
            faults += _differences(read_json(files[0]), read_json(Path(temporary) / "figure.json"), f"figure {name}")
    return faults


def _chosen(names: Sequence[str] | None, results: Results) -> list[str]:
    for name in names or ():
        if name not in FIGURES:
            raise unknown_name("figure", name, FIGURES)
        if missing := [i for i in FIGURES[name].inputs if i not in results]:
            raise InvalidInput(f"Figure {name!r} reads the result {missing[0]!r}, which is not there; there are {', '.join(results)}.")
    return [name for name, f in FIGURES.items() if (name in names if names else all(i in results for i in f.inputs))]


def _record(name: str, results: Results, root: Path) -> dict[str, Any]:
    """What `NAME.json` holds."""
    files = [result_dir(i, root) / f"{i}.{kind}" for i in FIGURES[name].inputs for kind in ("parquet", "json")]
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {"figure": name, "inputs": hashes, "caption": captioned(name, results, root), "numbers": FIGURES[name].numbers(results)}


def captioned(name: str, results: Results, root: Path) -> str:
    """The caption of a figure, with what the manifest of the run notes of its weights."""
    note = read_json(root / "run.json").get("note", "") if (root / "run.json").is_file() else ""
    return " ".join(part for part in (FIGURES[name].caption(results), note) if part)


def _plain(result: Result) -> dict[str, Any]:
    """A result as nested plain data, where each estimate is found by what it speaks of."""
    numbers = ["value", "lo", "hi", "n", "method", "reason"]
    table: dict[str, Any] = {}
    for row in result.table.to_dict("records"):
        where = [f"{k}={v}" for k, v in row.items() if k not in ("quantity", *numbers) and v != "" and v == v]
        key = f"{row['quantity']}({', '.join(where)})"
        table[key if key not in table else f"{key}#{len(table)}"] = {c: row[c] for c in numbers}
    return {"table": table, "details": result.details, "config": result.config, "study": result.study, "finding": result.finding, "notes": list(result.notes)}


def _differences(stored: Any, found: Any, path: str) -> Iterator[str]:
    """Each leaf in which two nested plain values differ."""
    if isinstance(stored, dict) and isinstance(found, dict):
        for key in [*stored, *(k for k in found if k not in stored)]:
            if key not in stored or key not in found:
                yield f"{path}.{key}: {'only stored' if key in stored else 'not stored'}"
            else:
                yield from _differences(stored[key], found[key], f"{path}.{key}")
    elif isinstance(stored, list) and isinstance(found, list):
        if len(stored) != len(found):
            yield f"{path}: stored {len(stored)} entries, recomputed {len(found)}"
        for i, (a, b) in enumerate(zip(stored, found, strict=False)):
            yield from _differences(a, b, f"{path}[{i}]")
    elif not _same(stored, found):
        yield f"{path}: stored {stored!r}, recomputed {found!r}"


def _same(stored: Any, found: Any) -> bool:
    if isinstance(stored, float | int) and isinstance(found, float | int):
        both_nan = stored != stored and found != found
        return both_nan or stored == found or abs(stored - found) <= 1e-9 * max(1.0, abs(stored))
    return bool(stored == found)


def _contradictions(tables: Path) -> Iterator[str]:
    """Rollouts whose two records of the grade disagree."""
    for file in sorted(tables.glob("*.parquet")):
        if {"correct", "grade_strict"} <= set(pq.read_schema(file).names):
            table = read_table(file)
            if count := int((table["correct"] != (table["grade_strict"] == "correct")).sum()):
                yield f"tables/{file.name}: {count} rows where `correct` contradicts `grade_strict`"
