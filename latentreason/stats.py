"""Estimates with uncertainty: means, pass@k, gap recovered, Shapley shares. Knows no models and no tables; curves.py builds on it.

- PROBLEMS are resampled, never samples: what one problem produced stays together. One matrix of bootstrap weights serves every statistic,
  so calls with the same problems in the same order, `n_boot` and `seed` use the same draws: their results are paired.
- Intervals are 95% percentile intervals: too narrow below about 20 problems. Where all problems agree they have no width, but for shares: no upper
  bound is below Wilson's of no success among as many problems, no lower bound above that of as many successes.
- Undefined is NaN with a reason, never 0 or 1. A recovery is signed and never clamped.
- "Replicates" are arrays whose row 0 is the point estimate (uniform weights); the other rows are the bootstrap draws.

    >>> base, rl, hybrid = np.zeros((40, 2)), np.ones((40, 2)), np.tile([0.0, 1.0], (40, 1))
    >>> print(gap_recovered(base, rl, hybrid))
    0.50 [0.50, 0.50]
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist
from typing import overload

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from latentreason.errors import InvalidInput

Grades = Shaped[np.ndarray, "problem ..."]  # [problem, sample] of 0/1 or booleans, or [problem] of mean grades; no NaN
Counts = int | Int[np.ndarray, "..."]
PerProblem = Real[np.ndarray, "problem"]
TINY = 1e-12  # differences of accuracies below this are rounding


@dataclass(frozen=True)
class Estimate:
    """A number, its 95% interval and its n independent units (problems; trials for `wilson`); undefined is NaN in value, lo and hi.

    A defined value may carry a reason too: a caveat, for instance why it has no interval.
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
        return self.bare + (f" ({self.reason})" if self.reason and self.defined else "")

    @property
    def bare(self) -> str:
        """As in print, without the caveat: a bound that is not 0 and would be printed as 0 says on which side of it it is.

        >>> Estimate(0.37, 0.0027, 0.746, 40, "").bare
        '0.37 [>0.00, 0.75]'
        """
        if not self.defined:
            return f"undefined ({self.reason})"
        finite = [x for x in (self.value, self.lo, self.hi) if math.isfinite(x)] or [0.0]
        width = max(finite) - min(finite)
        decimals = min(max(2, 1 - math.floor(math.log10(width))), 6) if width > 1e-9 else 2  # equal but for rounding
        if self.value > 1 and all(x == round(x) for x in finite):  # a count, such as the k of a crossover
            decimals = 0
        sides = ["" if abs(x) <= TINY or round(x, decimals) else "<" if x < 0 else ">" for x in (self.lo, self.hi)]
        interval = "" if math.isnan(self.lo) else f" [{sides[0]}{self.lo:z.{decimals}f}, {sides[1]}{self.hi:z.{decimals}f}]"
        return f"{self.value:z.{decimals}f}{interval}"

    def to_dict(self) -> dict[str, float | int | str]:
        """The fields as a flat row; undefined numbers stay NaN."""
        return asdict(self)


def problem_weights(n_problems: int, n_boot: int = 2000, seed: int = 0) -> Float[np.ndarray, "draw problem"]:
    """How often each draw took each problem, over n_problems: `weights @ values` are resampled means (Efron & Tibshirani 1993, chapter 6).

    The point estimate is not among the rows: it has uniform weights. Raises InvalidInput without problems or draws.
    """
    if n_problems < 1 or n_boot < 1:
        raise InvalidInput(f"Cannot resample {n_problems} problems {n_boot} times: pass at least one problem, and n_boot >= 1.")
    counts = np.random.default_rng(seed).multinomial(n_problems, np.full(n_problems, 1 / n_problems), size=n_boot)
    return np.asarray(counts / n_problems)


def percentile_interval(draws: Float[np.ndarray, "draw"], level: float = 0.95) -> tuple[float, float]:
    """Order statistics, rounded outwards, that hold `level` of the draws between them; an infinite draw has its place among them.

    NaN draws are undefined: they are left out, and if more than 5% of the draws are, both bounds are NaN.

    >>> percentile_interval(np.arange(101.0), level=0.9)
    (5.0, 95.0)
    """
    known = np.sort(draws[~np.isnan(draws)])
    if len(known) == 0 or len(draws) - len(known) > 0.05 * len(draws):
        return math.nan, math.nan
    tail = int(round((1 - level) / 2 * (len(known) - 1), 9))
    return float(known[tail]), float(known[-1 - tail])


def mean_estimate(values: Grades, *, n_boot: int = 2000, seed: int = 0, share: bool = False) -> Estimate:
    """Mean over problems of each problem's mean; of `a.mean(1) - b.mean(1)` it is a paired difference. `share` as in `summary`. Raises InvalidInput for NaN."""
    if len(values) == 0:
        return undefined("no problems", 0)
    means = aligned({"values": values})["values"]
    return summary(replicate_weights(len(means), n_boot, seed) @ means, len(means), share=share)


def pooled_ratio(numerator: PerProblem, denominator: PerProblem, *, n_boot: int = 2000, seed: int = 0) -> Estimate:
    """Sum over sum, resampled together: for instance changed over generated tokens. Raises InvalidInput for NaN, or if negative below."""
    if len(numerator) == len(denominator) == 0:
        return undefined("no problems", 0)
    above, below = aligned({"numerator": numerator, "denominator": denominator}).values()
    if (below < 0).any():
        raise InvalidInput("The denominator of a pooled ratio has negative entries: pass counts or lengths.")
    weights = replicate_weights(len(above), n_boot, seed)
    return summary(over(weights @ above, weights @ below), len(above), "" if below.any() else "the denominator sums to 0")


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Wilson's (1927) score interval of a proportion of n independent trials; undefined for n = 0.

    >>> print(wilson(0, 10))
    0.00 [0.00, 0.28]
    """
    if not 0 <= successes <= n:
        raise InvalidInput(f"wilson needs 0 <= successes <= n, got {successes} of {n}.")
    if n == 0:
        return undefined("no trials", 0)
    z, rate = NormalDist().inv_cdf((1 + level) / 2), successes / n
    centre, half = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    lo, hi = ((centre + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return Estimate(rate, lo if successes else 0.0, hi if successes < n else 1.0, n, f"Wilson {level:.0%}")


@overload
def pass_at_k(n: int, c: int, k: int) -> float: ...
@overload
def pass_at_k(n: Counts, c: Int[np.ndarray, "..."], k: int) -> Float[np.ndarray, "..."]: ...
def pass_at_k(n: Counts, c: Counts, k: int) -> float | Float[np.ndarray, "..."]:
    """Unbiased chance that one of k samples is right, given c right among n: 1 - C(n-c, k) / C(n, k), as a product; n and c broadcast.

    Chen et al. 2021 (arXiv 2107.03374), equation 1. Raises InvalidInput for k outside 1..n and for c that is not a count within 0..n.

    >>> round(pass_at_k(4, 1, 2), 9)
    0.5
    """
    samples, right = np.broadcast_arrays(np.asarray(n), np.asarray(c))
    if k < 1:
        raise InvalidInput(f"pass@{k} does not exist: k must be at least 1.")
    if samples.size and samples.min() < k:
        few = f"pass@{k} needs at least {k} samples a problem, got {samples.min()}"
        raise InvalidInput(f"{few}: sample at least {k} (better {2 * k}), or choose a smaller k.")
    if ((right < 0) | (right > samples) | (right != np.floor(right))).any():
        raise InvalidInput("Correct samples must be whole numbers between 0 and n: pass counts, not rates.")
    j = np.arange(k)
    value = 1 - (np.clip((samples - right)[..., None] - j, 0, None) / (samples[..., None] - j)).prod(axis=-1)
    return np.asarray(value) if value.ndim else float(value)


@dataclass(frozen=True, eq=False)
class PassCurve:
    """Mean pass@k over problems: `estimates[i]` and `draws[:, i]` belong to `ks[i]`, ascending. Same problems and seed: paired draws."""

    ks: tuple[int, ...]
    estimates: tuple[Estimate, ...]
    draws: Float[np.ndarray, "draw k"] = field(repr=False)


def pass_at_k_curve(correct: Int[np.ndarray, "problem"], n: Counts, ks: Sequence[int], *, n_boot: int = 2000, seed: int = 0) -> PassCurve:
    """`pass_at_k` averaged over one set of problems, for each k; `correct` counts the right ones of n samples (one n, or one a problem).

    `method` says so where there are fewer than 2k samples a problem. Raises InvalidInput as `pass_at_k`, and without a k or a problem.
    """
    if len(ks) == 0 or correct.ndim != 1:
        raise InvalidInput("A pass@k curve needs counts [problem], not grades, and at least one k, such as ks=(1, 2, 4, 8).")
    ordered = tuple(sorted(set(ks)))
    replicates = replicate_weights(len(correct), n_boot, seed) @ np.stack([pass_at_k(n, correct, k) for k in ordered], axis=1)
    notes = ["; fewer than 2k samples a problem" if np.min(n) < 2 * k else "" for k in ordered]
    estimates = (summary(column, len(correct), note=note, share=True) for column, note in zip(replicates.T, notes, strict=True))
    return PassCurve(ordered, tuple(estimates), replicates[1:])


def guessing_floor(n_answers: int, k: int) -> float:
    """Chance that one of k uniform guesses among n_answers is right: 1 - (1 - 1/n_answers)^k."""
    if n_answers < 1 or k < 1:
        raise InvalidInput(f"guessing_floor needs n_answers >= 1 and k >= 1, got {n_answers} and {k}.")
    return float(1 - (1 - 1 / n_answers) ** k)


def crossover_k(
    base_counts: PerProblem, rl_counts: PerProblem, n_base: Counts, n_rl: Counts, ks: Sequence[int], *, n_boot: int = 2000, seed: int = 0
) -> Estimate:  # fmt: skip
    """Smallest k of `ks` at which the base's pass@k is not below the RL model's (Yue et al. 2025, arXiv 2504.13837).

    A draw that never crosses is infinite, so `hi` is inf if more than 2.5% of the draws do not cross; `method` holds the share that does.
    Undefined if the measured curves never cross. If the base is not below at the smallest k, that k is the value and `reason` says so.
    """
    aligned({"base_counts": base_counts, "rl_counts": rl_counts})
    base, rl = (pass_at_k_curve(c, n, ks, n_boot=n_boot, seed=seed) for c, n in ((base_counts, n_base), (rl_counts, n_rl)))
    lead = np.vstack([[b.value - r.value for b, r in zip(base.estimates, rl.estimates, strict=True)], base.draws - rl.draws])
    reached = lead >= -TINY
    first = np.where(reached.any(axis=1), np.array(base.ks, dtype=float)[reached.argmax(axis=1)], np.inf)
    share = f"the base reaches RL in {np.isfinite(first[1:]).mean():.1%} of the draws"
    if math.isinf(first[0]):
        return undefined(f"base stays below RL up to k={base.ks[-1]}; {share}", len(base_counts))
    return summary(first, len(base_counts), caveat=f"base is not below RL at k={base.ks[0]}" if reached[0, 0] else "", note=f"; {share}")


def gap_recovered(base: Grades, rl: Grades, hybrid: Grades, *, n_boot: int = 2000, seed: int = 0) -> Estimate:
    """(hybrid - base) / (rl - base): signed, never clamped. The same problems in the same order; numbers of samples may differ.

    Undefined when the interval of rl - base is not above 0. In the draws (at most 2.5%) in which rl - base is not positive, the recovery is
    infinite with the sign of hybrid - base: beyond every finite value, as in Fieller's (1954) interval of a ratio. Raises InvalidInput for
    different numbers of problems and for NaN: grade every sample, an unfinished or unparsed one as 0.
    """
    return gap_difference(base, rl, hybrid, base, n_boot=n_boot, seed=seed)


def gap_difference(base: Grades, rl: Grades, hybrid: Grades, control: Grades, *, n_boot: int = 2000, seed: int = 0) -> Estimate:
    """How much more of the gap the hybrid recovers than its control, paired: (hybrid - control) / (rl - base). Else as `gap_recovered`."""
    arms = aligned({"base": base, "rl": rl, "hybrid": hybrid, "control": control})
    weights = replicate_weights(len(arms["rl"]), n_boot, seed)
    gap, gain = weights @ (arms["rl"] - arms["base"]), weights @ (arms["hybrid"] - arms["control"])
    return summary(over_gap(gain, gap), len(arms["rl"]), gap_reason(gap, len(arms["rl"])))


def shapley_shares(base: Grades, timing: Grades, content: Grades, rl: Grades, *, n_boot: int = 2000, seed: int = 0) -> dict[str, Estimate]:
    """Shapley values over {timing, content} with v(neither) = base and v(both) = rl (Shapley 1953).

    "timing" is [(timing - base) + (rl - content)] / 2 / (rl - base), "content" likewise: together 1, also in each draw; undefined as in
    `gap_recovered`. "timing_gain" and "content_gain" are the numerators, in accuracy (0 to 1): defined whatever the gap.
    """
    arms, shares = aligned({"base": base, "timing": timing, "content": content, "rl": rl}), {}
    for name, other in (("timing", "content"), ("content", "timing")):
        gain = (arms[name] - arms["base"] + arms["rl"] - arms[other]) / 2
        shares[name] = gap_difference(arms["base"], arms["rl"], gain, np.zeros_like(gain), n_boot=n_boot, seed=seed)
        shares[f"{name}_gain"] = mean_estimate(gain, n_boot=n_boot, seed=seed)
    return shares


def coalitions(players: Sequence[str]) -> dict[str, frozenset[str]]:
    """All sets of players by the name of their arm: "base" for none, "rl" for all, else the players joined by "+".

    >>> [*coalitions(("timing", "content"))]
    ['base', 'timing', 'content', 'rl']
    """
    sets = [c for size in range(len(players) + 1) for c in combinations(players, size)]
    return {"base" if not c else "rl" if len(c) == len(players) else "+".join(c): frozenset(c) for c in sets}


def shapley_values(worth: Mapping[frozenset[str], Float[np.ndarray, "*shape"]]) -> dict[str, Float[np.ndarray, "*shape"]]:
    """Each player's mean contribution over all orders in which the players may join (Shapley 1953): together worth(all) - worth(none).

    Elementwise, so values by problem give values by problem. Raises InvalidInput where a set of the players has no worth.
    """
    players = sorted(frozenset().union(*worth))
    if missing := [name for name, members in coalitions(players).items() if members not in worth]:
        raise InvalidInput(f"Shapley values of {players} need the worth of all {2 ** len(players)} sets; {missing[0]!r} is missing.")
    out = {}
    for player in players:
        without = [members for members in worth if player not in members]
        weights = [math.factorial(len(m)) * math.factorial(len(players) - len(m) - 1) / math.factorial(len(players)) for m in without]
        out[player] = np.asarray(sum(w * (worth[m | {player}] - worth[m]) for w, m in zip(weights, without, strict=True)))
    return out


def undefined(reason: str, n: int) -> Estimate:
    """An estimate without a value, and why."""
    return Estimate(math.nan, math.nan, math.nan, n, "none", reason)


def aligned(arms: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each arm as finite floats [problem], samples averaged; raises InvalidInput for different numbers of problems and for NaN."""
    means = {}
    for name, values in arms.items():
        array = np.asarray(values, dtype=float)
        if array.ndim not in (1, 2) or array.size == 0:
            raise InvalidInput(f"{name} must be a non-empty [problem] or [problem, sample] array, got shape {array.shape}.")
        if not np.isfinite(array).all():
            bad = f"{np.count_nonzero(~np.isfinite(array))} of {array.size} entries"
            raise InvalidInput(f"{name} has NaN or infinity in {bad}: grade every sample, failures as 0.")
        means[name] = array if array.ndim == 1 else array.mean(axis=1)
    if len({len(mean) for mean in means.values()}) > 1:
        sizes = ", ".join(f"{name} {len(mean)}" for name, mean in means.items())
        raise InvalidInput(f"Numbers of problems differ ({sizes}): pass the same problems in the same order.")
    return means


@lru_cache(4)  # each takes 16 kB a problem
def replicate_weights(n: int, n_boot: int, seed: int) -> np.ndarray:
    """[replicate, problem]: uniform weights for the point estimate, then the draws. Drawn once, so read-only."""
    weights = np.vstack([np.full(n, 1 / n) if n else np.empty(0), problem_weights(n, n_boot, seed)])
    weights.setflags(write=False)
    return weights


def over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A ratio; NaN where the denominator is not positive."""
    return np.asarray(np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0))


def over_gap(gain: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """The gain over the gap; where the gap is not positive, infinite with the sign of the gain, or NaN for no gain."""
    beyond = np.select([gain > TINY, gain < -TINY], [np.inf, -np.inf], np.nan)
    return np.asarray(np.divide(gain, gap, out=beyond, where=gap > TINY))


def summary(replicates: np.ndarray, n: int, reason: str = "", *, caveat: str = "", note: str = "", share: bool = False) -> Estimate:
    """The point estimate with the interval of its draws, or, given a reason, undefined.

    With `share` (a mean over n problems of numbers within 0 and 1, such as an accuracy) no upper bound is below Wilson's of 0 of n, no lower bound above that of n of
    n: that none of 20 problems was solved does not say that none ever is, and one that was solved does not say that it is rarer.
    """
    draws = replicates[1:]
    lo, hi = percentile_interval(draws) if n > 1 else (math.nan, math.nan)
    lost = int(np.isnan(draws).sum())
    if not reason and n > 1 and math.isnan(lo):
        reason = f"undefined in {lost} of {len(draws)} draws"
    if reason:
        return undefined(reason, n)
    value = float(replicates[0])
    method = f"bootstrap over problems, {len(draws)} draws, percentile 95%" + (f", {lost} undefined draws left out" if lost else "")
    if share and n > 1 and (wider := (min(lo, wilson(n, n).lo), max(hi, wilson(0, n).hi))) != (lo, hi):
        (lo, hi), method = wider, method + ", widened to Wilson's of none or all"
    return Estimate(value, lo, hi, n, method + note, caveat if n > 1 else "one problem: no interval")


def gap_reason(gap: np.ndarray, n: int) -> str:
    """Why nothing can be divided by this gap; empty if its interval is above 0."""
    estimate = summary(gap, n)
    return "" if estimate.lo > TINY else f"RL gain not above 0: {estimate}"
