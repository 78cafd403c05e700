"""Entropy and divergences against scipy in float64, and against what must hold for any two distributions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import special, stats

from latentreason.errors import InvalidInput, UnknownName
from latentreason.routing.base_only import entropy, margin, on_entropy, on_opening
from latentreason.routing.oracle import DIVERGENCES, entropy_drop, js, kl, likelihood_gain, on_divergence, tv
from latentreason.routing.router import Step


def step_of(base, rl=None, t=0):
    n = len(base)
    return Step(t, base, rl, None, None, torch.zeros(n, t, dtype=torch.long), torch.arange(n))


def random_step(seed, scale=3.0, n=6, vocab=23):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(n, vocab, generator=generator) * scale
    return step_of(base, base + torch.randn(n, vocab, generator=generator) * scale / 2)


def probabilities(logits):
    return special.softmax(logits.double().numpy(), axis=-1)


scales = st.floats(0.01, 30.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), scales)
def test_they_equal_scipy_in_float64(seed, scale):
    step = random_step(seed, scale)
    p, q = probabilities(step.base_logits), probabilities(step.rl_logits)
    log_p, log_q = (special.log_softmax(x.double().numpy(), axis=-1) for x in (step.base_logits, step.rl_logits))
    tolerance = {"rtol": 1e-4, "atol": 2e-6}
    np.testing.assert_allclose(entropy(step), stats.entropy(p, axis=-1), **tolerance)
    np.testing.assert_allclose(kl(step), (q * (log_q - log_p)).sum(-1), **tolerance)  # KL(RL || base)
    between = [special.rel_entr(x, (p + q) / 2).sum(-1) for x in (p, q)]  # not distance.jensenshannon: the root of a rounding error is NaN
    np.testing.assert_allclose(js(step), sum(between) / 2, **tolerance)
    np.testing.assert_allclose(tv(step), np.abs(p - q).sum(-1) / 2, **tolerance)
    np.testing.assert_allclose(entropy_drop(step), stats.entropy(p, axis=-1) - stats.entropy(q, axis=-1), **tolerance)
    best, rows = q.argmax(-1), np.arange(len(p))
    np.testing.assert_allclose(likelihood_gain(step), (log_q - log_p)[rows, best], **tolerance)
    ordered = np.sort(p, axis=-1)
    np.testing.assert_allclose(margin(step), 1 - (ordered[:, -1] - ordered[:, -2]), **tolerance)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), scales)
def test_bounds_symmetry_and_how_they_bound_each_other(seed, scale):
    step = random_step(seed, scale)
    back = step_of(step.rl_logits, step.base_logits)
    eps = 1e-5
    assert (js(step) >= -eps).all() and (js(step) <= np.log(2) + eps).all()
    assert (tv(step) >= -eps).all() and (tv(step) <= 1 + eps).all()
    assert (kl(step) >= -eps).all()
    assert (entropy(step) >= -eps).all() and (entropy(step) <= np.log(23) + eps).all()
    torch.testing.assert_close(js(step), js(back), atol=1e-6, rtol=0)
    torch.testing.assert_close(tv(step), tv(back), atol=1e-6, rtol=0)
    assert (2 * tv(step) ** 2 <= kl(step) + eps).all()  # Pinsker
    assert (tv(step) ** 2 / 2 <= js(step) + eps).all() and (js(step) <= np.log(2) * tv(step) + eps).all()


def test_equal_and_disjoint_distributions():
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    for measure in (kl, js, tv):
        torch.testing.assert_close(measure(step_of(logits, logits + 5.0)), torch.zeros(3), atol=1e-6, rtol=0)  # a constant changes nothing
    apart = step_of(torch.tensor([[300.0, 0.0, 0.0]]), torch.tensor([[0.0, 300.0, 0.0]]))
    assert float(js(apart)) == pytest.approx(np.log(2), abs=1e-6)
    assert float(tv(apart)) == pytest.approx(1.0) and float(kl(apart)) == pytest.approx(300.0)
    assert float(entropy(apart)) == pytest.approx(0.0, abs=1e-6)
    assert float(entropy(step_of(torch.zeros(1, 8)))) == pytest.approx(np.log(8), abs=1e-6)


def test_extreme_logits_give_numbers():
    step = step_of(torch.tensor([[1e5, -1e5, 0.0], [-3e4, 3e4, 3e4]]), torch.tensor([[-1e5, 1e5, 0.0], [3e4, -3e4, 3e4]]))
    assert all(measure(step).isfinite().all() for measure in (entropy, kl, js, tv))


@pytest.mark.parametrize("measure", DIVERGENCES)
def test_a_router_routes_above_its_threshold(measure):
    step = random_step(1, n=200)
    score = DIVERGENCES[measure](step)
    threshold = float(score.median())
    router = on_divergence(measure, threshold)
    assert torch.equal(router.decide(step), score > threshold) and 90 < int(router.decide(step).sum()) < 110
    assert (router.name, dict(router.params), router.reads) == (f"on_divergence({measure})", {"measure": measure, "threshold": threshold}, {"base", "rl"})


def test_the_entropy_router_never_asks_the_rl_model():
    step = random_step(2)
    alone = step_of(step.base_logits)
    assert on_entropy().reads == {"base"}
    assert torch.equal(on_entropy(1.0).decide(alone), entropy(step) > 1.0)


def test_a_measure_that_does_not_exist_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match=r"^Unknown divergence 'jss'\. Did you mean 'js'\? Known: js, kl, tv\.$"):
        on_divergence("jss")


@pytest.mark.parametrize("router", [on_entropy, lambda threshold: on_divergence("kl", threshold)])
def test_a_threshold_that_is_no_number(router):
    with pytest.raises(InvalidInput, match="is NaN; give a number, or let `calibrated` choose it"):
        router(float("nan"))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), scales, st.sets(st.integers(0, 22), min_size=1, max_size=22))
def test_an_expected_opening_is_the_log_of_the_odds_of_its_tokens(seed, scale, ids):
    step = random_step(seed, scale)
    p = probabilities(step.base_logits)
    router, rest = on_opening([*ids, *ids], threshold=-1.0), [i for i in range(23) if i not in ids]
    np.testing.assert_allclose(router.score(step), np.log(p[:, sorted(ids)].sum(-1)) - np.log(p[:, rest].sum(-1)), rtol=1e-4, atol=1e-4)
    assert router.reads == {"base", "vocabulary"} and router.params["token_ids"] == sorted(ids)


def test_an_opening_needs_tokens_that_the_models_have():
    with pytest.raises(InvalidInput, match="needs the tokens that open strategies, and got none"):
        on_opening([])
    with pytest.raises(InvalidInput, match=r"reads tokens \[2, 99\], and the models share tokens 0 to 22"):
        on_opening([2, 99]).decide(random_step(0))
