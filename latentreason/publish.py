"""The end of a run: results, figures, report and manifest from its tables, and the headline beside the committed one."""

import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.figures.figures import FIGURES, load_results, make_figures
from latentreason.figures.report import headline, write_report
from latentreason.files import copy_tree, read_json, read_table, write_bytes, write_json, write_table
from latentreason.organisms.about import markdown
from latentreason.reproduce import RunConfig, run_name
from latentreason.store import SCHEMA, code_version, config_hash, environment, open_artifact, sha256
from latentreason.studies.recompute import CLAIMS, OF_THEIR_OWN, RESULTS, ZOO, recompute, recompute_zoo
from latentreason.studies.result import Result, sampled
from latentreason.tasks.registry import load_task


def finish(folder: Path, config: RunConfig) -> Path:
    """Results, figures and report of a run, from its tables. Returns the page."""
    for name, result in recompute(folder / "tables").items():
        result.save(folder, name)
    make_figures(folder, folder / "figures")
    write_json(folder / "run.json", _facts(folder, config))
    return write_report(folder)


def publish(folder: Path, artifacts: Path) -> None:
    """Copy tables, results and figures of a finished run to the committed places; of a run with another seed than 0, tables and results, to `seed-N` there."""
    seed = read_json(folder / "run.json")["config"]["seed"]
    target = artifacts / "results" / run_name(folder) / (f"seed-{seed}" if seed else "")
    copy_tree(folder / "tables", target / "tables")
    for file in (*folder.glob("*.parquet"), *(folder / f"{n}.json" for n in load_results(folder) if n in RESULTS), folder / "run.json"):
        shutil.copyfile(file, target / file.name)
    if not seed:
        make_figures(target, figures_of(target))


def finish_claims(folder: Path) -> list[str]:
    """Results and figures of the job `claims`, and, where the main job has run in this folder, the report. Returns the names of the results."""
    tables = folder / "tables"
    main = (tables / "facts.json").is_file()
    names = [name for name in CLAIMS if (tables / OF_THEIR_OWN[name]).is_file()] + (["passk"] if main and (tables / "passk.parquet").is_file() else [])
    for name, result in recompute(tables, names).items():
        result.save(folder, name)
    make_figures(folder, folder / "figures", _drawn_from(names))
    if main and (folder / "recovery.json").is_file():
        write_report(folder)
    return names


def publish_claims(folder: Path, artifacts: Path) -> None:
    """Copy the tables of the job `claims` to the committed places, and make its results, that of `passk` and their figures there anew. Of a run with another seed
    than 0: to `seed-N` there, without figures.
    """
    seed = read_json(folder / "config.json")["config"]["seed"]
    target = artifacts / "results" / run_name(folder) / (f"seed-{seed}" if seed else "")
    tables = target / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for file in [folder / "tables" / name for name in ("passk_likelihood.parquet", "taxonomy_scores.parquet", *(OF_THEIR_OWN[n] for n in CLAIMS))]:
        if file.is_file():
            shutil.copyfile(file, tables / file.name)
    names = [name for name in CLAIMS if (tables / OF_THEIR_OWN[name]).is_file()] + (["passk"] if (tables / "passk.parquet").is_file() else [])
    for name, result in recompute(tables, names).items():
        result.save(target, name)
    if not seed:
        make_figures(target, figures_of(target), _drawn_from(names))


def _drawn_from(names: list[str]) -> list[str]:
    return [name for name, figure in FIGURES.items() if set(figure.inputs) <= set(names)]


def findings(results: Path, study: str) -> str:
    """What each folder of committed results says of a study, as Markdown; or that none does."""
    found = [(file.parent.name, str(read_json(file)["finding"])) for file in sorted(results.glob(f"*/{study}.json"))]
    return "\n".join(f"- **{name}**: {said}" for name, said in found) or "No result is committed yet."


def with_findings(page: str, results: Path, studies: Iterable[str]) -> str:
    """A page whose blocks `<!-- finding: STUDY -->` ... `<!-- end of finding -->` hold the committed findings."""
    for study in studies:
        page = re.sub(rf"(<!-- finding: {study} -->\n).*?(<!-- end of finding -->)", lambda m, s=study: f"{m[1]}{findings(results, s)}\n{m[2]}", page, flags=re.DOTALL)  # type: ignore[misc]
    return page


def publish_zoo(measured: Iterable[Path], artifacts: Path) -> dict[str, Result]:
    """Stack the tables of measured organisms and seeds, compute the studies that read them, and draw their figures. Returns the results.

    Each `NAME.parquet` in a folder becomes a part of `tables/NAME.parquet`, with the columns `organism` and `seed` before its own.

    Raises:
        InvalidInput: nothing has been measured.
    """
    target, parts, about = artifacts / "results" / "zoo", dict[str, list[pd.DataFrame]](), []
    for folder in measured:
        manifest = open_artifact(folder)
        about.append({"organism": manifest.name, "seed": manifest.seed, "config_hash": manifest.config_hash, "inputs": manifest.inputs, "seconds": manifest.seconds})
        for file in sorted(folder.glob("*.parquet")):
            table = read_table(file)
            first = pd.DataFrame({"organism": manifest.name, "seed": manifest.seed}, index=table.index)
            parts.setdefault(file.stem, []).append(pd.concat([first, table[[c for c in table if c not in first]]], axis=1))
    if not parts:
        raise InvalidInput("Nothing has been measured. Train organisms, and measure them: latentreason organisms measure all.")
    for name, tables in parts.items():
        write_table(target / "tables" / f"{name}.parquet", pd.concat(tables, ignore_index=True))
    write_json(target / "zoo.json", {"measured": about, "code": code_version(), "env": environment(), "files": {f"tables/{name}.parquet": sha256(target / "tables" / f"{name}.parquet") for name in parts}})
    results = recompute_zoo(target / "tables")
    for name, result in results.items():
        result.save(target, name)
    make_figures(target, figures_of(target))
    return results


def figures_of(results: Path) -> Path:
    """Where the figures of a folder of results go: of a run into its own, of committed results of the built-in pair to `artifacts/figures`, of others below it."""
    if results.parent.name != "results":
        return results / "figures"
    root = results.parent.parent / "figures"
    return root if results.name == RunConfig().pair else root / results.name


def _facts(folder: Path, config: RunConfig) -> dict[str, Any]:
    """The manifest of a run: what was asked, with which weights, problems, code and packages, how long it took, and what came out."""
    asked = {"calibration": 2 * config.calibration_problems, "fit": config.geometry_problems, "test": max(config.n_problems, config.passk_problems)}
    ids = {split: [p.id for p in load_task(config.task, split=split, limit=limit, seed=config.seed)] for split, limit in asked.items()}
    files = sorted(p for p in folder.rglob("*.parquet") if "parts" not in p.parts)
    return {
        "schema": SCHEMA, "kind": "run", "models": read_json(models) if (models := folder / "models.json").is_file() else {}, "config": asdict(config), "weights": read_json(folder / "config.json")["config"]["weights"],
        "data": {split: {"n": len(of), "ids_hash": config_hash({"ids": of})} for split, of in ids.items()},
        "code": code_version(), "env": environment(), "seconds": read_json(folder / "seconds.json"),
        "files": {p.relative_to(folder).as_posix(): sha256(p) for p in files},
    }  # fmt: skip


README_ROWS = (
    "base accuracy", "RL accuracy", "D (share", "best oracle router", "best oracle: area", "best oracle: recovery at", "best base-only router",
    "best base-only: area", "best base-only: recovery at", "timing share", "content share", "RL minus base, pass@",
)  # fmt: skip


def headline_block(results: Path) -> str:
    """The committed findings and headline as Markdown: what stands in the README between its two marks."""
    loaded = load_results(results)
    table, details = headline(loaded), loaded["recovery"].details
    shown = table[table["quantity"].str.startswith(README_ROWS)]
    said = [f"- **{name.replace('_', ', ')}**: {result.finding}" for name, result in loaded.items() if name not in CLAIMS]
    lines = [f"| {q} | {t} |" for q, t in zip(shown["quantity"], shown["text"], strict=True)]
    sizes = f"{details['n_problems']} problems x {details['n_samples']} samples at {sampled(loaded['recovery'])}, {details['n_problems']} greedy"
    return "\n".join([*said, "", f"| quantity ({sizes}) | estimate [95% interval] |", "|---|---|", *lines])


def seeds_block(results: Path) -> str:
    """The headline of each committed seed of sampling as Markdown, a column each: the spread that one interval does not show."""
    folders = [results, *sorted(results.glob("seed-*"))]
    tables = [headline(load_results(folder)).set_index("quantity")["text"].rename(f"seed {folder.name.rpartition('-')[2] if folder != results else 0}") for folder in folders]
    table = pd.concat(tables, axis=1).fillna("-")
    table = table[table.index.str.startswith(README_ROWS)]
    lines = [f"| {quantity} | {' | '.join(row)} |" for quantity, row in zip(table.index, table.to_numpy(), strict=True)]
    return "\n".join([f"| quantity | {' | '.join(table.columns)} |", "|---" * (len(folders) + 1) + "|", *lines])


def publish_seed(folder: Path, picture: pd.DataFrame, target: Path) -> Path:
    """The tables of one training seed, without weights: manifest, recipe, curves and picture."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("manifest.json", "recipe.json", "curve_pretrain.parquet", "curve_rl.parquet"):
        shutil.copyfile(folder / name, target / name)
    write_table(target / "picture.parquet", picture)
    return target


def headlines(folder: Path, committed: Path) -> pd.DataFrame:
    """The headline numbers of a run, each beside the committed one, as text with intervals."""
    here = headline(load_results(folder))
    table = here[["quantity", "text"]].rename(columns={"text": "this run"})
    if not (committed / "recovery.json").exists():
        return table.assign(committed="none yet")
    there = headline(load_results(committed))
    return table.merge(there[["quantity", "text"]].rename(columns={"text": "committed"}), on="quantity", how="left").fillna("-")


def blocks(artifacts: Path) -> dict[str, str]:
    """What stands in the documents between `<!-- NAME -->` and `<!-- end of NAME -->`: the table of the organisms, and the committed findings of the zoo (none
    where there are no results yet).
    """
    found = {"organisms": markdown()}
    for name in ZOO:
        file = artifacts / "results" / "zoo" / f"{name}.json"
        found[f"finding of {name}"] = read_json(file)["finding"] if file.is_file() else ""
    return found


def with_blocks(text: str, found: dict[str, str]) -> str:
    """A document with its blocks made anew; marks that nobody made a block for stay as they are."""
    for name, block in found.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if begin in text and end in text:
            before, rest = text.split(begin, 1)
            text = before + begin + (block and f"{block}\n") + end + rest.split(end, 1)[1]
    return text


def write_docs(artifacts: Path) -> list[Path]:
    """Bring the blocks of the documents beside the artifacts up to date; the pages that changed."""
    changed = []
    for page in sorted((artifacts.resolve().parent / "docs").glob("*.md")):
        before = page.read_text(encoding="utf-8")
        if (after := with_blocks(before, blocks(artifacts))) != before:
            write_bytes(page, after.encode())
            changed.append(page)
    return changed
