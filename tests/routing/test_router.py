"""Routers combine like sets, and say plainly what they are."""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings, strategies as st

from latentreason.errors import InvalidInput
from latentreason.routing.base_only import on_entropy
from latentreason.routing.controls import always, at_strategy, first_token, never, random_places
from latentreason.routing.oracle import on_disagreement, on_divergence
from latentreason.routing.router import Router, Step, with_threshold

N = 24


def random_step(seed, n=N, vocab=48, t=3):
    generator = torch.Generator().manual_seed(seed)
    base, rl = torch.randn(2, n, vocab, generator=generator) * 2
    tokens = torch.randint(0, vocab, (n, t), generator=generator)
    keys = torch.randint(-(2**62), 2**62, (n,), generator=generator)
    return Step(t, base, rl, base.argmax(-1), (base + rl).argmax(-1), tokens, keys)


def routers():
    return [
        never(), always(), first_token(), at_strategy(), on_entropy(1.5), on_entropy(3.0), on_divergence("js", 0.3), on_divergence("tv", 0.6),
        on_divergence("kl", 1.0), on_disagreement(), random_places("half", [0], [0.5]), random_places("other", [0], [0.5], seed=1),
    ]  # fmt: skip


indices = st.integers(0, len(routers()) - 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), indices, indices, indices)
def test_they_form_a_boolean_algebra(seed, i, j, k):
    step, (a, b, c) = random_step(seed), (routers()[x] for x in (i, j, k))

    def equal(one: Router, other: Router) -> bool:
        return torch.equal(one.decide(step), other.decide(step))

    assert equal(a & b, b & a) and equal(a | b, b | a)
    assert equal((a & b) & c, a & (b & c)) and equal((a | b) | c, a | (b | c))
    assert equal(a & (b | c), (a & b) | (a & c)) and equal(a | (b & c), (a | b) & (a | c))
    assert equal(~(a & b), ~a | ~b) and equal(~(a | b), ~a & ~b) and equal(~~a, a)
    assert equal(a & ~a, never()) and equal(a | ~a, always())
    assert equal(a & always(), a) and equal(a | never(), a) and equal(a & never(), never()) and equal(a | always(), always())
    assert equal(a & a, a) and equal(a | a, a) and equal(a & (a | b), a)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=N, max_size=N), st.lists(st.booleans(), min_size=N, max_size=N))
def test_masks_are_combined_element_by_element(left, right):
    step = random_step(0)
    a, b = (Router(name, decide=lambda _, mask=torch.tensor(mask): mask) for name, mask in (("a", left), ("b", right)))
    assert (a & b).decide(step).tolist() == [x and y for x, y in zip(left, right, strict=True)]
    assert (a | b).decide(step).tolist() == [x or y for x, y in zip(left, right, strict=True)]
    assert (~a).decide(step).tolist() == [not x for x in left]


def test_a_combination_reads_what_its_parts_read_and_says_who_they_are():
    both = on_entropy(0.4) & ~on_divergence("kl", 0.2) | on_disagreement()
    assert both.reads == {"base", "rl", "sampled"}
    assert both.name == "((on_entropy & ~on_divergence(kl)) | on_disagreement)"
    spec = json.loads(json.dumps(both.spec()))
    assert spec["params"]["left"]["params"]["right"]["params"]["not"] == {"name": "on_divergence(kl)", "params": {"measure": "kl", "threshold": 0.2}, "reads": ["base", "rl"]}
    assert both.score is None  # no threshold of its own to calibrate


def test_what_a_router_may_look_at_is_declared():
    """Only the disagreement family reads tokens or noise, and only two routers the vocabulary: neither kind is a headline."""
    reads = {router.name: router.reads for router in [*routers(), random_places("matched", [0], [0.5], disagreements=True)]}
    assert {name for name, what in reads.items() if "sampled" in what} == {"on_disagreement", "matched"}
    assert {name for name, what in reads.items() if "vocabulary" in what} == {"first_token", "at_strategy"}
    assert {name for name, what in reads.items() if "rl" in what} == {"on_disagreement", "matched", "on_divergence(js)", "on_divergence(tv)", "on_divergence(kl)"}


@pytest.mark.parametrize("router", [r for r in routers() if "rl" not in r.reads], ids=lambda r: r.name)
def test_a_router_that_does_not_read_the_rl_model_works_without_it(router):
    step = random_step(3)
    blind = Step(step.t, step.base_logits, None, None, None, step.tokens, step.keys)
    assert torch.equal(router.decide(blind), router.decide(step))


def test_a_router_that_reads_the_rl_model_in_secret_is_caught():
    step = random_step(3)
    with pytest.raises(InvalidInput, match="must say so"):
        Step(step.t, step.base_logits, None, None, None, step.tokens, step.keys).rl_logprobs  # noqa: B018


def test_disagreement_is_where_the_tokens_differ_and_its_subsets_stay_inside():
    step = random_step(4, n=400)
    mask = on_disagreement().decide(step)
    assert torch.equal(mask, step.base_token != step.rl_token) and 0 < int(mask.sum()) < 400
    for router in (on_disagreement() & on_entropy(1.0), random_places("some", [0], [0.5], disagreements=True)):
        inside = router.decide(step)
        assert not (inside & ~mask).any() and 0 < int(inside.sum()) < int(mask.sum())
    assert torch.equal(random_places("all", [0], [1.0], disagreements=True).decide(step), mask)  # at rate 1 it IS the RL model


# --- thresholds --------------------------------------------------------------------------------------------------------


def test_another_threshold_and_all_else_the_same():
    step, router = random_step(5, n=200), on_divergence("js", 0.1)
    for threshold in (0.0, 0.2, 0.5, 1.0):
        moved = with_threshold(router, threshold)
        assert moved == on_divergence("js", threshold) and moved.score is router.score
        assert torch.equal(moved.decide(step), router.score(step) > threshold)
    assert router.params["threshold"] == 0.1


def test_a_higher_threshold_routes_a_subset():
    step = random_step(6, n=200)
    masks = [on_entropy(threshold).decide(step) for threshold in (0.5, 1.0, 2.0, 3.0)]
    assert all(not (high & ~low).any() for low, high in pairwise(masks))


def test_rates_that_were_measured_at_another_threshold_are_dropped():
    from dataclasses import replace

    router = replace(on_entropy(0.5), params={"threshold": 0.5, "calibration": {"D": 0.1}})
    assert with_threshold(router, 0.7).params == {"threshold": 0.7}


@pytest.mark.parametrize("router", [never(), always(), on_disagreement(), ~on_entropy(), on_entropy() & on_divergence()], ids=lambda r: r.name)
def test_a_router_without_a_threshold_has_none_to_choose(router):
    with pytest.raises(InvalidInput, match=r"has no threshold to choose; calibrate it as it is, or use a router with a score"):
        with_threshold(router, 0.5)


# --- a router of one's own ---------------------------------------------------------------------------------------------


def test_the_example_of_the_docstring_works():
    def on_margin(threshold: float) -> Router:
        def decide(step: Step) -> torch.Tensor:
            top = step.base_logits.topk(2).values
            return top[:, 0] - top[:, 1] < threshold

        return Router("on_margin", {"threshold": threshold}, frozenset({"base"}), decide)

    step = random_step(7)
    ordered = step.base_logits.sort(-1).values
    assert torch.equal((on_margin(0.5) & on_entropy(1.0)).decide(step), (ordered[:, -1] - ordered[:, -2] < 0.5) & on_entropy(1.0).decide(step))
