"""Study `formats`: does RL converge on one trace format of pretraining, and on which?

Claim (Zhao et al. 2025, arXiv 2504.07912, "Echo Chamber"): RL amplifies one format of the pretraining mixture, within its first steps, and suppresses
the others; which one depends on the mixture and on the size of the model.

Formula: share of each format among the rollouts of a step; entropy H = -sum p ln p (nats) and effective number exp(H) of formats. A run has converged where one
format has `passes` of the rollouts of its last `window` steps; the step at which the winner got there is the first at which it has as much of those of as many steps, since
one step is noisy. Its interval goes from the first at which Wilson's upper bound reaches that share to the first at which the lower one does (rollouts
count as independent, which those of one prompt are not). Every run counts that is one stage of plain RL on a corpus of several formats and whose pass rate in training rose by
`learnt` (where it was measured): of what learns nothing nothing is amplified.

Refuted where the upper bound of the share of converged runs is below one half; "early" where they converge only after half of their steps; "the pretraining mixture
decides" where the winner is as often another as the corpus's leading format, which is told by leader, too.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.stats import Estimate, undefined, wilson
from latentreason.studies.palette import OTHERS
from latentreason.studies.result import Result, rows
from latentreason.studies.stacked import (
    ALL,
    STANDING,
    TOLD_BY,
    bare,
    finished,
    last_of,
    plain,
    required,
    rows_of,
    seeded,
    seeded_share,
    steps_at,
    without,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN = ("activation-small", "formats-small-think", "formats-small-code")
PREFIX = "format/"


@dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        passes: share of the rollouts at which one format has won.
        window: steps whose rollouts are taken together, also for what RL ends with.
        learnt: rise of the pass rate in training below which a run is told apart.
        least_prior: organisms count whose corpus holds at least two formats with this share.
        organisms: that are looked at; none for all that meet the above.
    """

    passes: float = 0.9
    window: int = 3
    learnt: float = 0.1
    least_prior: float = 0.1
    organisms: tuple[str, ...] = ()


def run(*, organisms: pd.DataFrame, curves: pd.DataFrame, config: Config = Config()) -> Result:
    """Shares, entropy and effective number of formats over RL steps, and the step at which one format passes.

    Args:
        organisms, curves: stacked tables of the zoo.
        config: settings.

    Raises:
        InvalidInput: tables without their columns.
    """
    required(organisms, "organisms", (*STANDING, *TOLD_BY, "group", "parameters"))
    required(curves, "curves", ("organism", "seed"))
    names = [c.removeprefix(PREFIX) for c in map(str, curves) if c.startswith(PREFIX)]
    chosen = [(f, *_shares(curves, f, names)) for f in organisms.to_dict("records") if _chosen(f, names, config)]
    idle = [f"{f['organism']}, seed {f['seed']}" for f, shares, _ in chosen if len(shares) and _rise(curves, f, config.window) < config.learnt]
    runs = [(f, shares, steps) for f, shares, steps in chosen if len(shares) and f"{f['organism']}, seed {f['seed']}" not in idle]
    if not runs:
        why = f"the pass rate in training did not rise by {config.learnt:g} (Config.learnt) in {', '.join(idle)}" if idle else "no organism with several formats has a curve of their shares"
        return without("formats", config, "passes_at", why, TRAIN)
    table: list[dict[str, Any]] = []
    lines, seeds = [], dict[str, dict[int, dict[str, Estimate]]]()
    for f, shares, steps in runs:
        prior = {name: float(f.get(f"prior/{name}", math.nan)) for name in names}
        if lost := [name for c, share in f.items() if (name := str(c).removeprefix("prior/")) != c and name not in names and share > 0]:
            raise InvalidInput(f"The corpus of {f['organism']!r} holds the format {lost[0]!r}, of which the table 'curves' has no column {PREFIX + lost[0]!r}: without it shares are of the others alone.")
        last = dict(zip(names, np.nan_to_num(shares[-(window := last_of(len(shares), config.window)) :]).mean(0).tolist(), strict=True))
        entropies = np.array([_entropy(row) for row in shares])
        winner, leader = max(last, key=lambda n: last[n]), max(prior, key=lambda n: prior[n])
        lines.append({
            "organism": f["organism"], "seed": str(f["seed"]), "parameters": int(f["parameters"]), "leader": leader, "winner": winner, "converged": last[winner] >= config.passes,
            "prior": prior, "last": last, "shares": shares.T.tolist(),
            "entropy": entropies.tolist(), **({} if steps[0] == 1 else {"steps": steps.tolist()}),
        })  # fmt: skip
        measured = {f"last_share {name}": bare(value, 1) for name, value in last.items()}
        measured |= {"effective_first": bare(math.exp(entropies[0]), 1), "effective_last": bare(math.exp(entropies[-window:].mean()), 1), "prior_of_winner": bare(prior[winner], 1)}
        measured["passes_at"] = passes_at(shares[:, names.index(winner)], _rollouts(f), config.passes, steps, window)
        seeds.setdefault(str(f["organism"]), {})[int(f["seed"])] = measured
    for organism, by_seed in seeds.items():
        for quantity in next(iter(by_seed.values())):
            kind, _, name = quantity.partition(" ")
            table += (seeded_share if kind in ("last_share", "prior_of_winner") else seeded)(kind, {s: found[quantity] for s, found in by_seed.items()}, organism=organism, format=name)
    size = {line["organism"]: line["parameters"] for line in lines}
    median = float(np.median(list(size.values())))
    for group, members in (("all", lines), ("small", [x for x in lines if x["parameters"] <= median]), ("large", [x for x in lines if x["parameters"] > median])):
        ended = [(x, seeds[x["organism"]][int(x["seed"])]["passes_at"].value) for x in members if x["converged"]]
        table.append(rows("converged", wilson(len(ended), len(members)), seed=ALL, size=group))
        table.append(rows("early", wilson(sum(step <= x.get("steps", [len(x["entropy"])])[-1] / 2 for x, step in ended), len(ended)), seed=ALL, size=group))
        table.append(rows("winner_is_leader", _leads(members), seed=ALL, size=group))
        table += [rows("leader_wins", _leads([x for x in members if x["leader"] == name]), seed=ALL, size=group, format=name) for name in names if any(x["leader"] == name for x in members)]
    details: dict[str, Any] = {"formats": names, "runs": lines, "n_runs": len(lines), "n_seeds": len({x["seed"] for x in lines})}
    details |= {"one_rate": len({float(f["lr"]) for f, *_ in runs if math.isfinite(f.get("lr", math.nan))}) < 2, "lost": [f"{f['organism']}, seed {f['seed']}" for f, shares, _ in chosen if not len(shares)], "idle": idle}
    details |= {"leader_of": "base"} if any(f.get("prior_from") == "base" for f, *_ in runs) else {}
    result = finished("formats", config, table, details)
    return result.saying(_said(result, config))


def _chosen(f: dict[Any, Any], names: list[str], config: Config) -> bool:
    """One stage of plain RL with the true reward, on a corpus of several formats."""
    several = sum(f.get(f"prior/{name}", 0.0) >= config.least_prior for name in names) > 1
    return (f["organism"] in config.organisms or not config.organisms) and plain(f) and f["reward"] == "true" and several


def _shares(curves: pd.DataFrame, f: dict[Any, Any], names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """[step, format] of the steps that drew rollouts; and which steps these are."""
    part = curves[(curves["organism"] == f["organism"]) & (curves["seed"] == f["seed"])]
    part = part.dropna(how="all", subset=[PREFIX + name for name in names])
    return part[[PREFIX + name for name in names]].to_numpy(float), steps_at(part)


def _rise(curves: pd.DataFrame, f: dict[Any, Any], window: int) -> float:
    """By how much the pass rate in training rose; NaN where it was not measured."""
    if "pass_rate" not in curves:
        return math.nan
    rate = curves.loc[(curves["organism"] == f["organism"]) & (curves["seed"] == f["seed"]), "pass_rate"].dropna()
    n = last_of(len(rate), window)
    return float(rate.iloc[-n:].mean() - rate.iloc[:n].mean()) if len(rate) > 1 else math.nan


def _rollouts(f: dict[Any, Any]) -> int:
    """Rollouts of a point of the curve: as stated of a pair, else those of a step of an organism's training."""
    stated = f.get("rollouts", math.nan)
    return int(stated if math.isfinite(stated) else f["prompts"] * f["group"])


def _leads(runs: list[dict[str, Any]]) -> Estimate:
    return wilson(sum(run["winner"] == run["leader"] for run in runs), len(runs))


def _entropy(shares: np.ndarray) -> float:
    """Nats, of the shares as they are among the rollouts that have a format."""
    p = shares[shares > 0] / max(shares[shares > 0].sum(), 1e-12)
    return float(-(p * np.log(p)).sum())


def passes_at(share: np.ndarray, n: int, passes: float, steps: np.ndarray | None = None, window: int = 1) -> Estimate:
    """First step (from 1) at which a format has so much of the rollouts of the last `window` steps; undefined where it never has.

    Args:
        share: of the format, by step.
        n: rollouts of a step.
        passes: the share.
        steps: that the shares are of; None for 1, 2, 3 and so on.
        window: steps whose rollouts are taken together.
    """
    steps = (np.arange(1, len(share) + 1) if steps is None else steps)[window - 1 :]
    top = np.lib.stride_tricks.sliding_window_view(share, window).mean(axis=-1)
    bounds = [wilson(round(value * n * window), n * window) for value in top]
    firsts = [next((float(step) for step, value in zip(steps, values, strict=True) if value >= passes), math.inf) for values in ([b.hi for b in bounds], top, [b.lo for b in bounds])]
    if math.isinf(firsts[1]):
        return undefined(f"it never has {passes:.0%}: at most {top.max():.0%}, in {len(share)} steps", len(share))
    return Estimate(float(firsts[1]), float(firsts[0]), float(firsts[2]), len(share), f"first step; Wilson 95% over the {n * window} rollouts of {window} step{'s' * (window > 1)}")


def _said(result: Result, config: Config) -> list[str]:
    converged, early, leads = (result.estimate(q, size="all") for q in ("converged", "early", "winner_is_leader"))
    n = result.details["n_runs"]
    firsts = [result.estimate("passes_at", organism=x["organism"], seed=x["seed"]).value for x in result.details["runs"] if x["converged"]]
    when = f", at step {np.median(firsts):g} (median), in the first half of the steps in {early} of them" if firsts else ""
    seen = "refutes" if converged.hi < 0.5 else "supports" if converged.lo > 0.5 else "neither supports nor refutes"
    whose = "base" if result.details.get("leader_of") == "base" else "corpus"  # of a pair of somebody's nobody knows the corpus
    mixture = f"The {whose}'s leading format wins" if leads.lo > 0.5 else f"The {whose}'s leading format mostly loses" if leads.hi < 0.5 else f"Whether the {whose}'s leading format wins is open"
    by_leader = [f"{r['format']} {_count(r)}" for r in rows_of(result, "leader_wins", size="all")]
    sizes = [f"{r['size']} {_count(r)}" for size in ("small", "large") for r in rows_of(result, "converged", size=size) if r["n"]]
    lost, idle = result.details["lost"], result.details["idle"]
    return [
        f"RL ends with {config.passes:.0%} of its rollouts in one format in {converged} of {n} runs{when}, which {seen} convergence on one format (an upper bound below one half refutes it).",
        f"{mixture} ({leads} of the runs; an upper bound below one half refutes that the mixture decides)" + (f"; where it is {', '.join(by_leader)}." if len(by_leader) > 1 else "."),
        f"By size, runs that converge: {', '.join(sizes)}{'' if result.details['one_rate'] else '; learning rates differ, so size alone is not compared'}." if len(sizes) > 1 else "",
        f"Without formats in the curve, and so not counted: {'; '.join(lost)}." if lost else "",
        f"Their pass rate did not rise by {config.learnt:g}, so they are not counted: {'; '.join(idle)}." if idle else "",
    ]


def _count(row: dict[str, Any]) -> str:
    return f"{round(row['value'] * row['n'])} of {row['n']:.0f} [{row['lo']:.2f}, {row['hi']:.2f}]"


def drawn(result: Result) -> list[dict[str, Any]]:
    """What `plot` draws: the shares of each run."""
    found: list[dict[str, Any]] = result.details.get("runs", [])
    return found


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """Effective number of formats over RL steps, a line a run, coloured by the format that it ends on; dashed: the larger models."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    runs = drawn(result)
    if not runs:
        ax.text(0.5, 0.5, result.finding, ha="center", va="center", wrap=True, transform=ax.transAxes)
        return ax
    names, smallest = result.details["formats"], min(r["parameters"] for r in runs)
    for r in runs:
        colour = OTHERS[names.index(r["winner"]) % len(OTHERS)]
        ax.plot(r.get("steps", range(1, len(r["entropy"]) + 1)), np.exp(r["entropy"]), "-" if r["parameters"] == smallest else "--", color=colour, alpha=0.8, linewidth=1.2)
    for name in sorted({r["winner"] for r in runs}, key=names.index):
        ax.plot([], [], color=OTHERS[names.index(name) % len(OTHERS)], label=f"ends on {name}")
    if len({r["parameters"] for r in runs}) > 1:
        ax.plot([], [], "--", color="0.3", label=f"more than {smallest / 1e6:.1f}M parameters")
    ax.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    ax.set(xlabel="RL step", ylabel="effective number of trace formats", ylim=(0.9, None))
    ax.legend(frameon=False, fontsize=8)
    return ax
