"""Study `boundary`: does RL narrow what a model can solve, and do exploration terms widen it?

Claim (Dong et al. 2025, arXiv 2508.00222, RL-PLUS): on-policy RLVR collapses the boundary (RL's pass@k falls below the base's at large k); external
traces with multiple importance sampling, and an advantage that grows with how unlikely a token is, keep it.

Formula: coverage area = mean of pass@k over log k, k = 1 to `max_k`, of answers and, where a checker exists, of answers with a valid trace. Change = RL
minus base, paired by problem. Of a zoo every organism counts that GRPO trained with the true reward on problems like those that it is judged on, or on others, and (apart) what
imitates a teacher from the base of one of them. What the checker cannot read (`unparsed`) and what the length limit cut (`cut`) are shares of all samples: neither is left out, and an unread trace is not valid. Breadth of one problem's samples: effective number of paths (format and strategies in order) exp(H), and number
of different valid right paths; entropy: nats a token along the model's own samples. RL-PLUS: area of the RL model with the terms minus
without, same base and problems.

Collapse is refuted where the interval of RL minus base at `max_k` is above 0; a base that solves less than `to_lose` there has nothing to lose, and tells nothing; the remedy where the upper bound of with minus without is 0 or less.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentreason.stats import Estimate, PassCurve, crossover_k, summary, undefined
from latentreason.studies.palette import OTHERS
from latentreason.studies.result import Result, rows, whether
from latentreason.studies.stacked import (
    ALL,
    TOLD_BY,
    Run,
    across,
    area,
    aside,
    by_base,
    curve,
    finished,
    mean,
    powers,
    replicates,
    required,
    rows_of,
    runs_of,
    seeded,
    seeded_share,
    without,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN = ("activation-small", "collapsed", "explore")
BREADTH: dict[str, Callable[[pd.DataFrame], np.ndarray]] = {"effective_paths": lambda t: np.exp(t["paths_entropy"].to_numpy(float)), "right_paths": lambda t: t["right_paths"].to_numpy(float), "entropy": lambda t: t["entropy"].to_numpy(float)}
"""Quantity -> its value by problem, from a table of counts that has the columns for it."""
UNREAD = ("unparsed", "cut")
"""Columns of the counts: samples that the checker could not read (of a task with one), and those that the length limit cut."""
MOST = 3
"""Organisms whose curves are drawn."""
SHOWN = 0.05
"""Share of unread or cut samples from which on a note gives it."""
NEEDS = {"effective_paths": "paths_entropy", "right_paths": "right_paths", "entropy": "entropy"}


@dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        max_k: largest k.
        to_lose: pass@`max_k` of the base below which there is nothing to lose.
        organisms: that are looked at, whatever was done to them; none for all that the claim speaks of, see above.
    """

    max_k: int = 64
    to_lose: float = 0.05
    organisms: tuple[str, ...] = ()
    n_boot: int = 2000
    seed: int = 0


def run(*, counts: pd.DataFrame, organisms: pd.DataFrame | None = None, config: Config = Config()) -> Result:
    """Coverage and breadth before and after RL, and with against without the terms of RL-PLUS.

    Args:
        counts: stacked table of the zoo, or that of any pair.
        organisms: facts about them; without, nothing is said of RL-PLUS.
        config: settings.

    Raises:
        InvalidInput: tables without their columns, of different organisms, or fewer samples than `max_k`.
    """
    ks = powers(config.max_k)
    if organisms is not None:
        required(organisms, "organisms", TOLD_BY)
    runs = _chosen(list(runs_of(counts, organisms).values()), config)
    if not runs:
        return without("boundary", config, "area_change", f"none of {', '.join(config.organisms)} has been measured" if config.organisms else "no organism was trained by RL with the true reward", TRAIN)
    table: list[dict[str, Any]] = []
    drawn_: list[dict[str, Any]] = []
    curves: dict[tuple[str, int, str, str], PassCurve] = {}
    for organism in dict.fromkeys(r.organism for r in runs):
        of = {r.seed: r for r in runs if r.organism == organism}
        kinds = next(iter(of.values())).kinds
        for kind, column in kinds.items():
            where = {"organism": organism, "kind": kind}
            for s, r in of.items():
                curves |= {(organism, s, arm, kind): curve(r, arm, column, ks, config) for arm in ("base", "rl")}
            changes = {s: [replicates(curves[organism, s, arm, kind]) for arm in ("base", "rl")] for s in of}
            for i, arm in enumerate(("base", "rl")):
                table += seeded_share("area", {s: summary(area(both[i], ks), len(of[s].base)) for s, both in changes.items()}, arm=arm, **where)
            table += seeded("area_change", {s: summary(area(rl - base, ks), len(of[s].base)) for s, (base, rl) in changes.items()}, **where)
            for place in (0, -1):
                table += seeded("rl_minus_base", {s: summary((rl - base)[:, place], len(of[s].base)) for s, (base, rl) in changes.items()}, k=ks[place], **where)
            table += _crossings({s: _crossing(r, column, ks, config) for s, r in of.items()}, where)
            for arm in ("base", "rl"):
                over = [across({s: curves[organism, s, arm, kind].estimates[i] for s in of}, share=True) for i in range(len(ks))]
                each = {str(s): [e.value for e in curves[organism, s, arm, kind].estimates] for s in of}
                drawn_.append({**where, "arm": arm, "k": ks, "value": [e.value for e in over], "lo": [e.lo for e in over], "hi": [e.hi for e in over], "seeds": each})
        for quantity, values in BREADTH.items():
            have = {s: r for s, r in of.items() if NEEDS[quantity] in r.base and not (r.base[NEEDS[quantity]].isna().any() or r.rl[NEEDS[quantity]].isna().any())}
            if have:
                for arm in ("base", "rl"):
                    table += seeded(quantity, {s: mean(values(r.base if arm == "base" else r.rl), config) for s, r in have.items()}, organism=organism, arm=arm)
                table += seeded(f"{quantity}_change", {s: mean(values(r.rl) - values(r.base), config) for s, r in have.items()}, organism=organism)
        for quantity in UNREAD:
            if all(quantity in r.base for r in of.values()) and (quantity == "cut" or len(kinds) > 1):
                for arm in ("base", "rl"):
                    table += seeded_share(quantity, {s: mean(r.rates(arm, quantity), config, share=True) for s, r in of.items()}, organism=organism, arm=arm)
                table += seeded(f"{quantity}_change", {s: mean(r.rates("rl", quantity) - r.rates("base", quantity), config) for s, r in of.items()}, organism=organism)
    if organisms is not None:
        table += _remedies(runs, curves, ks)
    details = {"curves": drawn_, "n_problems": len(runs[0].base), "n_seeds": len({r.seed for r in runs}), "aside": {r.organism: why for r in runs if (why := aside(r.facts))}, "barren": sorted(_barren(curves, list(runs[0].kinds)[-1], config)), "kind": list(runs[0].kinds)[-1]}
    result = finished("boundary", config, table, details)
    return result.saying(_said(result, ks))


def _chosen(runs: list[Run], config: Config) -> list[Run]:
    """The named ones; else those that the claim speaks of, and what imitates a teacher from one's base."""
    if config.organisms:
        return [r for r in runs if r.organism in config.organisms]
    if not all(r.facts for r in runs):
        return runs
    chosen = [r for group in by_base(runs).values() if not all(aside(r.facts) for r in group) for r in group if not aside(r.facts) or r.facts["stages"] == "SFT"]
    return sorted(chosen, key=runs.index)


def _crossing(run: Run, column: str, ks: list[int], config: Config) -> Estimate:
    """The k at which the base reaches the RL model."""
    base, rl = run.base, run.rl
    return crossover_k(base[column].to_numpy(int), rl[column].to_numpy(int), base["n"].to_numpy(int), rl["n"].to_numpy(int), ks, n_boot=config.n_boot, seed=config.seed)


def _crossings(found: dict[int, Estimate], where: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of each seed, and over seeds the median with the outermost ends: a seed that never crosses is infinite, which has no mean."""
    ends = [(e.value, e.lo, e.hi) if e.defined else (np.inf, np.inf, np.inf) for e in found.values()]
    over = Estimate(float(np.median([v for v, *_ in ends])), min(lo for _, lo, _ in ends), max(hi for *_, hi in ends), len(found), "median over seeds of training, lowest and highest end", "")
    last = over if np.isfinite(over.value) else undefined("in half of the seeds or more the base stays below RL", len(found))
    return [*(rows("crossover_k", e, seed=str(s), **where) for s, e in found.items()), rows("crossover_k", last, seed=ALL, **where)]


def _barren(curves: dict[tuple[str, int, str, str], PassCurve], kind: str, config: Config) -> set[str]:
    """Organisms whose base solves next to nothing at the largest k, on average over seeds."""
    solved = {name: [found.estimates[-1].value for (organism, _, arm, k), found in curves.items() if (organism, arm, k) == (name, "base", kind)] for name, *_ in curves}
    return {name for name, values in solved.items() if np.mean(values) < config.to_lose}


def _remedies(runs: list[Run], curves: dict[tuple[str, int, str, str], PassCurve], ks: list[int]) -> list[dict[str, Any]]:
    """RL model with external traces minus RL model without, for each two organisms on one base that differ in this."""
    found: list[dict[str, Any]] = []
    for group in by_base(runs).values():
        names = {kept: list(dict.fromkeys(r.organism for r in group if bool(r.facts["external"] and r.facts["external"] > 0) == kept)) for kept in (True, False)}
        for with_terms in names[True]:
            for plain in names[False]:
                seeds = [r.seed for r in group if r.organism == with_terms and any(o.organism == plain and o.seed == r.seed for o in group)]
                for kind in group[0].kinds if seeds else ():
                    gaps = {s: replicates(curves[with_terms, s, "rl", kind]) - replicates(curves[plain, s, "rl", kind]) for s in seeds}
                    n = {r.seed: len(r.base) for r in group}
                    where = {"organism": with_terms, "against": plain, "kind": kind}
                    found += seeded("remedy_area", {s: summary(area(gap, ks), n[s]) for s, gap in gaps.items()}, **where)
                    found += seeded("remedy_at", {s: summary(gap[:, -1], n[s]) for s, gap in gaps.items()}, k=ks[-1], **where)
    return found


def _said(result: Result, ks: list[int]) -> list[str]:
    kind, details = result.details["kind"], result.details
    first, last = ({o: result.estimate("rl_minus_base", organism=o, kind=kind, k=k, seed=ALL) for o in dict.fromkeys(c["organism"] for c in details["curves"])} for k in (ks[0], ks[-1]))
    seen, more = dict[str, str](), list[str]()
    for o, gap in last.items():
        fallen = "a loss at every k" if first[o].hi < 0 else "a collapse"
        seen[o] = f"{details['aside'][o]}, so it says nothing of RLVR" if o in details["aside"] else "nothing to lose" if o in details["barren"] else fallen if gap.hi < 0 else "no collapse" if gap.lo > 0 else "open"
        cross, area = (result.estimate(q, organism=o, kind=kind, seed=ALL) for q in ("crossover_k", "area_change"))
        crossing = f", the base reaches RL at k={cross.bare}" if seen[o] == "a collapse" and cross.defined else ""
        both = {quantity: _of_both(result, quantity, o) for quantity in UNREAD}
        unread = [f"{quantity} {' to '.join(e.bare for e in shares)}" for quantity, shares in both.items() if max((e.value for e in shares), default=0.0) > SHOWN]
        more.append(f"{o} ({seen[o]}): RL minus base {first[o].bare} at k={ks[0]}, {gap.bare} at k={ks[-1]}, area {area.bare}{crossing}{'; of its samples ' if unread else ''}{', '.join(unread)}.")
    for row in rows_of(result, "remedy_area", kind=kind, seed=ALL):
        gap = result.estimate("remedy_area", organism=row["organism"], against=row["against"], kind=kind, seed=ALL)
        judged = whether(gap, "so the terms of RL-PLUS keep breadth", "so a remedy by RL-PLUS is refuted", "so a remedy by RL-PLUS is not shown")
        more.append(f"{row['organism']} minus {row['against']} in area: {gap.bare}, {judged} (an upper bound of 0 or less refutes it).")
    of = {what: [o for o, verdict in seen.items() if verdict == what] for what in ("a collapse", "a loss at every k", "no collapse", "open")}
    n, lost = sum(map(len, of.values())), [f"{o} {last[o].bare}" for o in of["a collapse"]]
    damaged = f", at every k for {len(of['a loss at every k'])} ({', '.join(of['a loss at every k'])})" if of["a loss at every k"] else ""
    said = (
        f"By {kind}, RL minus base at k={ks[-1]} is below 0 for {len(lost)} of {n} whose base has something to lose there{' (' if lost else ''}{', '.join(lost)}{')' if lost else ''}{damaged}, above 0 for {len(of['no collapse'])}, "
        f"and open for {len(of['open'])}; an interval above 0 refutes a collapse."
    )
    several = [f"{n} intervals are read at once, uncorrected: of such intervals one in twenty misses by chance."] if n > 4 else []
    return [said if n else "Nothing here was trained by RL with the true reward from a base that has something to lose, so nothing is said of collapse.", *more, *several]


def _of_both(result: Result, quantity: str, organism: str) -> list[Estimate]:
    """A share of the samples of base and RL model, where it was counted."""
    return [result.estimate(quantity, organism=organism, arm=arm, seed=ALL) for arm in ("base", "rl")] if rows_of(result, quantity, organism=organism) else []


def drawn(result: Result) -> list[dict[str, Any]]:
    """The curves that `plot` draws: those of the strictest kind, of at most `MOST` organisms: what collapses, and what stands beside a remedy, before others."""
    curves = [c for c in result.details.get("curves", []) if c["kind"] == result.details["kind"]]
    lost = [r["organism"] for r in rows_of(result, "rl_minus_base", seed=ALL) if curves and r["kind"] == result.details["kind"] and r["k"] > 1 and r["hi"] < 0]
    first = [*lost, *(r[c] for r in rows_of(result, "remedy_area") for c in ("organism", "against"))]
    names = list(dict.fromkeys([*first, *(c["organism"] for c in curves)]))[:MOST]
    return sorted((c for c in curves if c["organism"] in names), key=lambda c: names.index(c["organism"]))


def plot(result: Result, ax: "Axes | None" = None) -> "Axes":
    """pass@k of base (dashed) and RL model (solid) of some organisms (`drawn`); thin lines: the seeds."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    curves = drawn(result)
    if not curves:
        ax.text(0.5, 0.5, result.finding, ha="center", va="center", wrap=True, transform=ax.transAxes)
        return ax
    names = list(dict.fromkeys(c["organism"] for c in curves))
    for c in curves:
        colour, style = OTHERS[names.index(c["organism"]) % len(OTHERS)], "--" if c["arm"] == "base" else "-"
        ax.plot(c["k"], c["value"], style, marker="o", markersize=3, color=colour, label=f"{c['organism']}, {'RL' if c['arm'] == 'rl' else 'base'}")
        if len(c["seeds"]) > 1:
            for values in c["seeds"].values():
                ax.plot(c["k"], values, style, color=colour, linewidth=0.5, alpha=0.6)
    ax.set_xscale("log", base=2)
    ax.set_xticks(curves[0]["k"], [str(k) for k in curves[0]["k"]])
    ax.set(xlabel="k (samples a problem)", ylabel=f"pass@k ({result.details['kind']})", ylim=(-0.02, 1.02))
    ax.legend(frameon=False, fontsize=8)
    return ax
