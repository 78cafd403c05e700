"""The end of a run: results, figures, report and manifest from its tables, and the headline beside the committed one."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from latentreason.errors import CorruptArtifact, InvalidInput
from latentreason.figures.figures import FIGURES, load_results, make_figures
from latentreason.figures.report import headline, write_report
from latentreason.files import copy_tree, plain, read_json, read_table, write_json, write_table
from latentreason.models import smollm2
from latentreason.organisms.recipe import config_of
from latentreason.organisms.zoo import ADAPTERS, ORGANISMS
from latentreason.reproduce import SILENT, RunConfig, problems_for, run_name
from latentreason.store import SCHEMA, Parts, code_version, config_hash, environment, open_artifact, sha256
from latentreason.studies.recompute import (
    AUDITS,
    CLAIMS,
    OF_THEIR_OWN,
    RESULTS,
    recompute,
    recompute_judged,
    recompute_zoo,
    result_dir,
    tables_dir,
)
from latentreason.studies.result import Result

_OF_CLAIMS = ("passk_likelihood.parquet", "taxonomy_scores.parquet", *(OF_THEIR_OWN[name] for name in CLAIMS))


def finish(folder: Path, config: RunConfig, progress: bool = True) -> Path:
    """Results, figures and report of a run, from its tables. Returns the page."""
    for name, result in recompute(folder / "tables").items():
        result.save(folder, name)
    write_json(folder / "run.json", _facts(folder, config))  # before the figures, whose captions have its note
    make_figures(folder, folder / "figures", progress=progress)
    return write_report(folder)


def publish(folder: Path, artifacts: Path, progress: bool = True) -> None:
    """Copy tables, results, figures and report of a finished run to the committed places; of a run with another seed than 0, tables and results, to `seed-N` there.

    Tables that the run has not stay there where they are of the same configuration and weights (those of the job `claims`: of the same weights); else results without
    tables go, too.
    """
    seed = read_json(folder / "run.json")["config"]["seed"]
    target = artifacts / "results" / run_name(folder) / (f"seed-{seed}" if seed else "")
    before = read_json(target / "run.json").get("weights") if (target / "run.json").is_file() else None
    same = before == read_json(folder / "run.json")["weights"]
    there = [file.name for file in (target / "tables").glob("*")] if same and _identity(target) == _identity(folder) else [*_OF_CLAIMS]
    kept = [name for name in there if same and (target / "tables" / name).is_file() and not (folder / "tables" / name).is_file()]
    for name in kept:
        shutil.copyfile(target / "tables" / name, folder / "tables" / name)
    copy_tree(folder / "tables", target / "tables")
    for file in (*folder.glob("*.parquet"), *(folder / f"{n}.json" for n in load_results(folder) if n in RESULTS), folder / "run.json"):
        shutil.copyfile(file, target / file.name)
    for name in [name for name, table in OF_THEIR_OWN.items() if not (target / "tables" / table).is_file()]:
        for left in (target / f"{name}.json", target / f"{name}.parquet"):
            left.unlink(missing_ok=True)
    if kept and (target / "tables" / "passk.parquet").is_file():  # it reads what `claims` measured, too
        recompute(target / "tables", ["passk"])["passk"].save(target, "passk")
    _hashed(target)
    if not seed:
        make_figures(target, figures_of(target), progress=progress)
        shutil.copyfile(folder / "report.html", target / "report.html")


def begin_from_published(folder: Path, run: dict[str, Any], artifacts: Path, again: Iterable[str]) -> list[str]:
    """Begin the folder of a run with the committed tables of the same configuration and weights. Returns the stages that are thereby done.

    Args:
        folder: of the run; one that is there already is left as it is.
        run: its `reproduce.identity`.
        artifacts: the committed ones.
        again: stages that are to be computed anyway.

    Raises:
        InvalidInput: nothing is committed, or of another configuration or other weights.
        CorruptArtifact: a committed table is not the one that was published.
    """
    seed = run.get("seed", 0)
    source = artifacts / "results" / run_name(folder) / (f"seed-{seed}" if seed else "")
    if not (source / "run.json").is_file():
        raise InvalidInput(f"No run of {run_name(folder)!r} with seed {seed} is committed in {source}: run `latentreason reproduce` first.")
    facts, wanted = read_json(source / "run.json"), plain(run, "run")
    known = facts.get("identity") or {**{key: value for key, value in facts["config"].items() if value is not None and key not in SILENT}, "weights": facts["weights"]}
    if different := sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key)):
        raise InvalidInput(f"The run committed in {source} differs from this one in {', '.join(different)}: run `latentreason reproduce` first.")
    if folder.exists():
        return []
    for name, expected in facts["files"].items():
        if name.startswith("tables/") and sha256(source / name) != expected:
            raise CorruptArtifact(f"{source / name} is not the table that was published (its hash differs). Fix: restore it from the repository.")
    done = {stage: seconds for stage, seconds in facts["seconds"].items() if stage not in again}
    begun = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(begun, ignore_errors=True)  # of a killed one
    Parts(begun, run)
    copy_tree(source / "tables", begun / "tables")
    write_json(begun / "seconds.json", done)
    write_json(begun / "stages.json", {stage: facts.get("stages", {}).get(stage, facts["code"]) for stage in done})
    begun.rename(folder)
    return list(done)


def _identity(folder: Path) -> Any:
    """What the run of a folder was asked, and with which weights; of runs that do not say it so, None."""
    return read_json(folder / "run.json").get("identity") if (folder / "run.json").is_file() else None


def finish_claims(folder: Path, progress: bool = True) -> list[str]:
    """Results and figures of the job `claims`, and, where the main job has run in this folder, the report. Returns the names of the results."""
    tables = folder / "tables"
    main = (tables / "facts.json").is_file()
    names = [name for name in CLAIMS if (tables / OF_THEIR_OWN[name]).is_file()] + (["passk"] if main and (tables / "passk.parquet").is_file() else [])
    for name, result in recompute(tables, names).items():
        result.save(folder, name)
    make_figures(folder, folder / "figures", _drawn_from(names), progress)
    if main and (folder / "recovery.json").is_file():
        write_report(folder)
    return names


def publish_claims(folder: Path, artifacts: Path, progress: bool = True) -> None:
    """Copy the tables of the job `claims` to the committed places, and make its results, that of `passk` and their figures there anew. Of a run with another seed
    than 0: to `seed-N` there, without figures.
    """
    seed = read_json(folder / "config.json")["config"]["seed"]
    target = artifacts / "results" / run_name(folder) / (f"seed-{seed}" if seed else "")
    tables = target / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for file in [folder / "tables" / name for name in _OF_CLAIMS]:
        if file.is_file():
            shutil.copyfile(file, tables / file.name)
    names = [name for name in CLAIMS if (tables / OF_THEIR_OWN[name]).is_file()] + (["passk"] if (tables / "passk.parquet").is_file() else [])
    for name, result in recompute(tables, names).items():
        result.save(target, name)
    _hashed(target)
    if not seed:
        make_figures(target, figures_of(target), _drawn_from(names), progress)


def publish_verdict(folder: Path, pair: str, artifacts: Path) -> None:
    """Copy the tables of a verdict to the committed places of the pair, and make its result and figure there."""
    target = artifacts / "results" / pair
    (target / "tables").mkdir(parents=True, exist_ok=True)
    for name in ("verdict.parquet", "verdict_temperatures.parquet"):
        shutil.copyfile(folder / "tables" / name, target / "tables" / name)
    recompute(target / "tables", ["verdict"])["verdict"].save(target, "verdict")
    _hashed(target)
    make_figures(target, figures_of(target), ["verdict"], progress=False)


def _drawn_from(names: list[str]) -> list[str]:
    return [name for name, figure in FIGURES.items() if set(figure.inputs) <= set(names)]


def publish_zoo(measured: Iterable[Path], artifacts: Path) -> dict[str, Result]:
    """Stack the tables of measured organisms and seeds, compute the studies that read them, and draw their figures. Returns the results.

    Each `NAME.parquet` in a folder becomes a part of `tables/NAME.parquet`, with the columns `organism` and `seed` before its own. What was published before and is
    not among the measured stays (the zoo is measured seed by seed, perhaps on several machines), unless its recipe has changed since.

    Raises:
        InvalidInput: nothing has been measured.
    """
    target, parts, about = artifacts / "results" / "zoo", dict[str, list[pd.DataFrame]](), list[dict[str, Any]]()
    now = {name: config_hash(config_of(recipe)) for name, recipe in ORGANISMS.items()}
    for folder in measured:
        manifest = open_artifact(folder)
        recipe = config_hash(manifest.config["recipe"])
        if now.get(manifest.name, recipe) != recipe:
            continue  # a former one
        about.append({"organism": manifest.name, "seed": manifest.seed, "recipe": recipe, "config_hash": manifest.config_hash,
                      "inputs": manifest.inputs, "seconds": manifest.seconds})  # fmt: skip
        for file in sorted(folder.glob("*.parquet")):
            table = read_table(file)
            first = pd.DataFrame({"organism": manifest.name, "seed": manifest.seed}, index=table.index)
            parts.setdefault(file.stem, []).append(pd.concat([first, table[[c for c in table if c not in first]]], axis=1))
    before = read_json(target / "zoo.json")["measured"] if (target / "zoo.json").is_file() else []
    if not parts and not before:
        raise InvalidInput("Nothing has been measured. Train organisms, and measure them: latentreason organisms measure all.")
    fresh = {(each["organism"], each["seed"]) for each in about}
    kept = [each for each in before if (each["organism"], each["seed"]) not in fresh and now.get(each["organism"], each["recipe"]) == each["recipe"]]
    for name in [Path(file).stem for file in read_json(target / "zoo.json")["files"]] if before else []:
        table = read_table(target / "tables" / f"{name}.parquet")
        there = pd.MultiIndex.from_frame(table[["organism", "seed"]]).isin([(each["organism"], each["seed"]) for each in kept])
        parts.setdefault(name, []).append(table[there])
    order = {name: i for i, name in enumerate(ORGANISMS)}
    for name, tables in parts.items():
        stacked = pd.concat(tables, ignore_index=True)
        places = stacked[["organism", "seed"]].assign(place=stacked["organism"].map(lambda each: order.get(each, len(order))))
        write_table(target / "tables" / f"{name}.parquet", stacked.loc[places.sort_values(["place", "organism", "seed"], kind="stable").index].reset_index(drop=True))
    about = sorted([*about, *kept], key=lambda each: (order.get(each["organism"], len(order)), each["organism"], each["seed"]))
    write_json(target / "zoo.json", {"measured": about, "code": code_version(), "env": environment(), "files": {f"tables/{name}.parquet": sha256(target / "tables" / f"{name}.parquet") for name in sorted(parts)}})
    results = recompute_zoo(target / "tables")
    for name, result in results.items():
        result.save(target, name)
    make_figures(target, figures_of(target))
    return results


def finish_pairs(folder: Path) -> dict[str, Result]:
    """Results and figures of the studies of the zoo on the tables of pairs in a folder, which `measure.pairs` wrote."""
    results = recompute_zoo(folder / "tables")
    for name, result in results.items():
        result.save(folder, name)
    make_figures(folder, folder / "figures", list(results), progress=False)
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
    ids = {split: [p.id for p in problems_for(config, split, limit)] for split, limit in asked.items()}
    return {
        "schema": SCHEMA, "kind": "run", "models": read_json(models) if (models := folder / "models.json").is_file() else {}, "config": asdict(config), "weights": read_json(folder / "config.json")["config"]["weights"],
        "identity": read_json(folder / "config.json")["config"], "stages": read_json(stages) if (stages := folder / "stages.json").is_file() else {},
        "data": {split: {"n": len(of), "ids_hash": config_hash({"ids": of})} for split, of in ids.items()},
        "code": code_version(), "env": environment(), "seconds": read_json(folder / "seconds.json"),
        "files": _hashes(folder), **_prompts(folder), **_note(config.pair),
    }  # fmt: skip


def _hashes(folder: Path) -> dict[str, str]:
    """Every table and result of a run."""
    files = sorted(p for p in (*folder.glob("*.parquet"), *folder.glob("*/*.parquet"), *folder.glob("tables/*.json")) if p.parent in (folder, folder / "tables"))
    return {p.relative_to(folder).as_posix(): sha256(p) for p in files}


def remake(target: Path, progress: bool = True) -> None:
    """Results, figures, report and hashes of committed results anew from their tables, as after a change of a study: nothing is sampled.

    Raises:
        CorruptArtifact: a table is not the one that was published.
    """
    facts: dict[str, Any] = next((read_json(manifest) for manifest in (target / "run.json", target / "zoo.json") if manifest.is_file()), {"files": {}})
    for name, expected in facts["files"].items():
        if name.startswith("tables/") and sha256(target / name) != expected:
            raise CorruptArtifact(f"{target / name} is not the table that was published (its hash differs). Fix: restore it from the repository.")
    zoo = (target / "zoo.json").is_file()
    found = recompute_zoo(target / "tables") | recompute_judged(target / "tables") if zoo else recompute(target / "tables", [name for name in load_results(target) if name in RESULTS])
    for name, result in found.items():
        result.save(target, name)
    _hashed(target)
    if not target.name.startswith("seed-"):
        make_figures(target, figures_of(target), progress=progress)
        if (target / "tables" / "facts.json").is_file():
            write_report(target)


def remake_all(results: Path) -> Iterator[Path]:
    """All that is committed anew, as `remake`; audits first, which the figures of runs show. Yields each folder when it is done.

    Args:
        results: the folder of the built-in pair.
    """
    for name, compute in AUDITS.items():
        folder = result_dir(name, results)
        if folder.is_dir():
            compute(tables_dir(name, results)).save(folder, name)
            yield folder
    for folder in sorted(tables.parent for tables in results.parent.rglob("tables") if any(tables.parent.glob("*.json"))):
        remake(folder)
        yield folder


def _hashed(target: Path) -> None:
    """Say in the manifest of committed results what lies there now."""
    if (manifest := target / "run.json").is_file():
        facts = read_json(manifest)
        write_json(manifest, {**facts, "files": _hashes(target), "results_by": code_version(), **_prompts(target), **_note(facts["config"]["pair"])})


def _prompts(folder: Path) -> dict[str, Any]:
    """Hashes of the template and of the chat template that the models were asked in."""
    facts = read_json(file) if (file := folder / "tables" / "facts.json").is_file() else {}
    return {key: facts[key] for key in ("prompt", "rl_prompt") if key in facts}


def _note(pair: str) -> dict[str, str]:
    """What stands beside every figure of the pair."""
    return {"note": smollm2.NOTE} if pair in ADAPTERS and ADAPTERS[pair].base == smollm2.NAME else {}


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
