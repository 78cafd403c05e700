"""Estimates with uncertainty: means, pass@k, gap recovered, recovery curves, Shapley shares.

Knows nothing about models or tables: arrays in, `Estimate` out. Three facts to know:

- PROBLEMS are resampled, never samples: what one problem produced stays together. One matrix of bootstrap weights (`problem_weights`) serves
  every statistic, so two calls with the same number of problems, `n_boot` and `seed` use the same draws, and their results are paired.
- Intervals are 95% percentile intervals (order statistics, so an infinite draw has its place). They are too narrow below about 20 problems, and of
  zero width where all problems agree; `wilson` is the choice for one count of independent trials.
- Undefined is NaN with a reason, never 0 or 1. A recovery is signed and never clamped.

Inside, "replicates" are arrays whose row 0 is the point estimate (uniform weights) and whose other rows are the draws.

    >>> base, rl, hybrid = np.zeros((40, 2)), np.ones((40, 2)), np.tile([0.0, 1.0], (40, 1))
    >>> print(gap_recovered(base, rl, hybrid))
    0.50 [0.50, 0.50]
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import NamedTuple, overload

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from latentreason.errors import InvalidInput

Grades = Shaped[np.ndarray, "problem ..."]  # [problem, sample] of 0/1 or booleans, or [problem] of mean grades
Counts = int | Int[np.ndarray, "..."]

BUDGETS = (0.25, 0.5, 0.75)  # shares of D at which a recovery curve is read
GRID = np.linspace(0, 1, 41)  # changed / D, for the band of a recovery curve
MAX_UNDEFINED = 0.05  # a larger share of undefined draws leaves the estimate undefined
TINY = 1e-12  # differences of accuracies below this are rounding


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `n` counts the independent units (problems; trials for `wilson`).

    Undefined is `value = lo = hi = NaN` with a `reason`. A defined value may carry a `reason` too: a caveat, for instance why it has no interval.
    """

    value: float
    lo: float
    hi: float
    n: int
    method: str
    reason: str = ""

    @property
    def defined(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    def __str__(self) -> str:
        if not self.defined:
            return f"undefined ({self.reason})"
        finite = [x for x in (self.value, self.lo, self.hi) if math.isfinite(x)]
        width = max(finite) - min(finite)
        decimals = min(max(2, 1 - math.floor(math.log10(width))), 6) if width > 0 else 2
        if self.value > 1 and all(x == round(x) for x in finite):  # a count, such as the k of a crossover
            decimals = 0
        interval = "" if math.isnan(self.lo) else f" [{self.lo:z.{decimals}f}, {self.hi:z.{decimals}f}]"
        return f"{self.value:z.{decimals}f}{interval}" + (f" ({self.reason})" if self.reason else "")

    def to_dict(self) -> dict[str, float | int | str]:
        """The fields as a flat row; undefined numbers stay NaN."""
        return asdict(self)


class Interval(NamedTuple):
    """Bounds of a percentile interval, NaN if more than `MAX_UNDEFINED` of the draws are undefined."""

    lo: float
    hi: float
    n_undefined: int


# The bootstrap over problems


def problem_weights(n_problems: int, n_boot: int = 2000, seed: int = 0) -> Float[np.ndarray, "draw problem"]:
    """Bootstrap weights: row d holds how often draw d took each problem, over `n_problems`, so `weights @ values` are resampled means.

    The point estimate is not among the rows: it has uniform weights. Efron & Tibshirani (1993), chapter 6.

    Raises:
        InvalidInput: No problems or no draws.
    """
    if n_problems < 1 or n_boot < 1:
        raise InvalidInput(f"Cannot resample {n_problems} problems {n_boot} times: pass at least one problem and n_boot >= 1 (2000 is usual).")
    counts = np.random.default_rng(seed).multinomial(n_problems, np.full(n_problems, 1 / n_problems), size=n_boot)
    return np.asarray(counts / n_problems)


def percentile_interval(draws: Float[np.ndarray, " draw"], level: float = 0.95) -> Interval:
    """Percentile interval between order statistics, rounded outwards.

    NaN draws are undefined: they are counted and left out, and above `MAX_UNDEFINED` (5%) of them there is no interval. Infinite draws are
    defined and ordered ("beyond every finite value"), so a bound can be infinite.

    >>> percentile_interval(np.arange(101.0), level=0.9)
    Interval(lo=5.0, hi=95.0, n_undefined=0)
    """
    known = draws[~np.isnan(draws)]
    n_undefined = len(draws) - len(known)
    if len(known) == 0 or n_undefined > MAX_UNDEFINED * len(draws):
        return Interval(math.nan, math.nan, n_undefined)
    known.sort()
    tail = int(round((1 - level) / 2 * (len(known) - 1), 9))
    return Interval(float(known[tail]), float(known[-1 - tail]), n_undefined)


def mean_estimate(values: Grades, *, n_boot: int = 2000, seed: int = 0) -> Estimate:
    """Mean over problems of each problem's mean. A paired difference is `mean_estimate(a.mean(1) - b.mean(1))`.

    Raises:
        InvalidInput: NaN or infinite values.
    """
    if len(values) == 0:
        return _undefined("no problems", 0)
    means = _per_problem("values", values)
    return _summary(_weights(len(means), n_boot, seed) @ means, len(means))


def pooled_ratio(
    numerator: Real[np.ndarray, " problem"], denominator: Real[np.ndarray, " problem"], *, n_boot: int = 2000, seed: int = 0
) -> Estimate:
    """Sum over sum, both resampled by problem: for instance changed tokens over generated tokens.

    Raises:
        InvalidInput: Different lengths, NaN, or a negative denominator.
    """
    arms = _aligned({"numerator": numerator, "denominator": denominator})
    if (arms["denominator"] < 0).any():
        raise InvalidInput("The denominator of a pooled ratio has negative entries: pass counts or lengths.")
    ratio = _pooled(_weights(len(numerator), n_boot, seed), **arms)
    return _summary(ratio, len(numerator), "the denominator sums to 0" if math.isnan(ratio[0]) else "")


# pass@k


@overload
def pass_at_k(n: int, c: int, k: int) -> float: ...
@overload
def pass_at_k(n: Counts, c: Int[np.ndarray, "..."], k: int) -> Float[np.ndarray, "..."]: ...
def pass_at_k(n: Counts, c: Counts, k: int) -> float | Float[np.ndarray, "..."]:
    """Unbiased chance that at least one of k samples is right, from c right among n: 1 - C(n-c, k) / C(n, k), as a product.

    Chen et al. (2021), arXiv 2107.03374, equation 1. `n` and `c` broadcast.

    >>> round(pass_at_k(4, 1, 2), 9)
    0.5

    Raises:
        InvalidInput: Fewer than k samples, k below 1, or c outside 0..n.
    """
    samples, right = np.broadcast_arrays(np.asarray(n), np.asarray(c))
    if k < 1:
        raise InvalidInput(f"pass@{k} does not exist: k must be at least 1.")
    if samples.size and samples.min() < k:
        raise InvalidInput(f"pass@{k} needs at least {k} samples a problem, got {samples.min()}: sample at least {k} (better {2 * k}), or lower k.")
    if (right < 0).any() or (right > samples).any():
        raise InvalidInput("Counts of correct samples must lie between 0 and n: pass the counts, not the rates or the grades.")
    j = np.arange(k)
    missed = np.clip((samples - right)[..., None] - j, 0, None) / (samples[..., None] - j)
    value = 1 - missed.prod(axis=-1)
    return float(value) if value.ndim == 0 else np.asarray(value)


@dataclass(frozen=True, eq=False)
class PassCurve:
    """Mean pass@k over problems: `estimates[i]` and `draws[:, i]` belong to `ks[i]` (ascending). Same seed and problems: paired draws."""

    ks: tuple[int, ...]
    estimates: tuple[Estimate, ...]
    draws: Float[np.ndarray, "draw k"] = field(repr=False)


def pass_at_k_curve(correct: Int[np.ndarray, " problem"], n: Counts, ks: Sequence[int], *, n_boot: int = 2000, seed: int = 0) -> PassCurve:
    """pass@k for several k on one set of problems; `correct` counts the right ones of `n` samples (one n, or one a problem).

    The method string of a point says so when there are fewer than 2k samples a problem.

    Raises:
        InvalidInput: As `pass_at_k`; also no problems or no k.
    """
    if not len(ks):
        raise InvalidInput("A pass@k curve needs at least one k: pass for instance ks=(1, 2, 4, 8).")
    ordered = tuple(sorted(set(ks)))
    per_problem = np.stack([pass_at_k(n, correct, k) for k in ordered], axis=1)
    replicates = _weights(len(correct), n_boot, seed) @ per_problem
    few = ["; fewer than 2k samples a problem" if np.min(n) < 2 * k else "" for k in ordered]
    estimates = tuple(_summary(replicates[:, i], len(correct), note=few[i]) for i in range(len(ordered)))
    return PassCurve(ordered, estimates, replicates[1:])


def guessing_floor(n_answers: int, k: int) -> float:
    """Chance that one of k uniform guesses among `n_answers` is right: 1 - (1 - 1/n_answers)^k."""
    if n_answers < 1 or k < 1:
        raise InvalidInput(f"guessing_floor needs n_answers >= 1 and k >= 1, got {n_answers} and {k}.")
    return float(1 - (1 - 1 / n_answers) ** k)


def crossover_k(
    base_counts: Int[np.ndarray, " problem"],
    rl_counts: Int[np.ndarray, " problem"],
    n_base: Counts,
    n_rl: Counts,
    ks: Sequence[int],
    *,
    n_boot: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Smallest k of `ks` at which the base's pass@k is not below the RL model's (Yue et al. 2025, arXiv 2504.13837).

    A draw that never crosses counts as infinite: `hi` is inf when more than 2.5% of the draws do, and `method` says the share that crosses.
    If the measured curves never cross, the estimate is undefined. If the base is not below at the smallest k, the value is that k and `reason` says so.

    Raises:
        InvalidInput: As `pass_at_k_curve`; or different numbers of problems.
    """
    _aligned({"base_counts": base_counts, "rl_counts": rl_counts})
    ordered = tuple(sorted(set(ks)))
    base, rl = (pass_at_k_curve(c, n, ordered, n_boot=n_boot, seed=seed) for c, n in ((base_counts, n_base), (rl_counts, n_rl)))
    points = [[e.value for e in curve.estimates] for curve in (base, rl)]
    lead = np.vstack([np.subtract(*points), base.draws - rl.draws])  # replicates, base minus RL
    reached = lead >= -TINY
    first = np.where(reached.any(axis=1), np.array(ordered, dtype=float)[reached.argmax(axis=1)], np.inf)
    share = f"the base reaches RL in {np.isfinite(first[1:]).mean():.1%} of the draws"
    if math.isinf(first[0]):
        return _undefined(f"base stays below RL up to k={ordered[-1]}; {share}", len(base_counts))
    caveat = f"base is not below RL at k={ordered[0]}" if first[0] == ordered[0] else ""
    return _summary(first, len(base_counts), caveat=caveat, note=f"; {share}")


# The gap between base and RL


def gap_recovered(base: Grades, rl: Grades, hybrid: Grades, *, n_boot: int = 2000, seed: int = 0) -> Estimate:
    """(hybrid - base) / (rl - base), signed and never clamped; the same problems in the same order, sample counts may differ.

    Undefined when the interval of rl - base is not above 0. In the few draws (at most 2.5%) where rl - base is not positive, the recovery counts as
    infinite on the side of hybrid - base: beyond every finite value, as on Fieller's (1954) interval of a ratio.

    Raises:
        InvalidInput: Different problems, NaN (grade every sample: an unfinished or unparsed one is 0), or no problems.
    """
    arms = _aligned({"base": base, "rl": rl, "hybrid": hybrid})
    return _share_of_gap(arms["hybrid"] - arms["base"], arms["rl"] - arms["base"], n_boot, seed)


def gap_difference(base: Grades, rl: Grades, hybrid: Grades, control: Grades, *, n_boot: int = 2000, seed: int = 0) -> Estimate:
    """How much more of the gap the hybrid recovers than its control, paired: (hybrid - control) / (rl - base). Else as `gap_recovered`."""
    arms = _aligned({"base": base, "rl": rl, "hybrid": hybrid, "control": control})
    return _share_of_gap(arms["hybrid"] - arms["control"], arms["rl"] - arms["base"], n_boot, seed)


def shapley_shares(
    base: Grades, timing: Grades, content: Grades, rl: Grades, *, n_boot: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """Shapley values over {timing, content}: v() = base, v(timing), v(content), v(both) = rl.

    "timing" = [(timing - base) + (rl - content)] / 2 / (rl - base), "content" likewise: they add up to 1, in the estimate and in each draw, and are
    undefined as `gap_recovered` is. "timing_gain" and "content_gain" are the same in accuracy points (0 to 1), defined whatever the gap.
    """
    arms = _aligned({"base": base, "timing": timing, "content": content, "rl": rl})
    gap, shares = arms["rl"] - arms["base"], {}
    for name, other in (("timing", "content"), ("content", "timing")):
        gain = (arms[name] - arms["base"] + arms["rl"] - arms[other]) / 2
        shares[name] = _share_of_gap(gain, gap, n_boot, seed)
        shares[f"{name}_gain"] = mean_estimate(gain, n_boot=n_boot, seed=seed)
    return shares


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Wilson's (1927) score interval of a proportion of n independent trials; undefined for n = 0.

    >>> print(wilson(0, 10))
    0.00 [0.00, 0.28]
    """
    if not 0 <= successes <= n:
        raise InvalidInput(f"wilson needs 0 <= successes <= n, got {successes} of {n}.")
    if n == 0:
        return _undefined("no trials", 0)
    z, rate = NormalDist().inv_cdf((1 + level) / 2), successes / n
    centre, half = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    lo, hi = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return Estimate(rate, 0.0 if successes == 0 else lo, 1.0 if successes == n else hi, n, f"Wilson {level:.0%}")


# Recovery curves: how much of the gap for how few changed tokens


@dataclass(frozen=True, eq=False)
class CurvePoint:
    """One arm: each problem's mean grade, and its changed and generated tokens summed over samples (end-of-text included)."""

    correct: Shaped[np.ndarray, " problem"]
    changed: Real[np.ndarray, " problem"]
    tokens: Real[np.ndarray, " problem"]


class MeasuredPoint(NamedTuple):
    """A measured arm on a curve: x = changed / D, y = recovery, the absolute changed fraction, and the arm's place in the input."""

    x: Estimate
    y: Estimate
    changed: Estimate
    arm: int


class Band(NamedTuple):
    """Recovery y with pointwise 95% bounds at x = changed / D (all [41]); NaN where undefined."""

    x: Float[np.ndarray, " grid"]
    y: Float[np.ndarray, " grid"]
    lo: Float[np.ndarray, " grid"]
    hi: Float[np.ndarray, " grid"]


@dataclass(frozen=True, eq=False)
class RecoveryCurve:
    """Recovery against changed / D, from (0, 0) to (1, 1); made by `recovery_curve`."""

    points: tuple[MeasuredPoint, ...]  # ascending x; those beyond x = 1 are shown, and no summary uses them
    at: dict[float, Estimate]  # recovery at each of BUDGETS
    area: Estimate  # under the curve over x in [0, 1]; the diagonal has 0.5
    band: Band
    full: Estimate  # D, the changed fraction of always-RL
    n_boot: int
    seed: int
    gains: Float[np.ndarray, "replicate column"] = field(repr=False)  # accuracy over base at GRID; the last column is the area
    gap: Float[np.ndarray, " replicate"] = field(repr=False)  # rl - base


class CurveDifference(NamedTuple):
    """Paired differences of two recovery curves."""

    at: dict[float, Estimate]
    area: Estimate


def recovery_curve(base: CurvePoint, rl: CurvePoint, arms: Sequence[CurvePoint], *, n_boot: int = 2000, seed: int = 0) -> RecoveryCurve:
    """Recovery y = (arm - base) / (rl - base) against x = changed fraction / D, linear between measured arms.

    The ends are identities, not results: never routing is the base (0, 0), always routing is the RL model (1, 1). They win over arms measured exactly
    there, so arms at x >= 1 do not move the curve. Arms of equal x are averaged. Each draw recomputes x, y and D. y is undefined as in
    `gap_recovered`, and also when the RL arm changes no token.

    Raises:
        InvalidInput: No arms, arms on different problems, NaN, a problem without tokens, changed outside 0..tokens, or a base arm with changes.
    """
    if not arms:
        raise InvalidInput("A recovery curve needs at least one measured arm between base and RL.")
    named = {"base": base, "rl": rl} | {f"arms[{i}]": arm for i, arm in enumerate(arms)}
    columns = _aligned({f"{name}.{key}": getattr(arm, key) for name, arm in named.items() for key in ("correct", "changed", "tokens")})
    for name in named:
        changed, tokens = columns[f"{name}.changed"], columns[f"{name}.tokens"]
        if (tokens <= 0).any() or (changed < 0).any() or (changed > tokens).any():
            raise InvalidInput(f"{name} needs tokens > 0 and 0 <= changed <= tokens for each problem: pass sums over the problem's samples.")
    if columns["base.changed"].any():
        raise InvalidInput("The base arm has changed tokens, which cannot differ from itself: were base and rl exchanged?")
    n, weights = len(base.correct), _weights(len(base.correct), n_boot, seed)
    fraction = {name: _pooled(weights, columns[f"{name}.changed"], columns[f"{name}.tokens"]) for name in named}
    gain = {name: weights @ (columns[f"{name}.correct"] - columns["base.correct"]) for name in named}
    full, gap = fraction["rl"], gain["rl"]
    reason = _gap_reason(gap, n) if full[0] > 0 else "the RL arm changes no token"
    order = sorted(list(named)[2:], key=lambda name: float(fraction[name][0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.where(full > 0, [fraction[name] / full for name in order], np.nan).T  # [replicate, arm]
    knots = _Knots(x, np.stack([gain[name] for name in order], axis=1), gap)
    edges = np.sort(np.minimum(knots.x, 1), axis=1)
    heights = _interpolate(knots, edges)
    area = ((heights[:, 1:] + heights[:, :-1]) / 2 * np.diff(edges, axis=1)).sum(axis=1)
