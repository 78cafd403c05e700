"""Study `one_shot`: how much of the gain needs more than one training problem?

Claim (Wang et al. 2025, arXiv 2504.20571): RLVR on a single problem, repeated, brings most of what the whole training set brings, so that what it
teaches was there before.

Formula: gain(n) = accuracy of RL minus base on test problems, where the training problems are n different ones; share(n) = gain(n) / gain of the full
set, same base and seed, paired by problem. Spread over the problem chosen: standard deviation of the shares of n = 1 within a seed, lowest
and highest. Beside it what the next larger number of problems adds to share(1), paired by problem.

Refuted where the interval of share(1) lies below `most`.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.stats import Estimate, gap_difference, gap_recovered, undefined
from latentreason.studies.palette import ARMS
from latentreason.studies.result import Result, rows
from latentreason.studies.stacked import ALL, Run, bare, by_base, few, finished, mean, one_stage, plain, rows_of, runs_of, seeded, without

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN = ("one-shot-a", "one-shot-b", "one-shot-c", "few-shot-8", "activation-small")


@dataclass(frozen=True)
class Config:
    """Settings; `most` is the share of the full set's gain that counts as "most of it"."""

    most: float = 0.5
    n_boot: int = 2000
    seed: int = 0


def run(*, organisms: pd.DataFrame, counts: pd.DataFrame, config: Config = Config()) -> Result:
    """Gain and share by number of training problems, and the spread over the problem chosen.

    Args:
        organisms, counts: stacked tables of the zoo.
        config: settings.

    Raises:
        InvalidInput: tables without their columns, or of different organisms.
    """
    for group in by_base(runs_of(counts, organisms).values()).values():
        full = {r.seed: r for r in group if plain(r.facts) and r.facts["reward"] == "true"}
        small = [r for r in group if one_stage(r.facts) and r.facts["reward"] == "true" and few(r.facts)]
        if any(r.facts["n_training"] == 1 for r in small):
            return _measured(full, small, config)
    return without("one_shot", config, "share", "no organism was trained on a single problem", TRAIN)


def _measured(full: dict[int, Run], small: list[Run], config: Config) -> Result:
    table: list[dict[str, Any]] = []
    sizes = sorted({int(r.facts["n_training"]) for r in small})
    trained = {size: [r for r in small if r.facts["n_training"] == size] for size in sizes}
    if full:
        trained[int(next(iter(full.values())).facts["n_training"])] = list(full.values())
    largest = max(trained)
    table += _by_number(trained, full, config)
    for size, runs in trained.items():
        where = {"n_training": size, "problems": "all" if full and size == largest else str(size)}
        seeds = sorted({r.seed for r in runs})
        of = {s: [r for r in runs if r.seed == s] for s in seeds}
        table += seeded("gain", {s: mean(np.mean([r.rates("rl") for r in each], axis=0) - each[0].rates("base"), config) for s, each in of.items()}, **where)
        table += [rows("gain_of_run", mean(r.rates("rl") - r.rates("base"), config), seed=str(r.seed), organism=r.organism, **where) for r in runs]
        if not full or size < largest:
            table += seeded("share", {s: _share(each, full.get(s), config) for s, each in of.items()}, **where)
            shares = {(r.organism, r.seed): _share([r], full.get(r.seed), config) for r in runs}
            table += [rows("share_of_run", e, seed=str(seed), organism=organism, **where) for (organism, seed), e in shares.items()]
            table += _spread({s: [shares[r.organism, s].value for r in each] for s, each in of.items()}, where)
    first = next(iter(trained[sizes[0]]))
    details = {"n_problems": len(first.base), "n_seeds": len({r.seed for r in small}), "organisms": sorted({r.organism for r in small})}
    details["one_rate"] = len({rate for each in trained.values() for r in each if np.isfinite(rate := float(r.facts.get("lr", math.nan)))}) < 2
    result = finished("one_shot", config, table, details)
    return result.saying(_said(result, config))


def _by_number(trained: dict[int, list[Run]], full: dict[int, Run], config: Config) -> list[dict[str, Any]]:
    """Share of the next larger number of problems minus that of the smallest, paired by problem."""
    smallest, *larger = sorted(size for size in trained)
    if not full or len(larger) < 2:  # the largest is the full set
        return []
    rates = {size: {s: np.mean([r.rates("rl") for r in trained[size] if r.seed == s], axis=0) for s in {r.seed for r in trained[size]}} for size in (smallest, larger[0])}
    both = sorted(rates[smallest].keys() & rates[larger[0]].keys() & full.keys())
    gaps = {s: gap_difference(full[s].rates("base"), full[s].rates("rl"), rates[larger[0]][s], rates[smallest][s], n_boot=config.n_boot, seed=config.seed) for s in both}
    return seeded("by_number", gaps, n_training=larger[0], problems=str(larger[0])) if gaps else []


def _share(runs: list[Run], full: Run | None, config: Config) -> Estimate:
    if full is None:
        return undefined("the full set was not trained with this seed: train activation-small", len(runs[0].base))
    return gap_recovered(full.rates("base"), full.rates("rl"), np.mean([r.rates("rl") for r in runs], axis=0), n_boot=config.n_boot, seed=config.seed)


def _spread(shares: dict[int, list[float]], where: dict[str, Any]) -> list[dict[str, Any]]:
    """Standard deviation within seeds (pooled), lowest and highest share of a run."""
    known = {s: [v for v in values if np.isfinite(v)] for s, values in shares.items()}
    pooled = [(len(v) - 1, float(np.var(v, ddof=1))) for v in known.values() if len(v) > 1]
    every = [v for values in known.values() for v in values]
    if not pooled:
        return [rows("spread", undefined("the spread over problems needs two of them in one seed", len(every)), seed=ALL, **where)]
    deviation = float(np.sqrt(sum(df * v for df, v in pooled) / sum(df for df, _ in pooled)))
    found = {"spread": deviation, "lowest": min(every), "highest": max(every)}
    return [rows(name, bare(value, len(every), f"of {len(every)} runs"), seed=ALL, **where) for name, value in found.items()]


def _said(result: Result, config: Config) -> list[str]:
    one = result.table[(result.table["quantity"] == "share") & (result.table["seed"] == ALL)]["n_training"].min()
    share, spread = result.estimate("share", seed=ALL, n_training=one), result.estimate("spread", seed=ALL, n_training=one)
    if not share.defined:
        return [f"Undefined: {share.reason}."]
    seen = "refutes" if share.hi < config.most else "supports" if share.lo >= config.most else "neither supports nor refutes"
    who = "One training problem brings" if one == 1 else f"{one} training problems bring"
    first = f"{who} {share} of the gain of the full set, which {seen} that it brings most of it (an upper bound below {config.most:g} refutes it)."
    if not spread.defined:
        return [first]
    low, high = (result.estimate(q, seed=ALL, n_training=one).value for q in ("lowest", "highest"))
    more = [first, f"Over the problem chosen the share has a standard deviation of {spread.value:.2f} within a seed, from {low:.2f} to {high:.2f} in {spread.n} runs."]
    for row in rows_of(result, "by_number", seed=ALL):
        added = result.estimate("by_number", seed=ALL, n_training=row["n_training"])
        more.append(f"{row['n_training']:.0f} problems in place of {one} add {added}{_rates(result)}.")
    return more


def _rates(result: Result) -> str:
    return "" if result.details["one_rate"] else " (learning rates differ with the number)"


def drawn(result: Result) -> list[dict[str, Any]]:
    """What `plot` draws: the gain by number of training problems, over seeds and of each run."""
    return [*rows_of(result, "gain", seed=ALL), *rows_of(result, "gain_of_run")]


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """Gain against the number of training problems: dots with their interval over seeds, small dots the runs."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    found = drawn(result)
    if not found:
        ax.text(0.5, 0.5, result.finding, ha="center", va="center", wrap=True, transform=ax.transAxes)
        return ax
    whole = [r for r in found if r["quantity"] == "gain"]
    names = sorted({r["organism"] for r in found if r["organism"]})
    ax.plot([r["n_training"] for r in whole], [r["value"] for r in whole], "o-", color=ARMS["rl"], label="mean over problems and seeds")
    for r in whole:
        if np.isfinite(r["lo"]):
            ax.plot([r["n_training"]] * 2, [r["lo"], r["hi"]], color=ARMS["rl"])
    for r in (r for r in found if r["quantity"] == "gain_of_run"):
        ax.plot([r["n_training"] * 1.12], [r["value"]], "^sDv<>p*"[names.index(r["organism"]) % 8], color=ARMS["control"], markersize=4)
    for i, name in enumerate(names):
        ax.plot([], [], "^sDv<>p*"[i % 8], color=ARMS["control"], markersize=4, label=name)
    ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    ax.set_xscale("log")
    ax.set_xticks([r["n_training"] for r in whole], [r["problems"] if r["problems"] != "all" else f"all ({r['n_training']:g})" for r in whole])
    ax.minorticks_off()
    ax.set(xlabel="different training problems", ylabel="gain in accuracy at T=1 (RL minus base)")
    ax.legend(frameon=False, fontsize=8)
    return ax
