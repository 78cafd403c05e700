"""Estimates against independent truth: brute force over subsets and orderings, closed forms, scipy, simulated coverage."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binomtest

from latentreason.errors import InvalidInput
from latentreason.stats import (
    Estimate,
    crossover_k,
    gap_difference,
    gap_recovered,
    guessing_floor,
    mean_estimate,
    pass_at_k,
    pass_at_k_curve,
    percentile_interval,
    pooled_ratio,
    problem_weights,
    shapley_shares,
    wilson,
)

few_examples = settings(max_examples=30, deadline=None)


def bernoulli(seed: int, rates: np.ndarray, samples: int = 4) -> np.ndarray:
    return (np.random.default_rng(seed).random((len(rates), samples)) < rates[:, None]).astype(float)


def numbers(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.lo, estimate.hi


# Estimate


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.62, 0.55, 0.68, 40, "m"), "0.62 [0.55, 0.68]"),
        (Estimate(0.0512, 0.0501, 0.0523, 40, "m"), "0.0512 [0.0501, 0.0523]"),
        (Estimate(-0.001, -0.2, 0.2, 40, "m"), "0.00 [-0.20, 0.20]"),
        (Estimate(0.37, 0.0027, 0.746, 40, "m"), "0.37 [>0.00, 0.75]"),  # above 0, and said so
        (Estimate(-0.1, -0.3, -1.3e-6, 40, "m"), "-0.10 [-0.30, <0.00]"),
        (Estimate(0.1, 1e-16, 0.3, 40, "m"), "0.10 [0.00, 0.30]"),  # rounding
        (Estimate(0.1, 0.0, 0.3, 40, "m"), "0.10 [0.00, 0.30]"),
        (Estimate(16.0, 8.0, math.inf, 40, "m"), "16 [8, inf]"),
        (Estimate(1.0, 1.0, 1.0, 40, "m"), "1.00 [1.00, 1.00]"),
        (Estimate(1.0, 1 - 1e-16, 1 + 2e-16, 40, "m"), "1.00 [1.00, 1.00]"),
        (Estimate(0.5, math.nan, math.nan, 1, "m", "one problem"), "0.50 (one problem)"),
        (Estimate(math.nan, math.nan, math.nan, 0, "none", "no problems"), "undefined (no problems)"),
    ],
)
def test_estimate_prints_value_and_interval_or_why_it_is_undefined(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text


def test_estimate_as_a_row_has_the_columns_of_every_estimate_table() -> None:
    row = wilson(3, 10).to_dict()
    assert list(row) == ["value", "lo", "hi", "n", "method", "reason"]
    assert wilson(3, 10).defined and not wilson(0, 0).defined


# The bootstrap


def test_weights_are_resamples_of_whole_problems() -> None:
    weights = problem_weights(7, 50, seed=3)
    assert weights.shape == (50, 7)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights * 7, np.round(weights * 7))
    np.testing.assert_array_equal(weights, problem_weights(7, 50, seed=3))
    assert (weights != problem_weights(7, 50, seed=4)).any()
    assert (weights.std(axis=1) > 0).all()  # no row of uniform weights


def test_bootstrap_standard_error_of_a_mean_is_the_closed_form() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=80)
    error = values.std() / math.sqrt(80)
    draws = problem_weights(80, 20_000) @ values
    assert draws.std() == pytest.approx(error, rel=0.02)
    estimate = mean_estimate(values, n_boot=20_000)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.hi - estimate.lo == pytest.approx(2 * 1.96 * error, rel=0.04)
    assert estimate.n == 80


def test_samples_of_one_problem_do_not_count_as_independent() -> None:
    one_each = (np.random.default_rng(1).random(50) < 0.5).astype(float)
    copies = np.repeat(one_each[:, None], 16, axis=1)
    assert numbers(mean_estimate(copies)) == pytest.approx(numbers(mean_estimate(one_each)))


def test_percentile_interval_matches_numpy_and_orders_infinite_draws() -> None:
    draws = np.random.default_rng(2).normal(size=2000)
    expected = np.quantile(draws, 0.025, method="lower"), np.quantile(draws, 0.975, method="higher")
    assert percentile_interval(draws) == expected
    draws[:60] = np.inf  # 3% beyond every finite value
    lo, hi = percentile_interval(draws)
    assert math.isfinite(lo) and hi == math.inf


def test_percentile_interval_leaves_out_undefined_draws_up_to_five_percent() -> None:
    draws = np.arange(1000.0)
    draws[:50] = np.nan
    assert percentile_interval(draws) == percentile_interval(draws[50:])
    draws[50] = np.nan
    assert all(math.isnan(bound) for bound in percentile_interval(draws))


def test_pooled_ratio_is_sum_over_sum_and_matches_the_delta_method() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(50, 400, size=200)
    changed = rng.binomial(tokens, rng.beta(2, 20, size=200))
    estimate = pooled_ratio(changed, tokens, n_boot=5000)
    ratio = changed.sum() / tokens.sum()
    error = np.std(changed - ratio * tokens) / tokens.mean() / math.sqrt(200)
    assert estimate.value == pytest.approx(ratio)
    assert estimate.hi - estimate.lo == pytest.approx(2 * 1.96 * error, rel=0.06)


@pytest.mark.parametrize("all_are", [0.0, 1.0])
def test_a_share_on_which_all_problems_agree_has_the_interval_of_scipys_binomial_test(all_are: float) -> None:
    values = np.full((20, 3), all_are)
    peer = binomtest(int(20 * all_are), 20).proportion_ci(method="wilson")
    for found in (mean_estimate(values, share=True), pass_at_k_curve((3 * values[:, 0]).astype(int), 3, [2]).estimates[0]):
        assert (found.value, found.lo, found.hi) == pytest.approx((all_are, peer.low, peer.high))
        assert found.n == 20 and "widened to Wilson's of none or all" in found.method
    plain = mean_estimate(values)  # such as a difference, which is no share
    assert (plain.lo, plain.hi) == (all_are, all_are) and plain.method.startswith("bootstrap")
    nearly = values[:, 0] + (1e-9 if all_are == 0 else -1e-9)  # what rounding leaves of all
    assert (mean_estimate(nearly, share=True).lo, mean_estimate(nearly, share=True).hi) == pytest.approx((peer.low, peer.high), abs=1e-6)
    some_differ = np.vstack([values[8:], 1 - values[:8]])  # far from either end nothing changes
    assert mean_estimate(some_differ, share=True) == mean_estimate(some_differ)
    assert mean_estimate(values[:1], share=True).reason == "one problem: no interval"


def test_bounds_of_a_share_rise_with_it_and_do_not_jump_at_the_ends() -> None:
    rates = np.linspace(0, 1, 101)
    found = [mean_estimate(np.r_[np.full(10, rate), np.zeros(54)], share=True) for rate in rates]
    for bounds in ([e.lo for e in found], [e.hi for e in found]):
        assert (np.diff(bounds) >= 0).all() and np.diff(bounds).max() < 0.01


def test_nothing_to_average_is_undefined_and_one_problem_has_no_interval() -> None:
    assert mean_estimate(np.zeros((0, 3))).reason == "no problems"
    assert pooled_ratio(np.zeros(0), np.zeros(0)).reason == "no problems"
    assert pooled_ratio(np.zeros(3), np.zeros(3)).reason == "the denominator sums to 0"
    sparse = np.eye(10)[0]  # a third of the draws miss the only problem with a denominator
    assert not pooled_ratio(sparse, sparse).defined and "of 2000 draws" in pooled_ratio(sparse, sparse).reason
    one = mean_estimate(np.ones((1, 5)))
    assert one.value == 1 and math.isnan(one.lo) and one.reason == "one problem: no interval"


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (37, 80), (10, 10)])
def test_wilson_equals_scipy(successes: int, n: int, level: float) -> None:
    expected = binomtest(successes, n).proportion_ci(level, method="wilson")
    assert numbers(wilson(successes, n, level)) == pytest.approx((successes / n, expected.low, expected.high), abs=1e-12)


# pass@k


@few_examples
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_mean_over_all_subsets(case: tuple[int, int, int]) -> None:
    n, c, k = case
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(statistics.fmean(any(subset) for subset in subsets), abs=1e-12)


@few_examples
@given(st.integers(2, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n - 1))))
def test_pass_at_k_grows_in_k_and_in_c_and_stays_a_probability(case: tuple[int, int, int]) -> None:
    n, c, k = case
    value = pass_at_k(n, c, k)
    assert 0 <= value <= pass_at_k(n, c, k + 1) + 1e-12 <= 1 + 2e-12
    assert value <= pass_at_k(n, min(c + 1, n), k) + 1e-12
    assert value == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-9)


def test_pass_at_k_broadcasts_over_problems() -> None:
    n, c = np.array([4, 8, 8]), np.array([1, 0, 8])
    np.testing.assert_allclose(pass_at_k(n, c, 2), [0.5, 0, 1])
    np.testing.assert_allclose(pass_at_k(8, c, 1), c / 8)


def test_pass_at_k_refuses_what_it_cannot_estimate() -> None:
    with pytest.raises(InvalidInput, match=r"pass@8 needs at least 8 samples a problem, got 4: sample at least 8 \(better 16\)"):
        pass_at_k(np.array([16, 4]), np.array([1, 1]), 8)
    with pytest.raises(InvalidInput, match="k must be at least 1"):
        pass_at_k(4, 1, 0)
    with pytest.raises(InvalidInput, match="between 0 and n"):
        pass_at_k(4, 5, 1)
    with pytest.raises(InvalidInput, match="at least one k"):
        pass_at_k_curve(np.array([1]), 4, [])
    with pytest.raises(InvalidInput, match="guessing_floor needs"):
        guessing_floor(0, 4)


def test_pass_curve_is_the_mean_over_problems_and_pairs_with_another() -> None:
    counts = np.array([0, 1, 3, 16, 8, 0])
    curve = pass_at_k_curve(counts, 16, [8, 1, 16], n_boot=300)
    assert curve.ks == (1, 8, 16)
    assert [e.value for e in curve.estimates] == pytest.approx([np.mean(pass_at_k(16, counts, k)) for k in (1, 8, 16)])
    assert ["fewer than 2k" in e.method for e in curve.estimates] == [False, False, True]
    same = pass_at_k_curve(counts, np.full(6, 16), (1, 8, 16), n_boot=300)
    np.testing.assert_array_equal(curve.draws - same.draws, 0)
    np.testing.assert_allclose(curve.draws[:, 0], problem_weights(6, 300) @ (counts / 16))


def test_guessing_floor_is_the_simulated_rate() -> None:
    guesses = np.random.default_rng(4).integers(5, size=(50_000, 3))
    assert guessing_floor(5, 3) == pytest.approx((guesses == 0).any(axis=1).mean(), abs=0.01)
    assert guessing_floor(1, 7) == 1


def test_crossover_is_the_first_k_at_which_the_base_is_not_below() -> None:
    rl, base = np.repeat([32, 0], [20, 20]), np.full(40, 4)  # RL: half of the problems always; base: an eighth of the samples everywhere
    ks = [1, 2, 4, 8, 16]
    expected = next(k for k in ks if 1 - math.comb(28, k) / math.comb(32, k) >= 0.5)
    estimate = crossover_k(base, rl, 32, 32, ks, n_boot=500)
    assert estimate.value == expected and estimate.lo in ks and estimate.lo <= expected <= estimate.hi
    assert "of the draws" in estimate.method and estimate.reason == ""


def test_crossover_that_some_draws_never_reach_has_no_upper_bound() -> None:
    rl, base = np.repeat([32, 0], [20, 20]), np.full(40, 4)
    estimate = crossover_k(base, rl, 32, 32, [1, 2, 4, 5], n_boot=500)
    assert estimate.value == 5 and estimate.hi == math.inf
    assert str(estimate) == "5 [4, inf]"


def test_crossover_says_when_there_is_none() -> None:
    never = crossover_k(np.zeros(10, dtype=int), np.full(10, 8), 16, 8, [4, 1, 8])
    assert not never.defined and never.reason.startswith("base stays below RL up to k=8")
    at_once = crossover_k(np.full(10, 3), np.full(10, 3), 16, 16, [1, 4])
    assert at_once.value == 1 and at_once.reason == "base is not below RL at k=1"


# The gap recovered


def test_recovery_is_signed_and_never_clamped() -> None:
    base, rl = np.full((30, 2), 0.4), np.full((30, 3), 0.6)
    assert gap_recovered(base, rl, np.full(30, 0.3)).value == pytest.approx(-0.5)
    assert gap_recovered(base, rl, np.full(30, 0.5)).value == pytest.approx(0.5)
    assert gap_recovered(base, rl, np.full(30, 0.9)).value == pytest.approx(2.5)


def test_recovery_of_the_ends_is_exact_and_booleans_are_grades() -> None:
    base, rl = bernoulli(0, np.full(60, 0.2)), bernoulli(1, np.full(60, 0.7))
    assert numbers(gap_recovered(base.astype(bool), rl.astype(bool), rl.astype(bool))) == (1, 1, 1)
    assert numbers(gap_recovered(base, rl, base)) == (0, 0, 0)


def test_95_percent_interval_of_the_recovery_covers_the_truth_95_times_in_100() -> None:
    covered = 0
    for seed in range(150):
        rng = np.random.default_rng(1000 + seed)
        base_rate, gain = rng.beta(2, 4, size=60), rng.uniform(0, 0.5, size=60)  # new problems each time; the hybrid has 0.6 of the gain
        base, rl, hybrid = (bernoulli(3 * seed + i, base_rate + f * gain) for i, f in enumerate((0, 1, 0.6)))
        estimate = gap_recovered(base, rl, hybrid, n_boot=400, seed=seed)
        covered += estimate.lo <= 0.6 <= estimate.hi
    assert 0.88 <= covered / 150 <= 0.99


@pytest.mark.parametrize("rl_rate", [0.1, 0.4])
def test_without_a_gain_of_rl_the_recovery_is_undefined(rl_rate: float) -> None:
    base, rl = bernoulli(0, np.full(50, 0.4)), bernoulli(1, np.full(50, rl_rate))
    estimate = gap_recovered(base, rl, base)
    assert not estimate.defined and math.isnan(estimate.lo) and math.isnan(estimate.hi)
    assert estimate.reason.startswith("RL gain not above 0: ")
    assert not gap_recovered(base, base, base).defined
    assert not gap_recovered(base[::-1].copy(), base, rl).defined  # equal in the mean, but for rounding
    assert not gap_recovered(np.zeros((1, 4)), np.ones((1, 4)), np.ones((1, 4))).defined


def test_draws_without_a_gap_count_as_beyond_every_finite_recovery() -> None:
    base, rl = np.repeat([1.0, 0.0], [2, 38]), np.repeat([0.0, 1.0, 0.0], [2, 9, 29])  # gain 7/40, its lower bound barely above 0
    weights = problem_weights(40)
    gap, gain = weights @ (rl - base), weights @ (0.3 - base)
    assert 0 < (gap < 1e-9).mean() < 0.025
    ratio = np.sort([g / d if d > 1e-9 else math.copysign(math.inf, g) for g, d in zip(gain, gap, strict=True)])
    estimate = gap_recovered(base, rl, np.full(40, 0.3))
    assert numbers(estimate) == pytest.approx((0.25 / 0.175, ratio[49], ratio[-50]))
    assert estimate.hi > np.quantile(ratio[np.isfinite(ratio)], 0.975)  # leaving these draws out would make it too narrow


def test_difference_of_two_recoveries_is_paired() -> None:
    rates = np.random.default_rng(5).uniform(0.1, 0.4, size=60)
    base, rl = bernoulli(0, rates), bernoulli(1, rates + 0.5)
    hybrid = bernoulli(2, rates + 0.4)
    control = hybrid.copy()
    control[:6] = base[:6]
    difference = gap_difference(base, rl, hybrid, control)
    apart = [gap_recovered(base, rl, arm) for arm in (hybrid, control)]
    assert difference.value == pytest.approx(apart[0].value - apart[1].value)
    assert difference.hi - difference.lo < min(arm.hi - arm.lo for arm in apart)
    assert numbers(gap_difference(base, rl, hybrid, hybrid)) == (0, 0, 0)
    assert not gap_difference(rl, base, hybrid, control).defined


@few_examples
@given(st.integers(0, 10_000), st.floats(0.1, 100), st.floats(-5, 5))
def test_recovery_ignores_the_scale_of_grades_and_its_value_the_order_of_problems(seed: int, scale: float, shift: float) -> None:
    base, rl, hybrid = (bernoulli(seed + i, np.full(30, rate)) for i, rate in enumerate((0.1, 0.9, 0.5)))
    estimate = gap_recovered(base, rl, hybrid, n_boot=100)
    other = gap_recovered(*(scale * arm + shift for arm in (base, rl, hybrid)), n_boot=100)
    assert numbers(other) == pytest.approx(numbers(estimate), abs=1e-6)
    order = np.random.default_rng(seed).permutation(30)
    assert gap_recovered(base[order], rl[order], hybrid[order], n_boot=100).value == pytest.approx(estimate.value)


@pytest.mark.usefixtures("unchecked_shapes")
def test_arms_that_do_not_fit_are_refused_with_the_fix() -> None:
    good = np.ones((10, 2))
    with pytest.raises(InvalidInput, match=r"base 10, rl 10, hybrid 9, control 10\): pass the same problems"):
        gap_difference(good, good, good[:9], good)
    with pytest.raises(InvalidInput, match="hybrid has NaN or infinity in 1 of 10 entries: grade every sample"):
        gap_recovered(good, good, np.r_[np.nan, np.ones(9)])
    with pytest.raises(InvalidInput, match=r"rl must be a non-empty \[problem\] or \[problem, sample\] array"):
        gap_recovered(good, np.ones((10, 0)), good)
    with pytest.raises(InvalidInput, match="negative entries"):
        pooled_ratio(np.ones(3), np.array([1.0, -1.0, 2.0]))
    with pytest.raises(InvalidInput, match="counts \\[problem\\], not grades"):
        pass_at_k_curve(np.ones((3, 4), dtype=int), 4, [1])
    with pytest.raises(InvalidInput, match="pass counts, not rates"):
        pass_at_k_curve(np.full(3, 0.5), 4, [1])
    with pytest.raises(InvalidInput, match="0 <= successes <= n"):
        wilson(3, 2)
    with pytest.raises(InvalidInput, match="n_boot >= 1"):
        mean_estimate(good, n_boot=0)


# Shapley shares


def four_arms(seed: int) -> dict[str, np.ndarray]:
    rates = {"base": 0.1, "timing": 0.5, "content": 0.3, "rl": 0.9}
    return {name: bernoulli(seed + i, np.full(80, rate)) for i, (name, rate) in enumerate(rates.items())}


@few_examples
@given(st.integers(0, 10_000))
def test_shapley_shares_are_the_mean_over_orderings_and_add_up_to_one(seed: int) -> None:
    arms = four_arms(seed)
    worth = {"": arms["base"].mean(), "t": arms["timing"].mean(), "c": arms["content"].mean(), "tc": arms["rl"].mean()}
    gains = {"t": 0.0, "c": 0.0}
    for ordering in ("tc", "ct"):
        for i, player in enumerate(ordering):
            before, after = ("".join(sorted(ordering[:stop], reverse=True)) for stop in (i, i + 1))
            gains[player] += (worth[after] - worth[before]) / 2
    shares = shapley_shares(**arms, n_boot=200, seed=seed)
    assert list(shares) == ["timing", "timing_gain", "content", "content_gain"]
    assert shares["timing_gain"].value == pytest.approx(gains["t"])
    assert shares["content"].value == pytest.approx(gains["c"] / (worth["tc"] - worth[""]))
    assert shares["timing"].value + shares["content"].value == pytest.approx(1)
    assert shares["timing"].lo + shares["content"].hi == pytest.approx(1)  # so in each draw: one is high where the other is low
    assert shares["timing"].hi + shares["content"].lo == pytest.approx(1)


def test_shapley_shares_of_no_gain_are_undefined_but_its_parts_are_not() -> None:
    arms = four_arms(0)
    shares = shapley_shares(**arms | {"rl": arms["base"]})
    assert [name for name, share in shares.items() if share.defined] == ["timing_gain", "content_gain"]
    assert shares["timing"].reason.startswith("RL gain not above 0")
