"""Recovery curves: the share of the RL gain that arms recover, against the share of D that they change.

>>> tokens, nothing = np.full(40, 20.0), np.zeros(40)
>>> base, rl = CurvePoint(nothing, nothing, tokens), CurvePoint(np.ones(40), nothing + 2, tokens)
>>> curve = recovery_curve(base, rl, [CurvePoint(np.full(40, 0.4), nothing + 0.5, tokens), CurvePoint(np.full(40, 0.9), nothing + 1.5, tokens)])
>>> round(curve.at[0.5].value, 9), round(curve.area.value, 9)
(0.65, 0.6125)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from latentreason.errors import InvalidInput
from latentreason.stats import Estimate, PerProblem, aligned, gap_reason, over, over_gap, replicate_weights, summary

BUDGETS = (0.25, 0.5, 0.75)  # shares of D at which a recovery curve is read
GRID = np.linspace(0, 1, 41)  # changed / D at which a recovery curve is drawn; holds every budget
NEAR = 0.1  # a curve is read where arms are this near (in shares of D): further out it is a straight line to the base or the RL model, which nobody measured


@dataclass(frozen=True, eq=False)
class CurvePoint:
    """One arm, by problem: mean grade, and changed and generated tokens summed over the problem's samples (end-of-text included)."""

    correct: PerProblem
    changed: PerProblem
    tokens: PerProblem


class Band(NamedTuple):
    """Pointwise: recovery y and its 95% bounds at x = changed / D, each [41]; NaN where undefined."""

    x: Float[np.ndarray, "grid"]
    y: Float[np.ndarray, "grid"]
    lo: Float[np.ndarray, "grid"]
    hi: Float[np.ndarray, "grid"]


class Reading(NamedTuple):
    """What is read off a recovery curve, or off the difference of two: at each of BUDGETS, area over x in [0, 1], and drawn."""

    at: dict[float, Estimate]
    area: Estimate
    band: Band


@dataclass(frozen=True, eq=False)
class RecoveryCurve:
    """Recovery against changed / D from (0, 0) to (1, 1), made by `recovery_curve`; x, y, changed, order: one entry an arm, ascending x."""

    at: dict[float, Estimate]  # recovery at each of BUDGETS
    area: Estimate  # under the curve over x in [0, 1]; the diagonal has 0.5
    band: Band
    x: tuple[Estimate, ...]  # changed / D of each arm; those beyond 1 are kept, but nothing is read there
    y: tuple[Estimate, ...]  # recovery of each arm
    changed: tuple[Estimate, ...]  # absolute changed fraction of each arm
    order: tuple[int, ...]  # place of each in `arms`
    full: Estimate  # D, the changed fraction of always-RL
    seed: int
    undefined: tuple[str, ...] = field(repr=False)  # why, for each column of `gains`; empty where it is defined
    gains: Float[np.ndarray, "replicate column"] = field(repr=False)  # accuracy above base at GRID; the last column is the area
    gap: Float[np.ndarray, "replicate"] = field(repr=False)  # rl - base


def recovery_curve(base: CurvePoint, rl: CurvePoint, arms: Sequence[CurvePoint], *, n_boot: int = 2000, seed: int = 0) -> RecoveryCurve:
    """Recovery (arm - base) / (rl - base) against changed fraction / D, linear between the arms; each draw recomputes x, y and D.

    The ends are identities, not results: never routing is the base (0, 0), always routing is the RL model (1, 1). An arm measured at x >= 1
    does not move the curve before 1; arms of equal x are averaged. Undefined as `gap_recovered`, and when the RL arm changes no token.
    The area needs an arm near the smallest and one near the largest of BUDGETS; without them it is undefined, and so is the curve before
    its first and beyond its last arm: a straight line from there to the base or the RL model was not measured.
    Raises InvalidInput for no arms, other problems, NaN, a problem without tokens, changed outside 0..tokens, or a base arm with changes.
    """
    named = {"base": base, "rl": rl} | {f"arms[{i}]": arm for i, arm in enumerate(arms)}
    if not arms:
        raise InvalidInput("A recovery curve needs at least one arm between base and RL: pass arms=[CurvePoint(...)].")
    data = aligned({f"{name}.{part}": getattr(arm, part) for name, arm in named.items() for part in ("correct", "changed", "tokens")})
    n, fraction, gain = len(base.correct), {}, {}
    weights = replicate_weights(n, n_boot, seed)
    for name in named:
        correct, changed, tokens = (data[f"{name}.{part}"] for part in ("correct", "changed", "tokens"))
        if (tokens <= 0).any() or (changed < 0).any() or (changed > tokens).any() or (name == "base" and changed.any()):
            raise InvalidInput(f"{name} needs tokens > 0, 0 <= changed <= tokens and, for base, changed = 0, in each problem: pass sums.")
        fraction[name] = (weights @ changed) / (weights @ tokens)
        gain[name] = weights @ (correct - data["base.correct"])
    full, gap = fraction.pop("rl"), gain["rl"]
    no_change = "" if full[0] > 0 else "the RL arm changes no token"
    reason = no_change or gap_reason(gap, n)
    order = sorted(list(named)[2:], key=lambda name: float(fraction[name][0]))
    first, last = (float(fraction[order[i]][0] / full[0]) if not no_change else 0.0 for i in (0, -1))
    x, y = np.stack([over(fraction[name], full) for name in order], axis=1), np.stack([gain[name] for name in order], axis=1)
    gains = _read_off(x, y, gap)
    unread = [reason or r for r in _unreached(first, last)]
    return RecoveryCurve(
        *_reading(over_gap(gains, gap[:, None]), n, unread),
        x=tuple(summary(column, n, no_change) for column in x.T),
        y=tuple(summary(column, n, reason) for column in over_gap(y, gap[:, None]).T),
        changed=tuple(summary(fraction[name], n) for name in order),
        order=tuple(list(named).index(name) - 2 for name in order),
        full=summary(full, n), seed=seed, undefined=tuple(unread), gains=gains, gap=gap,
    )  # fmt: skip


def curve_difference(a: RecoveryCurve, b: RecoveryCurve) -> Reading:
    """Curve a minus curve b on the same draws. Raises InvalidInput if the numbers of problems or of draws or the seeds differ."""
    if (a.full.n, a.seed, len(a.gap)) != (b.full.n, b.seed, len(b.gap)):
        raise InvalidInput("The two curves do not share their draws: make both from the same problems with the same n_boot and seed.")
    reasons = [first or second for first, second in zip(a.undefined, b.undefined, strict=True)]
    if np.array_equal(a.gap, b.gap):  # the usual case: one pair of models
        return _reading(over_gap(a.gains - b.gains, a.gap[:, None]), a.full.n, reasons)
    with np.errstate(invalid="ignore"):  # inf - inf is an undefined draw
        return _reading(over_gap(a.gains, a.gap[:, None]) - over_gap(b.gains, b.gap[:, None]), a.full.n, reasons)


def _read_off(x: np.ndarray, y: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """[replicate, 42]: y at GRID and its area over [0, 1], from arms [replicate, arm] and the ends (0, 0) and (1, gap); NaN where x is."""
    rows = np.full((len(x), len(GRID) + 1), np.nan)
    for row, places, heights, end in zip(rows, np.round(x, 12), y, gap, strict=True):  # rounded so that equal stays equal
        if not np.isnan(places).any():
            inside = (places > 0) & (places < 1)
            knots, place = np.unique(np.r_[0, places[inside], 1], return_inverse=True)
            values = np.bincount(place, np.r_[0, heights[inside], end]) / np.bincount(place)
            row[:] = [*np.interp(GRID, knots, values), np.trapezoid(values, knots)]
    return rows


def reaches(shares: Sequence[float]) -> bool:
    """Whether arms at these shares of D say something of the whole curve from 0 to D, so that it has an area."""
    return len(shares) > 0 and not _unreached(min(shares), max(shares))[-1]


def _unreached(first: float, last: float) -> list[str]:
    """For each point of GRID and the area: why arms from `first` to `last` (in D) say nothing of it; empty where they do."""
    below, beyond = first > min(BUDGETS) + NEAR + 1e-9, last < max(BUDGETS) - NEAR - 1e-9
    reason = f"the arms lie between {first:.2f} and {last:.2f} D"
    step = GRID[1] + 1e-9
    out = [(below and x < first - step) or (beyond and x > last + step) for x in GRID]
    return [*(reason if o else "" for o in out), reason if below or beyond else ""]


def _reading(recovery: np.ndarray, n: int, reasons: Sequence[str]) -> Reading:
    *grid, area = (summary(column, n, reason) for column, reason in zip(recovery.T, reasons, strict=True))
    band = Band(GRID.copy(), *np.array([(e.value, e.lo, e.hi) for e in grid]).T)
    return Reading({budget: grid[int(np.searchsorted(GRID, budget))] for budget in BUDGETS}, area, band)
