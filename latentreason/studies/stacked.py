"""What the studies of the zoo share: reading tables that are stacked over organisms and training seeds, and estimates over seeds.

Within a seed problems are resampled, and paired; that interval does not cover the training. Over seeds (two or more) stands Student's t interval of the
seeds' values; they answer the same problems, so the mean interval within a seed is added to it, in quadrature. A row a seed, and one with seed "all".
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.stats import Estimate, PassCurve, aligned, pass_at_k_curve, replicate_weights, summary, undefined
from latentreason.studies.result import Result, rows

ALL = "all"
"""In the column `seed`: the estimate over all of them."""

COUNTED = ("organism", "seed", "arm", "problem", "n", "correct")
STANDING = ("organism", "seed", "base", "judged", "stages")
"""Columns that a table of counts, and one of facts about organisms, must have."""


@dataclass(frozen=True)
class Run:
    """One organism and training seed: its facts (empty where none were given), and its counts by problem, of base and RL model on the same problems."""

    organism: str
    seed: int
    facts: Mapping[str, Any]
    base: pd.DataFrame
    rl: pd.DataFrame

    def rates(self, arm: str, column: str = "correct") -> np.ndarray:
        """Share of the samples of each problem, by a column of counts."""
        table = self.base if arm == "base" else self.rl
        values: np.ndarray = (table[column].astype(float) / table["n"]).to_numpy(float)
        return values

    @property
    def kinds(self) -> dict[str, str]:
        """What counts as solved -> its column: the answer, and where a checker has judged traces, answer and trace."""
        checked = "correct_valid" in self.base and not (self.base["correct_valid"].isna().any() or self.rl["correct_valid"].isna().any())
        return {"answer": "correct", **({"answer and trace": "correct_valid"} if checked else {})}


def required(table: pd.DataFrame, name: str, columns: Iterable[str]) -> pd.DataFrame:
    """The table, if it has these columns, else InvalidInput."""
    if missing := [c for c in columns if c not in table]:
        raise InvalidInput(f"The table {name!r} has no column {missing[0]!r}. Give one that `latentreason organisms publish` stacked.")
    return table


def runs_of(counts: pd.DataFrame, organisms: pd.DataFrame | None = None) -> dict[tuple[str, int], Run]:
    """Every organism and seed of the tables, in their order.

    Raises:
        InvalidInput: a column is missing, an arm is, base and RL model were sampled on other problems, a problem stands twice, or facts about an
            organism are missing.
    """
    required(counts, "counts", COUNTED)
    facts = {} if organisms is None else {(str(r["organism"]), int(r["seed"])): r for r in required(organisms, "organisms", STANDING).to_dict("records")}
    found, parts = {}, dict[tuple[str, int], dict[str, pd.DataFrame]]()
    for (organism, seed, arm), part in counts.groupby(["organism", "seed", "arm"], sort=False):
        parts.setdefault((str(organism), int(str(seed))), {})[str(arm)] = part.set_index("problem").sort_index()
    for key, arms in parts.items():
        organism, seed = key
        if missing := {"base", "rl"} - arms.keys():
            raise InvalidInput(f"The counts of {organism!r}, seed {seed}, have no arm {min(missing)!r}: measure base and RL model.")
        if not arms["base"].index.equals(arms["rl"].index) or arms["base"].index.has_duplicates:
            raise InvalidInput(f"Base and RL model of {organism!r}, seed {seed}, were counted on different problems, so they cannot be paired. Measure both on one list.")
        if organisms is not None and key not in facts:
            raise InvalidInput(f"The table 'organisms' says nothing of {organism!r}, seed {seed}: are these tables of another zoo? Stack both anew.")
        found[key] = Run(*key, {str(k): v for k, v in facts.get(key, {}).items()}, arms["base"], arms["rl"])
    return found


def few(facts: Mapping[str, Any]) -> bool:
    """Whether training problems were so few that they came again: as it is stated of a pair, else by the steps of an organism's recipe."""
    stated = facts.get("few")
    return bool(stated) if isinstance(stated, bool | np.bool_) else bool(facts["n_training"] < facts["steps"] * facts["prompts"])


def one_stage(facts: Mapping[str, Any]) -> bool:
    """Whether an organism is one stage of plain RL on problems of the training split."""
    return bool(facts["stages"] == "RLVR" and not facts["external"] and facts["split"] == "train")


def plain(facts: Mapping[str, Any]) -> bool:
    """Whether it is that, on problems like those that it is judged on, and as many as its steps can take."""
    return bool(one_stage(facts) and facts["own_problems"] and not few(facts))


def aside(facts: Mapping[str, Any]) -> str:
    """Why an organism says nothing of what GRPO with the true reward and many problems does to a base; "" where it does, or where nothing is known of it."""
    if not facts:
        return ""
    if facts["stages"] == "SFT":
        return "imitates a teacher"
    if set(str(facts["stages"]).split(" > ")) != {"RLVR"}:
        return f"trained by {facts['stages']}"
    if facts["reward"] != "true":
        return f"reward {facts['reward']}"
    return "on seen problems" if facts["split"] != "train" else "on few problems" if few(facts) else ""


TOLD_BY = ("reward", "external", "split", "own_problems", "n_training", "steps", "prompts")
"""Columns of the table of facts that these read."""


def by_base(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs that share base and problems: what may be compared."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((str(run.facts["base"]), str(run.facts["judged"])), []).append(run)
    return found


def mean(values: np.ndarray, config: Any, share: bool = False) -> Estimate:
    """Mean over problems with the bootstrap interval of `config.n_boot` draws; of a paired difference, a paired interval. `share` as in `stats.summary`."""
    return summary(replicate_weights(len(values), config.n_boot, config.seed) @ aligned({"values": values})["values"], len(values), share=share) if len(values) else undefined("no problems", 0)


def curve(run: Run, arm: str, column: str, ks: Sequence[int], config: Any) -> PassCurve:
    """pass@k of one arm, by a column of counts. Raises InvalidInput where there are fewer samples than the largest k."""
    table = run.base if arm == "base" else run.rl
    return pass_at_k_curve(table[column].to_numpy(int), table["n"].to_numpy(int), ks, n_boot=config.n_boot, seed=config.seed)


def replicates(found: PassCurve) -> np.ndarray:
    """The curve as [replicate, k]: the estimates, then the draws."""
    return np.vstack([[e.value for e in found.estimates], found.draws])


def area(found: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Coverage area of replicates of a curve: the mean of pass@k over log k, from 1 to the largest."""
    return np.asarray(np.trapezoid(found, np.log2(ks), axis=1) / np.log2(ks[-1]))


def powers(largest: int) -> list[int]:
    """1, 2, 4, ... up to the largest k."""
    if largest < 2:
        raise InvalidInput(f"A curve of pass@k needs max_k of at least 2, found {largest}.")
    return [2**i for i in range(largest.bit_length())]


def across(found: Mapping[int, Estimate], *, share: bool = False) -> Estimate:
    """One estimate over training seeds. Of one seed it is that seed's own, with a caveat; a seed that is undefined is left out, and said.

    Of a `share` the interval ends at 0 and 1: nothing beyond is possible, so it covers as much.
    """
    from scipy.special import stdtrit

    known = {seed: e for seed, e in found.items() if e.defined}
    lost = "; ".join(dict.fromkeys(e.reason for e in found.values() if not e.defined))
    note = f"{len(found) - len(known)} of {len(found)} seeds undefined: {lost}" if lost else ""
    if not known:
        return undefined(lost or "no seeds", 0)
    if len(known) == 1:
        (only,) = known.values()
        said = "one seed: the interval, of problems, does not cover the training" if math.isfinite(only.lo) else "one seed: no interval"
        return Estimate(only.value, only.lo, only.hi, only.n, only.method, "; ".join(part for part in (said, note) if part))
    values = np.array([e.value for e in known.values()])
    if not np.isfinite(values).all():
        return Estimate(float(np.median(values)), float(values.min()), float(values.max()), len(values), f"median and range of {len(values)} seeds", "infinite in a seed" + (f"; {note}" if note else ""))
    half = float(stdtrit(len(values) - 1, 0.975)) * values.std(ddof=1) / math.sqrt(len(values))
    ends = [np.array([abs(e.value - getattr(e, end)) for e in known.values()], dtype=float) for end in ("lo", "hi")]
    below, above = (float(np.nanmean(each)) if np.isfinite(each).any() else 0.0 if np.isnan(each).all() else math.inf for each in ends)
    within = " and the intervals of problems within them, in quadrature" if below or above else ""
    lo, hi = float(values.mean() - math.hypot(half, below)), float(values.mean() + math.hypot(half, above))
    return Estimate(
        float(values.mean()), max(lo, 0.0) if share else lo, min(hi, 1.0) if share else hi, len(values),
        f"Student t over {len(values)} seeds of training{within}, 95%", note,
    )  # fmt: skip


def seeded(quantity: str, found: Mapping[int, Estimate], **where: Any) -> list[dict[str, Any]]:
    """Rows of a result: one a seed, and one over all."""
    return [*(rows(quantity, e, seed=str(seed), **where) for seed, e in found.items()), rows(quantity, across(found), seed=ALL, **where)]


def seeded_share(quantity: str, found: Mapping[int, Estimate], **where: Any) -> list[dict[str, Any]]:
    """As `seeded`, of what lies between 0 and 1."""
    return [*seeded(quantity, found, **where)[:-1], rows(quantity, across(found, share=True), seed=ALL, **where)]


def bare(value: float, n: int, reason: str = "no interval within a seed") -> Estimate:
    """A number without an interval."""
    return Estimate(value, math.nan, math.nan, n, "point", reason) if math.isfinite(value) else undefined("not measured", n)


def finished(study: str, config: Any, table: list[dict[str, Any]], details: dict[str, Any]) -> Result:
    """The result, which says nothing yet; a label that a row does not have is an empty text."""
    made = pd.DataFrame(table)
    numbers = {"value", "lo", "hi", "n"}
    labels = [c for c in made if c not in numbers and not pd.api.types.is_numeric_dtype(made[c])]
    return Result(study, asdict(config), made.fillna(dict.fromkeys(labels, "")), details)


def without(study: str, config: Any, quantity: str, why: str, train: Sequence[str]) -> Result:
    """The result of a study whose organisms are not in the tables."""
    reason = f"{why}: train and measure {', '.join(train)} (latentreason organisms train NAME, then measure NAME, then publish)"
    return finished(study, config, [rows(quantity, undefined(reason, 0), seed=ALL)], {"reason": reason, "n_seeds": 0}).saying([f"Undefined: {reason}."])


def rows_of(result: Result, quantity: str, **where: Any) -> list[dict[str, Any]]:
    """Rows of a result as plain data, for `drawn`."""
    part = result.table[result.table["quantity"] == quantity]
    for column, value in where.items():
        part = part[part[column] == value]
    return [{str(k): v for k, v in row.items()} for row in part.to_dict("records")]


def measured(curves: pd.DataFrame, run: Run, column: str) -> pd.DataFrame:
    """Steps (those of several stages one after the other) at which a run measured a column of its training curve: columns step, value. Where the curve says
    which steps it is of (`at`: of kept weights), these; else the first is 1.
    """
    part = curves[(curves["organism"] == run.organism) & (curves["seed"] == run.seed)]
    if column not in part:
        return pd.DataFrame({"step": [], "value": []}, dtype=float)
    part = part[part[column].notna()]
    return pd.DataFrame({"step": steps_at(part), "value": part[column].to_numpy(float)})


def last_of(n: int, window: int) -> int:
    """How many of the last values of a curve of n are averaged: never so many that its beginning is among them."""
    return max(1, min(window, n // 2))


def steps_at(part: pd.DataFrame) -> np.ndarray:
    """The step of each row of a curve: as it says (`at`), else counted from 1."""
    stated = part["at"].to_numpy(float) if "at" in part else np.full(len(part), np.nan)
    return stated if len(part) and np.isfinite(stated).all() else np.arange(1, len(part) + 1)


def ends(found: pd.DataFrame, window: int = 3) -> Iterator[tuple[str, float]]:
    """What a curve begins with (its first value), and ends with (the mean of its last `window` values, of a short curve fewer), and the change."""
    first = float(found["value"].iloc[0]) if len(found) else math.nan
    last = float(found["value"].iloc[-last_of(len(found), window) :].mean()) if len(found) > 1 else math.nan
    yield from (("first", first), ("last", last), ("change", last - first))
