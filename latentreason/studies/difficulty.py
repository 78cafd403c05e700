"""Study `difficulty`: what do training problems that are too hard do, and to which problems?

Claim (arXiv 2605.28388): RLVR on easy and medium problems gains; on over-hard ones it reinforces answers without computation (repeated answers, skipped
steps), and damages what the model could do.

Formulas. Effect = accuracy of RL minus base in bins of the base's pass rate (bins from the first half of the base's samples, effect from the
second, so that chance does not sort itself into a gain), of every organism that GRPO trained with the true reward. By the same bins, and over all: repetition, skipped
operations, length. Over kept weights: accuracy, and the mean projection of activations at choices, read along the base's own traces, on the base's strategy vectors (in scales
of the vector, from the base's mean), beside that on a random direction; a vector of which two halves of the problems disagree (cosine below `reliable`) is left out.
Advantage of c right among the G of a group, as the trainer takes it (trl: the sample deviation):
A = (1 - p) / (sqrt(p (1 - p) G / (G - 1)) + 1e-4), p = c / G; a lone success of 16 has 3.75, with the population deviation sqrt((1 - p) / p) = 3.87.
Reinforced: share of that advantage, summed over right samples, that goes to valid traces.

Harm is refuted where the interval of an organism's gain, trained on problems that its base solves in less than `over_hard` of the samples, is above 0; where the base
solves less than `to_lose` of the judged problems, harm cannot show. The shortcut is refuted where its lone successes are mostly valid traces.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.errors import InvalidInput
from latentreason.stats import Estimate, pooled_ratio, undefined, wilson
from latentreason.studies.palette import OTHERS
from latentreason.studies.result import Result, rows
from latentreason.studies.stacked import (
    ALL,
    COUNTED,
    TOLD_BY,
    Run,
    across,
    aside,
    finished,
    mean,
    required,
    rows_of,
    runs_of,
    seeded,
    seeded_share,
    without,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN = ("too-hard", "activation-small", "collapsed")
MOST = 4
"""Organisms whose bins are drawn."""
HABITS = {"repetition": "repetition", "skipped": "skipped", "answers_again": "answers_again", "length": "n_tokens", "direct": "format/direct"}
"""Quantity -> column of the counts; the last three are sums over the samples."""
MEANS = ("repetition", "skipped")
FEW = 10
"""Lone successes below which nothing is said of them."""
EPSILON = 1e-4
"""What trl adds to the deviation of a group."""


@dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        organisms: those whose bins are looked at, none for all that GRPO trained with the true reward; all with training problems of their own stand in the comparison of trainings.
        edges: of the bins of the base's pass rate.
        over_hard: base pass rate on training problems below which they are over-hard.
        to_lose: base pass rate on the judged problems below which harm cannot show.
        reliable: cosine between the vectors of two halves of the problems from which on projections on the whole are looked at.
    """

    organisms: tuple[str, ...] = ()
    edges: tuple[float, ...] = (0.02, 0.25, 0.75)
    over_hard: float = 0.02
    to_lose: float = 0.05
    reliable: float = 0.8
    n_boot: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InvalidInput unless the edges ascend between 0 and 1."""
        if list(self.edges) != sorted(set(self.edges)) or not all(0 < e < 1 for e in self.edges):
            raise InvalidInput(f"Edges of bins must ascend between 0 and 1, found {self.edges}.")

    @property
    def bins(self) -> list[str]:
        """Names of the bins, hardest first."""
        cuts = [0.0, *self.edges, 1.0]
        return [f"{100 * a:g} to {100 * b:g}%" for a, b in pairwise(cuts)]


def run(
    *, organisms: pd.DataFrame, counts: pd.DataFrame, training: pd.DataFrame | None = None, kept: pd.DataFrame | None = None, projections: pd.DataFrame | None = None,
    config: Config = Config(),
) -> Result:  # fmt: skip
    """Effects by difficulty of the judged problems, gains by difficulty of the training problems, and what lone successes reinforce.

    Args:
        organisms, counts: stacked tables of the zoo.
        training: groups on training problems, of the base and of kept weights.
        kept: counts of kept weights; their step 0 is the base.
        projections: of activations on strategy vectors, of kept weights.
        config: settings.

    Raises:
        InvalidInput: tables without their columns, or of different organisms.
    """
    runs = runs_of(required(counts, "counts", (*COUNTED, "correct_first")), required(organisms, "organisms", TOLD_BY))
    chosen = [r for r in runs.values() if (r.organism in config.organisms if config.organisms else not aside(r.facts))]
    if not chosen:
        return without("difficulty", config, "effect", f"none of {', '.join(config.organisms)} has been measured" if config.organisms else "no organism was trained by RL with the true reward", TRAIN)
    table: list[dict[str, Any]] = []
    details: dict[str, Any] = {"bins": config.bins, "n_problems": len(chosen[0].base), "n_seeds": len({r.seed for r in chosen}), "kept": [], "projections": [], "unreliable": [], "trainings": []}
    for organism in dict.fromkeys(r.organism for r in chosen):
        of = {r.seed: r for r in chosen if r.organism == organism}
        for habit, column in HABITS.items():
            if all(column in r.base for r in of.values()):
                table += seeded(f"{habit}_change", {s: mean(_habit(r, "rl", column) - _habit(r, "base", column), config) for s, r in of.items()}, organism=organism, bin=ALL)
        steady = None if projections is None else _reliable(required(projections, "projections", ("organism", "seed", "stage", "step", "label", "problem", "value")).reindex(columns=[*dict.fromkeys([*projections, "random", "reliability"])]), organism, config, details)
        for i, name in enumerate(config.bins):
            where = {"organism": organism, "bin": name}
            inside = {s: _bin_of(r, config) == i for s, r in of.items()}
            table += seeded("effect", {s: mean((r.rates("rl") - _second_half(r))[inside[s]], config) for s, r in of.items()}, **where)
            for habit, column in HABITS.items():
                if all(column in r.base for r in of.values()):
                    table += seeded(f"{habit}_change", {s: mean((_habit(r, "rl", column) - _habit(r, "base", column))[inside[s]], config) for s, r in of.items()}, **where)
            if kept is not None:
                details["kept"] += _over_steps(required(kept, "kept", ("organism", "seed", "stage", "step", "problem", "n", "correct")), of, inside, where)
            if steady is not None:
                found, changes = _projected(steady, of, inside, where, config)
                details["projections"] += found
                table += changes
    if training is not None:
        required(training, "training", ("organism", "seed", "stage", "step", "problem", "n", "correct", "correct_valid"))
        table += _trainings(runs, training, {r.organism for r in chosen}, config, details)
    result = finished("difficulty", config, table, details)
    return result.saying(_said(result, config))


def advantage(c: np.ndarray, group: np.ndarray, scale: str = "group") -> np.ndarray:
    """Advantage of a right sample (reward 1) in a group in which c of `group` are right, as trl takes it; 0 where all or none are.

    >>> advantage(np.array([1, 8]), np.array([16, 16])).round(2).tolist()
    [3.75, 0.97]
    """
    p = c / group
    centred = np.where((c > 0) & (c < group), 1.0 - p, 0.0)
    deviation = np.sqrt(p * (1.0 - p) * group / np.maximum(group - 1, 1))
    return np.asarray(centred / (deviation + EPSILON) if scale == "group" else centred)


def _bin_of(run: Run, config: Config) -> np.ndarray:
    """Bin of each problem, by the first half of the base's samples."""
    half = (run.base["n"] // 2).to_numpy(float)
    found: np.ndarray = np.searchsorted(config.edges, run.base["correct_first"].to_numpy(float) / half, side="right")
    return found


def _second_half(run: Run) -> np.ndarray:
    base = run.base
    found: np.ndarray = ((base["correct"] - base["correct_first"]) / (base["n"] - base["n"] // 2)).to_numpy(float)
    return found


def _habit(run: Run, arm: str, column: str) -> np.ndarray:
    table = run.base if arm == "base" else run.rl
    return table[column].to_numpy(float) / (1.0 if column in MEANS else table["n"].to_numpy(float))


def _over_steps(kept: pd.DataFrame, of: dict[int, Run], inside: dict[int, np.ndarray], where: dict[str, Any]) -> list[dict[str, Any]]:
    """Mean accuracy in a bin at each kept step, over seeds."""
    part, found = kept[kept["organism"] == where["organism"]], []
    for stage, step in sorted(set(zip(part["stage"].astype(int), part["step"].astype(int), strict=True))):
        group, values = part[(part["stage"] == stage) & (part["step"] == step)], {}
        for s, r in of.items():
            mine = group[group["seed"] == s].set_index("problem")
            mine = mine[mine.index.isin(r.base.index[inside[s]])]
            values[s] = float((mine["correct"] / mine["n"]).mean()) if len(mine) else float("nan")
        known = [v for v in values.values() if np.isfinite(v)]
        found.append({**where, "stage": stage, "step": step, "value": float(np.mean(known)) if known else float("nan"), "seeds": {str(s): v for s, v in values.items()}})
    return found


def _reliable(table: pd.DataFrame, organism: str, config: Config, details: dict[str, Any]) -> pd.DataFrame:
    """The rows of an organism whose vector two halves of the problems agree on, seed by seed; of the others the label stands in the details, NaN where nobody measured it."""
    part = table[table["organism"] == organism]
    weak = part[~(part["reliability"] >= config.reliable)].groupby(["label", "seed"])["reliability"].mean().reset_index()
    details["unreliable"] += [{"organism": organism, "label": r["label"], "seed": str(r["seed"]), "reliability": float(r["reliability"])} for r in weak.to_dict("records")]
    return part[part["reliability"] >= config.reliable]


def _projected(part: pd.DataFrame, of: dict[int, Run], inside: dict[int, np.ndarray], where: dict[str, Any], config: Config) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Mean projection in a bin at each kept step; and its change from the base to the last one, paired by problem, beside that along a random direction."""
    found, changes = list[dict[str, Any]](), list[dict[str, Any]]()
    for label, group in part.groupby("label"):
        wide, aside = (_by_step(group, of, inside, column) for column in ("value", "random"))
        for at in sorted({c for w in wide.values() for c in w.columns}):
            means = {s: float(w[at].mean()) for s, w in wide.items() if at in w}
            found.append({**where, "label": label, "stage": int(at[0]), "step": int(at[1]), "value": float(np.mean(list(means.values()))), "seeds": {str(s): v for s, v in means.items()}})
        for quantity, each in (("projection_change", wide), ("random_change", aside)):
            if each:
                changes += seeded(quantity, {s: mean((w.iloc[:, -1] - w.iloc[:, 0]).dropna().to_numpy(float), config) for s, w in each.items()}, **where, label=label)
    return found, changes


def _by_step(group: pd.DataFrame, of: dict[int, Run], inside: dict[int, np.ndarray], column: str) -> dict[int, pd.DataFrame]:
    """Seed -> [problem, (stage, step)] of the problems of a bin, where more than one step was read."""
    wide = {s: group[(group["seed"] == s) & group["problem"].isin(r.base.index[inside[s]])].pivot_table(index="problem", columns=["stage", "step"], values=column) for s, r in of.items()}
    return {s: w for s, w in wide.items() if w.shape[1] > 1}


def _trainings(runs: dict[tuple[str, int], Run], training: pd.DataFrame, chosen: set[str], config: Config, details: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each organism that was trained with the true reward: how hard its problems were for the base, what that gained, and what was reinforced."""
    table: list[dict[str, Any]] = []
    for organism, part in training.groupby("organism", sort=False):
        of = {int(s): runs[str(organism), int(s)] for s in sorted(part["seed"].unique()) if (str(organism), int(s)) in runs}
        start = {s: part[(part["seed"] == s) & (part["stage"] == 0) & (part["step"] == 0)] for s in of}
        of = {s: r for s, r in of.items() if len(start[s])}
        if not of:
            continue
        rate = {s: mean((start[s]["correct"] / start[s]["n"]).to_numpy(float), config, share=True) for s in of}
        gain = {s: mean(r.rates("rl") - r.rates("base"), config) for s, r in of.items()}
        table += seeded_share("training_rate", rate, organism=organism) + seeded("gain", gain, organism=organism)
        able = any(r.rates("base").any() for r in of.values())  # a base that solves nothing says nothing of hard problems
        details["trainings"].append({"organism": organism, "able": able, "base": float(np.mean([r.rates("base").mean() for r in of.values()])), "rate": across(rate).value, **{k: getattr(across(gain), k) for k in ("value", "lo", "hi")}, "seeds": {str(s): [rate[s].value, gain[s].value] for s in of}})
        if organism in chosen:
            table += _pooled(part, list(of), str(organism))
            for stage, step in sorted(set(zip(part["stage"].astype(int), part["step"].astype(int), strict=True))):
                at = part[(part["stage"] == stage) & (part["step"] == step)]
                table += _reinforced(at, {s: str(r.facts.get("scale", "group")) for s, r in of.items()}, {"organism": organism, "stage": stage, "step": step}, config)
    return table


def _pooled(groups: pd.DataFrame, seeds: list[int], organism: str) -> list[dict[str, Any]]:
    """Share of valid traces among the lone successes of all weights and seeds of a training."""
    lone = groups[groups["seed"].isin(seeds) & (groups["correct"] == 1)]
    return [] if groups["correct_valid"].isna().any() else [rows("lone_valid_pooled", wilson(int(lone["correct_valid"].sum()), len(lone)), organism=organism, seed=ALL)]


def _reinforced(groups: pd.DataFrame, scales: dict[int, str], where: dict[str, Any], config: Config) -> list[dict[str, Any]]:
    """What the advantage of right samples goes to, in groups drawn by one set of weights."""
    by_seed = {s: groups[groups["seed"] == s] for s in scales}
    lone = {s: g[g["correct"] == 1] for s, g in by_seed.items()}
    table = seeded_share("lone_successes", {s: wilson(len(lone[s]), len(g)) for s, g in by_seed.items()}, **where)
    if groups["correct_valid"].isna().any():
        why = "nothing can check the traces of this task"
        return table + [row for quantity in ("lone_valid", "reinforced_valid") for row in seeded(quantity, {s: undefined(why, len(g)) for s, g in by_seed.items()}, scale="group", **where)]
    table += seeded_share("lone_valid", {s: wilson(int(one["correct_valid"].sum()), len(one)) for s, one in lone.items()}, **where)
    for scale in ("group", "none"):
        shares = {}
        for s, g in by_seed.items():
            weight = advantage(g["correct"].to_numpy(float), g["n"].to_numpy(float), scale)
            shares[s] = pooled_ratio(weight * g["correct_valid"].to_numpy(float), weight * g["correct"].to_numpy(float), n_boot=config.n_boot, seed=config.seed) if weight.any() else undefined("no group has right and wrong samples", len(g))
        table += seeded_share("reinforced_valid", shares, scale=scale, used=str(all(scale == own for own in scales.values())), **where)
    sizes = groups["n"].unique()
    if len(sizes) == 1:
        value = float(advantage(np.array([1.0]), sizes.astype(float))[0])
        table.append(rows("lone_advantage", Estimate(value, float("nan"), float("nan"), int(sizes[0]), "formula", "no estimate"), seed=ALL, scale="group", **where))
    return table


def _said(result: Result, config: Config) -> list[str]:
    able = [t for t in result.details["trainings"] if t["able"]]
    hard = [t for t in able if t["rate"] < config.over_hard]
    judged, more, spared = list[str](), list[str](), [t["organism"] for t in hard if t["base"] < config.to_lose]
    for t in hard:
        organism, gain = t["organism"], result.estimate("gain", organism=t["organism"], seed=ALL)
        seen = "the harm that the paper reports" if gain.hi < 0 else "which refutes harm" if gain.lo > 0 else "harm is not shown"
        if organism not in spared:
            judged.append(f"{gain} for {organism} ({t['rate']:.1%} solved: {seen})")
        more += [_habits_of(result, organism), _lone_of(result, organism)]
    first = f"No organism was trained on problems that its base solves in under {config.over_hard:.0%}: train too-hard." if not hard else (
        f"RL on problems that the base solves in under {config.over_hard:.0%} of the samples changes accuracy on the judged ones by {', '.join(judged)}; an interval above 0 refutes harm."
        if judged else f"No organism that was trained on problems that its base solves in under {config.over_hard:.0%} is judged on problems that it could lose."
    )  # fmt: skip
    if spared:
        more.append(f"Harm cannot show for {', '.join(spared)}, whose base solves under {config.to_lose:.0%} of the judged problems, too.")
    others = [t for t in able if t not in hard and np.isfinite(t["value"])]
    values = sorted(t["value"] for t in others)
    more.append("" if not others else f"{len(others)} organism{'s' * (len(others) > 1)} with easier problems (other bases, so a direction only) gain{'s' * (len(others) == 1)} {values[0]:.2f} to {values[-1]:.2f}.")
    return [first, *more, *_said_of_projections(result)]


def _habits_of(result: Result, organism: str) -> str:
    """What the samples of an organism do more or less of, over all judged problems."""
    known = [habit for habit in HABITS if rows_of(result, f"{habit}_change", organism=organism, bin=ALL)]
    changed = [f"{habit.replace('_', ' ')} {result.estimate(f'{habit}_change', organism=organism, bin=ALL, seed=ALL)}" for habit in known]
    return f"In {organism}, RL minus base a trace: {', '.join(changed)}; the paper reports more repetition and more skipped steps." if changed else ""


def _lone_of(result: Result, organism: str) -> str:
    """What the lone successes of an organism are."""
    share = result.estimate("lone_valid_pooled", organism=organism, seed=ALL) if rows_of(result, "lone_valid_pooled", organism=organism) else None
    if share is None or share.n < FEW:
        return ""
    seen = "so most are not" if share.hi < 0.5 else "which refutes the shortcut" if share.lo > 0.5 else "which is not told apart from half"
    advantages = rows_of(result, "lone_advantage", organism=organism, step=0)
    weight = f"has the advantage {advantages[0]['value']:.2f} and " if advantages else ""
    return f"In {organism} a lone success of a group {weight}is a valid trace in {share.bare} of {share.n}, {seen} (more than half refutes the shortcut)."


def _said_of_projections(result: Result) -> list[str]:
    """How far activations move along reliable vectors, and along random directions."""
    said = []
    for organism in dict.fromkeys(p["organism"] for name in ("projections", "unreliable") for p in result.details[name]):
        unknown, weak = (sorted({u["label"] for u in result.details["unreliable"] if u["organism"] == organism and np.isnan(u["reliability"]) == lost}) for lost in (True, False))
        left = "".join(f"; {why}: {', '.join(labels)}" for why, labels in (("not reliable in some seed", weak), ("of unknown reliability (measure anew)", unknown)) if labels)
        found = {q: [r for r in rows_of(result, q, organism=organism, seed=ALL) if np.isfinite(r["lo"])] for q in ("projection_change", "random_change")}
        moved, aside = ([r for r in each if r["lo"] > 0 or r["hi"] < 0] for each in found.values())
        if not found["projection_change"]:
            said.append(f"{organism}: no projection is on a reliable vector{left}." if left else "")
            continue
        most = max(found["projection_change"], key=lambda r: max(r["lo"], -r["hi"]))  # the surest
        sizes = [float(np.median([abs(r["value"]) for r in each])) for each in found.values()]
        said.append(
            f"{organism}, activations at choices from base to end: {len(moved)} of {len(found['projection_change'])} projections (vector, bin) have an interval without 0, {len(aside)} along random directions; they move by {sizes[0]:.2f} scales (median), {sizes[1]:.2f} along random directions; the surest is "
            f"{most['label']} at {most['bin']}, {result.estimate('projection_change', organism=organism, seed=ALL, label=most['label'], bin=most['bin']).bare} scales{left}."
        )
    return said


def drawn(result: Result) -> list[dict[str, Any]]:
    """What `plot` draws: the effect by bin, over seeds and of each, of at most `MOST` organisms, from those with the hardest training problems to those with the easiest."""
    found = rows_of(result, "effect") if "bins" in result.details else []
    rates = {t["organism"]: t["rate"] for t in result.details.get("trainings", []) if t["able"]}
    every = list(dict.fromkeys(r["organism"] for r in found))
    names = sorted((n for n in every if n in rates), key=lambda name: rates[name]) or every
    names += [n for n in every if n not in rates][: max(0, MOST - len(names))]
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(MOST, len(names))).round().astype(int))] if names else []
    return sorted((r for r in found if r["organism"] in chosen), key=lambda r: chosen.index(r["organism"]))


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """Effect of RL by the base's pass rate: dots with their interval over seeds, small dots the seeds."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    found = drawn(result)
    if not found:
        ax.text(0.5, 0.5, result.finding, ha="center", va="center", wrap=True, transform=ax.transAxes)
        return ax
    names, bins = list(dict.fromkeys(r["organism"] for r in found)), result.details["bins"]
    for r in found:
        place = names.index(r["organism"])
        x, colour, whole = bins.index(r["bin"]) + 0.22 * (place - (len(names) - 1) / 2), OTHERS[place % len(OTHERS)], r["seed"] == ALL
        ax.plot([x + (0 if whole else 0.06)], [r["value"]], "o", color=colour, markersize=6 if whole else 3, alpha=1 if whole else 0.5)
        if whole and np.isfinite(r["lo"]):
            ax.plot([x, x], [r["lo"], r["hi"]], color=colour)
    for place, name in enumerate(names):
        ax.plot([], [], "o", color=OTHERS[place % len(OTHERS)], label=name)
    ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    ax.set_xticks(range(len(bins)), bins)
    ax.set(xlabel="problems that the base solves in so many of its samples", ylabel="RL minus base, accuracy at T=1")
    ax.legend(frameon=False, fontsize=8)
    return ax
