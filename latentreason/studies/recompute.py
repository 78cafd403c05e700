"""Results from tables: what `reproduce` does last, and what `figures --check` does again.

A run's tables are plain files in one folder (`tables/`); this module is the one place that knows their names. An audit belongs to no run:
it reads published numbers, which lie elsewhere, and its result lies beside those of the runs. The studies of the zoo read tables stacked over organisms and seeds::

    artifacts/published/*.csv                            an audit's tables
    artifacts/results/published/published.{json,parquet}    its result
    artifacts/results/activation/                        a run's results, with its tables/
    artifacts/results/zoo/                               those of the zoo, with its tables/
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from latentreason.config import from_dict
from latentreason.errors import CorruptArtifact, unknown_name
from latentreason.files import FIX, read_json, read_table
from latentreason.studies import (
    boundary,
    calibration,
    coherence,
    contamination,
    curriculum,
    difficulty,
    formats,
    geometry,
    one_shot,
    passk,
    planning,
    published,
    recovery,
    rivals,
    routing,
    spurious,
    taxonomy,
    verdict,
)
from latentreason.studies.result import Result, same_pair
from latentreason.tables import Rollouts, concat


def sampled_at(tables: Path) -> float:
    """The temperature of a run's sampled arms: that at which its routers were calibrated."""
    routers = read_json(tables / "facts.json")["t1"].get("routers", [])
    return next((float(r["params"]["calibration"]["temperature"]) for r in routers), 1.0)


def recovery_result(tables: Path, temperature: str) -> Result:
    """Study `recovery` at "t1" or "greedy"."""
    facts = read_json(tables / "facts.json")
    ends, curves = Rollouts.load(tables / f"{temperature}_ends.parquet"), Rollouts.load(tables / f"{temperature}_curves.parquet")
    is_control = {a: "of" in curves.info[a]["router"]["params"] for a in curves.arms}
    parts = [Rollouts(curves.table[curves.table["arm"].map(is_control) == wanted].reset_index(drop=True), curves.info) for wanted in (False, True)]
    if "not_first_token" in ends.arms:  # the complement of a router of the curves
        parts[0] = concat([parts[0], ends.arm("not_first_token")])
    strategies = tables / f"{temperature}_strategies.parquet"
    return recovery.run(
        base=ends.arm("base"), rl=ends.arm("rl"), hybrid=parts[0], control=parts[1], timing=ends.arm("timing"), content=ends.arm("content"),
        changed_by_strategy=pd.DataFrame(read_table(strategies)) if strategies.exists() else None,
        config=recovery.Config(**{k: facts[temperature][k] for k in ("best_oracle", "best_base_only")}, temperature=sampled_at(tables) if temperature == "t1" else 1.0),
    )  # fmt: skip


def passk_result(tables: Path) -> Result:
    """Study `passk`."""
    facts, rollouts = read_json(tables / "facts.json"), Rollouts.load(tables / "passk.parquet")
    greedy, likelihood = tables / "greedy_ends.parquet", tables / "passk_likelihood.parquet"
    return passk.run(
        base=rollouts.arm("base"), rl=rollouts.arm("rl"), hybrid=rollouts.arm("hybrid"), greedy=Rollouts.load(greedy).arm("rl") if greedy.is_file() else None,
        likelihood=read_table(likelihood) if likelihood.is_file() else None, config=passk.Config(**facts["passk"]),
    )  # fmt: skip


def geometry_result(tables: Path) -> Result:
    """Study `geometry`."""
    facts = read_json(tables / "facts.json")
    return geometry.run(**{name: read_table(tables / f"geometry_{name}.parquet") for name in geometry.TABLES}, config=geometry.Config(**facts["geometry"]))


def routing_result(tables: Path) -> Result:
    """Study `routing`."""
    arms = Rollouts.load(tables / "routing.parquet")
    control = arms.table["arm"].str.startswith("matched_")
    exchanged = Rollouts.load(tables / "routing_exchanged.parquet")
    same_pair(arms=arms, exchanged=exchanged)
    parts = [Rollouts(arms.table[rows].reset_index(drop=True), arms.info) for rows in (~control & ~arms.table["arm"].isin(["base", "rl"]), control)]
    return routing.run(base=arms.arm("base"), rl=arms.arm("rl"), hybrid=parts[0], control=parts[1],
                       exchanged=exchanged, facts=read_json(tables / "routing.json"),
                       config=routing.Config(temperature=sampled_at(tables)))  # fmt: skip


def rivals_result(tables: Path, name: str) -> Result:
    """Study `rivals`, of the rival arms ("rivals") or of vectors in place of tokens ("steering", "trained")."""
    greedy = name.endswith("_greedy")
    ends = Rollouts.load(tables / f"{'greedy' if greedy else 't1'}_ends.parquet")
    arms, facts, config = Rollouts.load(tables / f"{name}.parquet"), read_json(tables / f"{name}.json"), rivals.Config(temperature=0.0 if greedy else sampled_at(tables))
    same_pair(ends=ends, rivals=arms)
    parts = {part: tables / f"{name}_{part}.parquet" for part in ("fluency", "fits")} | ({"changes": tables / "weight_changes.parquet"} if name == "rivals" else {})
    more = {part: read_table(file) for part, file in parts.items() if file.is_file()}
    return rivals.run(base=ends.arm("base"), rl=ends.arm("rl"), rivals=arms, facts=facts, config=config, **more)


def verdict_result(tables: Path) -> Result:
    """Study `verdict`, of one pair."""
    return verdict.run(counts=read_table(tables / "verdict.parquet"), tried=read_table(tables / "verdict_temperatures.parquet"))


def calibration_result(tables: Path) -> Result:
    """Study `calibration`, of the stacked tables of the zoo."""
    stacked = [read_table(tables / f"verdicts{name}.parquet") for name in ("", "_truths", "_temperatures")]
    return calibration.run(verdicts=stacked[0], truths=stacked[1], tried=stacked[2])


def published_result(tables: Path) -> Result:
    """Study `published`."""
    path = tables / "venhoff_2026.csv"
    try:
        return published.run(table=pd.read_csv(path))
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise CorruptArtifact(f"Cannot read table {path}: {error}. {FIX}") from error


RESULTS: dict[str, Callable[[Path], Result]] = {
    "recovery": lambda tables: recovery_result(tables, "t1"),
    "recovery_greedy": lambda tables: recovery_result(tables, "greedy"),
    "passk": passk_result,
    "geometry": geometry_result,
    "routing": routing_result,
    "rivals": lambda tables: rivals_result(tables, "rivals"),
    "steering": lambda tables: rivals_result(tables, "steering"),
    "trained": lambda tables: rivals_result(tables, "trained"),
    "trained_greedy": lambda tables: rivals_result(tables, "trained_greedy"),
    "elicitation": lambda tables: rivals_result(tables, "elicitation"),
    "contamination": lambda tables: contamination.run(table=read_table(tables / "contamination.parquet")),
    "coherence": lambda tables: coherence.run(table=read_table(tables / "coherence.parquet")),
    "planning": lambda tables: planning.run(table=read_table(tables / "planning.parquet")),
    "taxonomy": lambda tables: taxonomy.run(table=read_table(tables / "taxonomy.parquet"), scores=read_table(tables / "taxonomy_scores.parquet")),
    "verdict": verdict_result,
}
"""Name of a result file of a run -> how to compute it from a folder of tables."""

CLAIMS = ("contamination", "coherence", "planning", "taxonomy")
"""Results of the job `claims`: docs/studies.md speaks of them, no headline does."""

OF_THEIR_OWN = {"verdict": "verdict_temperatures.parquet", "geometry": "geometry_dose.parquet", "routing": "routing.json", "rivals": "rivals.json", "steering": "steering.json", "trained": "trained.json", "trained_greedy": "trained_greedy.json", "elicitation": "elicitation.json",
                **{name: f"{name}.parquet" for name in CLAIMS}}  # fmt: skip
"""Results of stages that a run may skip, and of jobs after the main one -> the table that is written last. A run without it has no such result."""

AUDITS: dict[str, Callable[[Path], Result]] = {"published": published_result}
"""The same for results of no run."""


def zoo_result(tables: Path, study: Any, *needed: str, optional: tuple[str, ...] = ()) -> Result:
    """A study of the zoo, on the stacked tables that it names; the optional ones where they are there. Tables of somebody's pairs have settings beside them."""
    there = [name for name in optional if (tables / f"{name}.parquet").is_file()]
    stated = read_json(tables / "settings.json") if (tables / "settings.json").is_file() else {}
    config = zoo_configs(stated)[study.__name__.rpartition(".")[2]]
    result: Result = study.run(**{name: read_table(tables / f"{name}.parquet") for name in (*needed, *there)}, config=config)
    return result


def zoo_configs(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The configuration of each study of the zoo, by name.

    Args:
        settings: study -> keys of its Config that are not to be the usual ones.

    Raises:
        UnknownName: no such study of the zoo, or no such key.
        InvalidInput: a value of another type, or one that the study refuses.
    """
    studies = {module.__name__.rpartition(".")[2]: module for module in (boundary, curriculum, difficulty, formats, one_shot, spurious)}
    if strange := [name for name in settings if name not in studies]:
        raise unknown_name("study of the zoo", strange[0], studies)
    return {name: from_dict(module.Config, settings.get(name, {})) for name, module in studies.items()}


ZOO: dict[str, Callable[[Path], Result]] = {
    "boundary": lambda tables: zoo_result(tables, boundary, "counts", "organisms"),
    "curriculum": lambda tables: zoo_result(tables, curriculum, "counts", "organisms"),
    "difficulty": lambda tables: zoo_result(tables, difficulty, "counts", "organisms", optional=("training", "kept", "projections")),
    "formats": lambda tables: zoo_result(tables, formats, "curves", "organisms"),
    "one_shot": lambda tables: zoo_result(tables, one_shot, "counts", "organisms"),
    "spurious": lambda tables: zoo_result(tables, spurious, "counts", "curves", "organisms"),
}
"""The same for results over many organisms and seeds, whose tables `latentreason organisms publish` stacks."""

JUDGED: dict[str, Callable[[Path], Result]] = {"calibration": calibration_result}
"""The same for results over the verdicts of many organisms and seeds, whose tables `latentreason calibrate` stacks."""


def result_dir(name: str, run: Path) -> Path:
    """Where a result lies: in the folder of its run, an audit in the folder of its own name beside it."""
    return run.resolve().parent / name if name in AUDITS else run


def tables_dir(name: str, run: Path) -> Path:
    """Where the tables of a result lie."""
    return run.resolve().parents[1] / name if name in AUDITS else run / "tables"


def recompute(tables: Path, names: list[str] | None = None) -> dict[str, Result]:
    """Results of a run, by name; unless named, those whose job has run."""
    made = [name for name in RESULTS if name not in OF_THEIR_OWN or (tables / OF_THEIR_OWN[name]).is_file()]
    return {name: RESULTS[name](tables) for name in names or made}


def recompute_zoo(tables: Path) -> dict[str, Result]:
    """Results of the zoo, by name; those whose organisms have not been measured are undefined, with a reason."""
    return {name: compute(tables) for name, compute in ZOO.items()}


def recompute_judged(tables: Path) -> dict[str, Result]:
    """What `latentreason calibrate` made of the zoo, by name; nothing where no organism was judged."""
    return {name: compute(tables) for name, compute in JUDGED.items() if (tables / "verdicts_truths.parquet").is_file()}
