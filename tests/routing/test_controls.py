"""The ends of the scale, random places, and matched controls."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from latentreason.errors import InvalidInput
from latentreason.routing.base_only import on_entropy
from latentreason.routing.controls import (
    always,
    at_strategy,
    first_token,
    matched_disagreement,
    matched_position,
    matched_random,
    never,
    opposite,
    random_places,
    uniform,
)
from latentreason.routing.oracle import on_disagreement, on_divergence
from latentreason.routing.router import Step, by_threshold
from latentreason.sampling.noise import gumbel, row_key
from latentreason.tables import Rollouts
from latentreason.tasks import chain

KEYS = torch.tensor([row_key(0, "p", i) for i in range(5000)])
FACTS = {"edges": [0, 1, 4], "routed_rate": [0.9, 0.2, 0.05], "swap_rate": [0.8, 0.5, 0.25], "budget": 0.5, "D": 0.07}


def step_at(t, keys=KEYS, tokens=None, differ=None):
    n = len(keys)
    tokens = torch.zeros(n, t, dtype=torch.long) if tokens is None else tokens
    base = torch.zeros(n, dtype=torch.long)
    rl = torch.ones(n, dtype=torch.long) if differ is None else differ.long()
    return Step(t, torch.zeros(n, 4), torch.zeros(n, 4), base, rl, tokens, keys)


def calibrated_router():
    from dataclasses import replace

    router = on_divergence("js", 0.1)
    return replace(router, params={**router.params, "calibration": FACTS})


# --- uniform numbers ---------------------------------------------------------------------------------------------------


def test_they_are_uniform_over_rows_and_along_a_row():
    for values in (uniform(KEYS, 7, 0), torch.stack([uniform(KEYS[:1], t, 0) for t in range(5000)]).ravel(), uniform(torch.arange(5000), 0, 0)):
        assert stats.kstest(values.numpy(), "uniform").pvalue > 1e-3
        assert (values >= 0).all() and (values < 1).all()


@pytest.mark.parametrize("other", [lambda: uniform(KEYS, 8, 0), lambda: uniform(KEYS, 7, 1), lambda: uniform(KEYS.roll(1), 7, 0), lambda: uniform(KEYS, 90, 12345)])
def test_neighbours_in_position_seed_and_row_are_independent(other):
    one, two = uniform(KEYS, 7, 0).numpy(), other().numpy()
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(len(one))
    table = np.histogram2d(one, two, bins=6, range=[[0, 1], [0, 1]])[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_they_are_independent_of_the_noise_that_chooses_the_tokens():
    token = gumbel(KEYS, torch.full((5000,), 7), 6).argmax(-1).numpy()
    table = np.histogram2d(uniform(KEYS, 7, 0).numpy(), token, bins=[6, 6])[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_any_integer_is_a_seed():
    values = [uniform(KEYS, 3, seed) for seed in (0, 1, 2**31, 2**40, 2**62, -5)]
    assert all(not torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])


# --- random places -----------------------------------------------------------------------------------------------------


def test_each_stratum_has_its_rate():
    router = random_places("r", FACTS["edges"], FACTS["routed_rate"], seed=3)
    for t, rate in ((0, 0.9), (1, 0.2), (3, 0.2), (4, 0.05), (60, 0.05)):
        hits = int(router.decide(step_at(t)).sum())
        assert stats.binomtest(hits, len(KEYS), rate).pvalue > 1e-3


def test_rates_of_zero_and_one_are_exact():
    assert not random_places("r", [0], [0.0]).decide(step_at(2)).any()
    assert random_places("r", [0], [1.0]).decide(step_at(2)).all()


def test_places_depend_on_row_position_and_seed_alone():
    router = random_places("r", [0], [0.5], seed=3)
    mask = router.decide(step_at(9))
    assert torch.equal(mask, router.decide(step_at(9))) and torch.equal(mask, random_places("else", [0, 5], [0.1, 0.5], seed=3).decide(step_at(9)))
    assert torch.equal(router.decide(step_at(9, KEYS[7:30])), mask[7:30])
    assert not torch.equal(mask, router.decide(step_at(10))) and not torch.equal(mask, random_places("r", [0], [0.5], seed=4).decide(step_at(9)))


def test_a_lower_rate_routes_a_subset():
    low, high = (random_places("r", [0], [rate]).decide(step_at(5)) for rate in (0.2, 0.6))
    assert not (low & ~high).any()


def test_among_disagreements_the_rate_is_of_them():
    differ = uniform(KEYS, 0, 99) < 0.3
    mask = random_places("r", [0], [0.5], disagreements=True).decide(step_at(5, differ=differ))
    assert not (mask & ~differ).any()
    assert stats.binomtest(int(mask.sum()), int(differ.sum()), 0.5).pvalue > 1e-3


@pytest.mark.parametrize(("edges", "rates"), [([0, 1], [0.5]), ([0], [1.5]), ([0], [-0.1]), ([0], [float("nan")]), ([2, 5], [0.5, 0.5]), ([0, 5, 3], [0.5] * 3), ([], [])])
def test_strata_that_make_no_sense(edges, rates):
    with pytest.raises(InvalidInput, match="rate in .0, 1. for each stratum"):
        random_places("r", edges, rates)


# --- matched controls --------------------------------------------------------------------------------------------------


def rollouts_of(*routers):
    return Rollouts(pd.DataFrame({"arm": [r.name for r in routers]}), {r.name: {"router": r.spec(), "action": {"name": "swap"}} for r in routers})


@pytest.mark.parametrize("source", [calibrated_router, lambda: rollouts_of(calibrated_router())], ids=["router", "rollouts"])
def test_they_take_their_rates_from_the_calibration(source):
    random, disagreement = matched_random(source(), seed=5), matched_disagreement(source(), seed=5)
    assert (random.name, random.params["rates"], random.params["seed"], random.reads) == ("matched_random", FACTS["routed_rate"], 5, {"base"})
    assert (disagreement.name, disagreement.params["rates"]) == ("matched_disagreement", FACTS["swap_rate"])
    assert all(c.params["of"] == "on_divergence(js)" and c.params["budget"] == 0.5 and c.params["edges"] == [0, 1, 4] for c in (random, disagreement))
    agree = step_at(2, differ=torch.zeros(5000))
    assert not disagreement.decide(agree).any() and random.decide(agree).any()


def test_the_position_control_has_a_rate_for_each_position_and_none_beyond():
    from dataclasses import replace

    rates = [0.9, 0.0, 0.0, 0.4, 0.4]
    router = replace(calibrated_router(), params={"calibration": {**FACTS, "routed_at": rates}})
    control = matched_position(router, seed=5)
    assert (control.name, control.reads, control.params["of"], control.params["budget"]) == ("matched_position", {"base"}, "on_divergence(js)", 0.5)
    assert control.params["edges"] == [0, 1, 3, 5]  # runs of equal rates are one stratum
    for t, rate in enumerate([*rates, 0.0, 0.0]):
        mask = control.decide(step_at(t, differ=torch.zeros(5000)))
        assert stats.binomtest(int(mask.sum()), 5000, rate).pvalue > 1e-3 and (rate or not mask.any())
    assert not matched_position(replace(router, params={"calibration": {**FACTS, "routed_at": []}})).decide(step_at(0)).any()
    with pytest.raises(InvalidInput, match=r"has no rates by position: calibrate the router again"):
        matched_position(calibrated_router())


def test_rates_survive_the_disk(tmp_path):
    rollouts_of(calibrated_router()).save(tmp_path / "r.parquet")
    assert matched_disagreement(Rollouts.load(tmp_path / "r.parquet")) == matched_disagreement(calibrated_router())


@pytest.mark.parametrize("control", [matched_random, matched_position, matched_disagreement])
@pytest.mark.parametrize(
    "source",
    [lambda: on_entropy(), lambda: rollouts_of(on_entropy()), lambda: rollouts_of(calibrated_router(), on_entropy()), lambda: Rollouts(pd.DataFrame({"arm": ["base"]}), {"base": {}}),
     lambda: calibrated_router() & on_entropy()],
    ids=["router", "rollouts", "two arms", "a model alone", "a combination"],
)  # fmt: skip
def test_without_rates_measured_off_the_test_split_there_is_no_control(control, source):
    with pytest.raises(InvalidInput, match=r"make the router with `calibrated\(router, pair, problems\)` first, and pass rollouts of one arm"):
        control(source())


# --- the others --------------------------------------------------------------------------------------------------------


def test_never_and_always_and_the_first_token():
    for t in (0, 1, 5):
        assert not never().decide(step_at(t)).any() and always().decide(step_at(t)).all()
        assert first_token().decide(step_at(t)).all() == (t == 0) == first_token().decide(step_at(t)).any()


def test_at_strategy_reads_the_grammar_of_the_prefix():
    words = ["go", "so", "a", "7", "1", "4", ",", "ans", "7", "1", "4"]
    ids = torch.tensor([[chain.VOCABULARY.index(w) for w in words]])
    routed = [t for t in range(len(words) + 1) if bool(at_strategy().decide(step_at(t, KEYS[:1], ids[:, :t])))]
    assert routed == [0, 1, 7]


def test_on_disagreement_is_a_router_without_parameters():
    assert on_disagreement() == on_disagreement() and on_disagreement().params == {}


@pytest.mark.parametrize("search", [(1e-4, 20.0), (-30.0, 30.0)])
def test_opposite_turns_the_whole_order_round_negative_scores_too(search):
    scores = torch.linspace(-3, 3, 41)
    turned = opposite(by_threshold("signed", lambda step: scores, 0.0, frozenset({"base"}), search))
    assert turned.score(None).argsort().tolist() == list(range(40, -1, -1))
    low, high = turned.search
    for place in (5, 20, 35):  # within its search there is a threshold for every share
        threshold = float(turned.score(None)[place])
        assert low <= threshold <= high and (turned.score(None) > threshold).sum() == place
