"""Recovery curves against synthetic truth, numpy's interpolation and a plain loop over draws."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from latentreason.curves import GRID, CurvePoint, RecoveryCurve, curve_difference, recovery_curve
from latentreason.errors import InvalidInput
from latentreason.stats import Estimate, gap_recovered, percentile_interval, pooled_ratio, problem_weights

few_examples = settings(max_examples=30, deadline=None)


def numbers(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.lo, estimate.hi


def synthetic(xs: list[float], ys: list[float], *, n_boot: int = 100, seed: int = 0) -> RecoveryCurve:
    """A curve whose measured points are exactly (xs, ys) in the point estimate and in each draw: base 0.2, RL 0.8, D 0.08."""
    tokens = np.random.default_rng(0).integers(100, 200, size=30) * 1000
    arms = [CurvePoint(np.full(30, 0.2 + 0.6 * y), tokens * 0.08 * x, tokens) for x, y in zip(xs, ys, strict=True)]
    base, rl = CurvePoint(np.full(30, 0.2), np.zeros(30), tokens), CurvePoint(np.full(30, 0.8), tokens * 0.08, tokens)
    return recovery_curve(base, rl, arms, n_boot=n_boot, seed=seed)


def noisy(seed: int) -> tuple[CurvePoint, CurvePoint, list[CurvePoint]]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(100, 300, size=60)
    rates = rng.uniform(0.1, 0.3, size=60)

    def arm(gain: float, changed: float) -> CurvePoint:
        return CurvePoint(rng.binomial(4, rates + gain) / 4, rng.binomial(tokens, changed), tokens)

    return arm(0, 0), arm(0.6, 0.08), [arm(0.15, 0.02), arm(0.35, 0.04), arm(0.55, 0.07)]


def test_curve_on_the_diagonal_has_area_a_half() -> None:
    curve = synthetic([0.7, 0.2], [0.7, 0.2])
    assert numbers(curve.area) == pytest.approx((0.5, 0.5, 0.5))
    assert {budget: estimate.value for budget, estimate in curve.at.items()} == pytest.approx({0.25: 0.25, 0.5: 0.5, 0.75: 0.75})
    np.testing.assert_allclose(curve.band.y, GRID)
    assert curve.order == (1, 0) and [e.value for e in curve.x] == pytest.approx([0.2, 0.7])
    assert curve.full.value == pytest.approx(0.08) and curve.changed[0].value == pytest.approx(0.016)


def test_concave_curve_has_the_area_of_its_closed_form() -> None:
    xs = list(np.linspace(0, 1, 101)[1:-1])
    curve = synthetic(xs, [math.sqrt(x) for x in xs], n_boot=20)
    assert curve.area.value == pytest.approx(2 / 3, abs=1e-3)
    assert curve.at[0.25].value == pytest.approx(0.5)
    two_points = synthetic([0.25, 0.75], [0.1, 0.9])  # three straight pieces: a triangle and two trapezoids
    assert two_points.area.value == pytest.approx(0.25 * 0.1 / 2 + 0.5 * (0.1 + 0.9) / 2 + 0.25 * (0.9 + 1) / 2)
    assert two_points.at[0.5].value == pytest.approx(0.5)


def test_what_was_not_reached_is_undefined_and_says_so() -> None:
    curve = synthetic([0.2, 0.46], [0.1, 0.5])
    assert curve.at[0.25].defined and not curve.at[0.5].defined and not curve.at[0.75].defined and not curve.area.defined
    assert str(curve.area) == "undefined (the arms lie between 0.20 and 0.46 D)"
    assert np.isnan(curve.band.y).tolist() == (GRID > 0.485).tolist()
    assert np.isnan([curve.band.lo, curve.band.hi]).any(0).tolist() == (GRID > 0.485).tolist()
    difference = curve_difference(synthetic([0.2, 0.8], [0.2, 0.7]), curve)
    assert difference.at[0.25].defined and not difference.area.defined and "0.46 D" in difference.area.reason
    assert synthetic([0.35, 0.65], [0.3, 0.5]).area.defined
    assert not synthetic([0.35, 0.64], [0.3, 0.5]).area.defined and not synthetic([0.36, 0.65], [0.3, 0.5]).area.defined
    single = synthetic([0.5], [0.6])  # a straight line from the base is no measurement either
    assert single.at[0.5].defined and not single.at[0.25].defined and not single.at[0.75].defined


@few_examples
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(-10, 30)), min_size=1, max_size=5), st.randoms())
def test_curve_does_not_depend_on_the_order_of_its_points(points: list[tuple[int, int]], random: Random) -> None:
    shuffled = points.copy()
    random.shuffle(shuffled)
    one, other = (synthetic([x / 20 for x, _ in order], [y / 20 for _, y in order], n_boot=10) for order in (points, shuffled))
    np.testing.assert_allclose(one.band.y, other.band.y, atol=1e-9)
    assert one.area.value == pytest.approx(other.area.value, abs=1e-9, nan_ok=True)


@few_examples
@given(st.lists(st.integers(1, 99), min_size=1, max_size=5, unique=True), st.integers(0, 1000))
def test_curve_is_numpys_interpolation_of_its_sorted_points(hundredths: list[int], seed: int) -> None:
    xs = [x / 100 for x in hundredths]
    ys = list(np.random.default_rng(seed).normal(0.5, 0.5, size=len(xs)))
    order = np.argsort(xs)
    knots, values = np.r_[0, np.array(xs)[order], 1], np.r_[0, np.array(ys)[order], 1]
    curve = synthetic(xs, ys, n_boot=5)
    step = GRID[1] + 1e-9
    reached = ((min(xs) <= 0.35) | (min(xs) - step <= GRID)) & ((max(xs) >= 0.65) | (max(xs) + step >= GRID))
    np.testing.assert_allclose(curve.band.y, np.where(reached, np.interp(GRID, knots, values), np.nan), atol=1e-9)
    assert curve.area.value == pytest.approx(np.trapezoid(values, knots) if reached.all() else np.nan, abs=1e-9, nan_ok=True)


def test_points_beyond_the_rl_model_are_kept_and_do_not_move_the_curve() -> None:
    plain, beyond = synthetic([0.3, 0.75], [0.2, 0.6]), synthetic([1.0, 1.4, 0.75, 0.3], [0.3, 0.2, 0.6, 0.2])
    assert numbers(plain.area) == pytest.approx(numbers(beyond.area))
    assert [e.value for e in beyond.x] == pytest.approx([0.3, 0.75, 1.0, 1.4]) and beyond.y[3].value == pytest.approx(0.2)
    assert beyond.band.y[-1] == pytest.approx(1)


def test_each_draw_of_a_curve_recomputes_x_and_y() -> None:
    base, rl, arms = noisy(0)
    curve = recovery_curve(base, rl, arms, n_boot=200, seed=7)
    draws = []
    for w in problem_weights(60, 200, seed=7):
        full, gap = (w @ rl.changed) / (w @ rl.tokens), w @ (rl.correct - base.correct)
        knots = [0.0, *((w @ arm.changed) / (w @ arm.tokens) / full for arm in arms), 1.0]
        values = [0.0, *((w @ (arm.correct - base.correct)) / gap for arm in arms), 1.0]
        within = [(x, y) for x, y in zip(knots[:-1], values[:-1], strict=True) if x < 1] + [(1.0, 1.0)]
        draws.append([np.interp(0.5, *zip(*within, strict=True)), np.trapezoid([y for _, y in within], [x for x, _ in within])])
    assert (curve.at[0.5].lo, curve.at[0.5].hi) == pytest.approx(percentile_interval(np.array(draws)[:, 0]))
    assert (curve.area.lo, curve.area.hi) == pytest.approx(percentile_interval(np.array(draws)[:, 1]))
    assert curve.y[0].value == pytest.approx(gap_recovered(base.correct, rl.correct, arms[0].correct).value)
    assert curve.x[0].value == pytest.approx(pooled_ratio(arms[0].changed, arms[0].tokens).value / curve.full.value)
    assert (curve.band.lo <= curve.band.y).all() and (curve.band.y <= curve.band.hi).all()


def test_difference_of_curves_is_paired_and_zero_with_itself() -> None:
    base, rl, arms = noisy(0)
    better = [CurvePoint(np.minimum(arm.correct + 0.1, 1), arm.changed, arm.tokens) for arm in arms]
    a, b = (recovery_curve(base, rl, points, n_boot=300) for points in (better, arms))
    assert all(numbers(e) == (0, 0, 0) for e in (curve_difference(a, a).area, *curve_difference(a, a).at.values()))
    difference = curve_difference(a, b)
    assert difference.area.value == pytest.approx(a.area.value - b.area.value)
    assert difference.at[0.25].value == pytest.approx(a.at[0.25].value - b.at[0.25].value)
    assert difference.area.lo > 0 and difference.area.hi - difference.area.lo < a.area.hi - a.area.lo
    other_pair = recovery_curve(base, CurvePoint(rl.correct * 0.9, rl.changed, rl.tokens), arms, n_boot=300)
    assert curve_difference(a, other_pair).area.value == pytest.approx(a.area.value - other_pair.area.value)


@pytest.mark.parametrize("options", [{"seed": 1}, {"n_boot": 99}])
def test_curves_with_other_draws_are_not_compared(options: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="same n_boot and seed"):
        curve_difference(synthetic([0.5], [0.6]), synthetic([0.5], [0.6], **options))


def test_curve_without_a_gain_or_without_changes_is_undefined() -> None:
    base, rl, arms = noisy(0)
    flat = recovery_curve(base, CurvePoint(base.correct, rl.changed, rl.tokens), arms, n_boot=100)
    assert flat.area.reason.startswith("RL gain not above 0") and not flat.y[0].defined and flat.x[0].defined
    assert np.isnan(flat.band.y).all() and not flat.at[0.5].defined
    assert not curve_difference(flat, recovery_curve(base, rl, arms, n_boot=100)).area.defined
    still = recovery_curve(base, CurvePoint(rl.correct, base.changed, rl.tokens), arms, n_boot=100)
    assert still.area.reason == still.x[0].reason == "the RL arm changes no token"
    assert still.full.value == 0 and still.changed[0].defined


@pytest.mark.usefixtures("unchecked_shapes")
def test_curve_refuses_what_cannot_be_one() -> None:
    base, rl, arms = noisy(0)
    with pytest.raises(InvalidInput, match="at least one arm"):
        recovery_curve(base, rl, [])
    with pytest.raises(InvalidInput, match=r"base needs .* for base, changed = 0"):
        recovery_curve(rl, base, arms)
    with pytest.raises(InvalidInput, match=r"arms\[0\] needs tokens > 0"):
        recovery_curve(base, rl, [CurvePoint(rl.correct, rl.changed, 0 * rl.tokens)])
    with pytest.raises(InvalidInput, match="Numbers of problems differ"):
        recovery_curve(base, rl, [CurvePoint(rl.correct[:5], rl.changed[:5], rl.tokens[:5])])
