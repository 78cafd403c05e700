"""Calibration on a pair of untrained organisms: budgets are met, controls match, and what cannot be calibrated is refused."""

from dataclasses import replace

import numpy as np
import pytest

from latentreason.errors import InvalidInput
from latentreason.hybrid.calibrate import FURTHER, _read_off, calibrate, calibrated, calibration_area
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.models.pair import ModelPair
from latentreason.routing.base_only import on_entropy
from latentreason.routing.controls import always, first_token, matched_disagreement, matched_position, matched_random, never
from latentreason.routing.oracle import on_disagreement, on_divergence
from latentreason.sampling.local import Sampling, sample
from latentreason.tasks.registry import load_task

DRAW = Sampling(n=4, max_new_tokens=12)


@pytest.fixture(scope="module")
def problems():
    return load_task("chain", split="calibration", limit=50)


@pytest.fixture(scope="module")
def pair(make_organisms):
    return make_organisms()


@pytest.fixture(scope="module")
def routers(pair, problems):
    """Routers with a threshold at two budgets each, and two without one: in the order router by router."""
    asked = [on_divergence("js"), on_entropy(), first_token(), on_disagreement()]
    return calibrate(asked, pair, problems, [0.3, 0.7], sampling=DRAW, progress=False)


def changed_share(model, problems, sampling=DRAW):
    table = sample(model, problems, sampling, progress=False).table
    return table["n_changed"].sum() / table["n_tokens"].sum()


def facts_of(router):
    return router.params["calibration"]


def test_they_come_router_by_router_and_budget_by_budget(routers):
    names = [r.name for r in routers]
    assert names == ["on_divergence(js)"] * 2 + ["on_entropy"] * 2 + ["first_token", "on_disagreement"]
    assert [facts_of(r)["budget"] for r in routers if r.score is not None] == [0.3, 0.7] * 2
    for low, high in ((0, 1), (2, 3)):
        assert routers[low].params["threshold"] > routers[high].params["threshold"]


def test_a_budget_is_reached_within_a_tenth_and_said_truly(routers, pair, problems):
    d = changed_share(Hybrid(pair, always()), problems)
    arms = [Hybrid(pair, router, name=f"{i}") for i, router in enumerate(routers)]
    table = sample(Arms(arms), problems, DRAW, progress=False).table
    for i, router in enumerate(routers):
        facts, rows = facts_of(router), table[table["arm"] == f"{i}"]
        assert facts["D"] == pytest.approx(d)
        achieved = rows["n_changed"].sum() / rows["n_tokens"].sum()
        assert facts["changed"] == pytest.approx(achieved) and facts["share_of_D"] == pytest.approx(achieved / d)
        assert facts["share_of_D"] == pytest.approx(facts["budget"], rel=0.1)
    assert facts_of(routers[-1])["share_of_D"] == pytest.approx(1.0)  # every disagreement is the RL model


def test_the_matched_controls_match_on_the_calibration_problems(routers, pair, problems):
    for router in (routers[0], routers[3], routers[4]):
        facts = facts_of(router)
        hybrid = sample(Hybrid(pair, router), problems, DRAW, progress=False)
        control = sample(Hybrid(pair, matched_disagreement(hybrid)), problems, DRAW, progress=False).table
        ratio = control["n_changed"].sum() / control["n_tokens"].sum() / facts["changed"]
        assert ratio == pytest.approx(facts["control_changed_ratio"]) and ratio == pytest.approx(1.0, abs=0.1)
        random = sample(Hybrid(pair, matched_random(hybrid)), problems, DRAW, progress=False).table
        routed = hybrid.table["n_routed"].sum() / hybrid.table["n_tokens"].sum()
        assert random["n_routed"].sum() / random["n_tokens"].sum() == pytest.approx(routed, rel=0.1)
        assert facts["control_routed_ratio"] == pytest.approx(1.0, abs=0.1)


def test_controls_match_by_position_too(routers, pair, problems):
    router = routers[0]
    hybrid, control = (sample(Hybrid(pair, r), problems, DRAW, progress=False).table for r in (router, matched_disagreement(router)))
    for first, last in ((0, 1), (1, 6), (6, 12)):
        one, other = (np.concatenate([c[first:last] for c in table["changed"]]) for table in (hybrid, control))
        assert abs(one.mean() - other.mean()) < 4 * np.sqrt(one.mean() * (1 - one.mean()) * (1 / len(one) + 1 / len(other))) + 0.02


def test_the_position_control_routes_as_often_at_each_exact_position(routers, pair, problems):
    for router in (routers[1], routers[3], routers[4]):
        hybrid, control = (sample(Hybrid(pair, r), problems, DRAW, progress=False).table for r in (router, matched_position(router)))
        share, achieved = (t["n_routed"].sum() / t["n_tokens"].sum() for t in (hybrid, control))
        assert achieved == pytest.approx(share, rel=0.1)
        for position in range(DRAW.max_new_tokens):
            one, other = (np.array([row[position] for row in table["routed"] if len(row) > position]) for table in (hybrid, control))
            assert facts_of(router)["routed_at"][position : position + 1] in ([], [pytest.approx(one.mean(), abs=1e-4)])
            assert abs(one.mean() - other.mean()) < 4 * np.sqrt(one.mean() * (1 - one.mean()) * (1 / len(one) + 1 / len(other))) + 1e-3


def test_the_control_is_another_choice_than_the_hybrid(routers, pair, problems):
    hybrid, control, other = (
        sample(Hybrid(pair, r), problems, DRAW, progress=False).table["token_ids"] for r in (routers[0], matched_disagreement(routers[0]), matched_disagreement(routers[0], seed=1))
    )
    assert any(a.tolist() != b.tolist() for a, b in zip(hybrid, control, strict=True))
    assert any(a.tolist() != b.tolist() for a, b in zip(control, other, strict=True))


def test_strata_begin_with_the_first_token_alone(routers):
    for router in routers:
        facts = facts_of(router)
        assert facts["edges"][:2] == [0, 1] and facts["edges"] == sorted(set(facts["edges"]))
        assert len(facts["edges"]) == len(facts["routed_rate"]) == len(facts["swap_rate"])
        assert all(0 <= rate <= 1 for name in ("routed_rate", "swap_rate") for rate in facts[name])
    first = facts_of(routers[4])
    assert first["routed_rate"][0] == 1 and not any(first["routed_rate"][1:]) and not any(first["swap_rate"][1:])


def test_one_router_at_a_time_gives_the_same_even_if_it_was_calibrated_before(routers, pair, problems):
    alone = calibrated(routers[0], pair, problems, 0.7, sampling=DRAW, progress=False)
    assert alone.params["threshold"] == routers[1].params["threshold"] and facts_of(alone)["budget"] == 0.7
    assert facts_of(alone)["share_of_D"] == pytest.approx(facts_of(routers[1])["share_of_D"])


def test_greedy_has_its_own_calibration(pair, problems):
    greedy = replace(DRAW, n=1, temperature=0.0)
    router = calibrated(on_divergence("js"), pair, problems, 0.5, sampling=greedy, progress=False)
    facts = facts_of(router)
    assert (facts["temperature"], facts["n_samples"], facts["n_problems"]) == (0.0, 1, 50)
    d = changed_share(Hybrid(pair, always()), problems, greedy)
    assert facts["share_of_D"] == pytest.approx(changed_share(Hybrid(pair, router), problems, greedy) / d) and facts["share_of_D"] == pytest.approx(0.5, abs=0.1)


def test_a_budget_that_cannot_be_reached_is_said(pair, problems):
    """A score with one value for all prefixes routes everywhere or nowhere."""
    import torch

    from latentreason.routing.router import by_threshold

    flat = by_threshold("flat", lambda step: torch.full((len(step.base_logits),), 0.5), 0.1, frozenset({"base"}))
    facts = facts_of(calibrated(flat, pair, problems[:10], 0.4, sampling=replace(DRAW, max_new_tokens=3), progress=False))
    assert facts["budget"] == 0.4 and facts["share_of_D"] in (0.0, pytest.approx(1.0))


def test_completions_of_one_token_can_be_calibrated(pair, problems):
    facts = facts_of(calibrated(on_divergence("js"), pair, problems, 0.5, sampling=Sampling(n=4, max_new_tokens=1), progress=False))
    assert facts["edges"][0] == 0 and facts["share_of_D"] == pytest.approx(0.5, abs=0.1)


def test_a_sampling_that_keeps_no_tokens_will_do(pair, problems):
    kept, slim = (calibrated(first_token(), pair, problems[:10], sampling=replace(DRAW, max_new_tokens=3, keep_tokens=keep), progress=False) for keep in (True, False))
    assert facts_of(kept) == facts_of(slim)


def at(share, accuracy, rl=0.8):
    return replace(on_entropy(), params={"calibration": {"share_of_D": share, "accuracy": accuracy, "base_accuracy": 0.2, "rl_accuracy": rl}})


def test_the_area_that_chooses_the_best_router_by_hand():
    assert calibration_area([at(0.5, 0.5)]) == pytest.approx(0.5)  # on the diagonal
    assert calibration_area([at(0.75, 0.8), at(0.25, 0.5)]) == pytest.approx(0.0625 + 0.375 + 0.25)
    assert calibration_area([at(0.5, 0.2)]) == pytest.approx(0.25)
    assert calibration_area([at(1.05, 0.8)]) == pytest.approx(0.5)  # beyond D nothing counts


def test_without_a_gain_there_is_no_area():
    assert np.isnan(calibration_area([at(0.5, 0.3, rl=0.2)]))


# --- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0.0, -0.5, 1.0001, float("nan")])
def test_a_budget_must_be_a_share_of_d(pair, problems, budget):
    with pytest.raises(InvalidInput, match=r"must be shares of D in \(0, 1\]"):
        calibrated(on_entropy(), pair, problems, budget, progress=False)


def test_no_budget_at_all(pair, problems):
    with pytest.raises(InvalidInput, match="must be shares of D"):
        calibrate([on_entropy()], pair, problems, [])


def test_a_pair_whose_rl_model_is_the_base_has_nothing_to_route(pair, problems):
    with pytest.raises(InvalidInput, match="changes no token of the base model on the calibration problems: there is nothing to route"):
        calibrated(on_entropy(), ModelPair(pair.base, replace(pair.base, name="rl")), problems[:10], sampling=DRAW, progress=False)


def test_a_router_that_routes_nowhere_has_rates_of_zero(pair, problems):
    facts = facts_of(calibrated(never(), pair, problems[:10], sampling=DRAW, progress=False))
    assert facts["changed"] == 0 and not any(facts["swap_rate"]) and not any(facts["routed_rate"])
    assert facts["control_changed_ratio"] is None


def test_two_routers_of_one_name_keep_their_own_thresholds(pair, problems):
    """Two probes may bear the same label; what one of them changed must not be taken for the other's."""
    plain = on_entropy()
    assert plain.score is not None
    tenfold = replace(plain, score=lambda step: 10 * on_entropy().score(step))
    together = calibrate([plain, tenfold], pair, problems, [0.5], sampling=DRAW, progress=False)
    alone = [calibrate([router], pair, problems, [0.5], sampling=DRAW, progress=False)[0] for router in (plain, tenfold)]
    assert [r.params["threshold"] for r in together] == [r.params["threshold"] for r in alone]
    assert together[1].params["threshold"] > 3 * together[0].params["threshold"]


def test_a_quick_search_comes_near_the_budget_with_few_thresholds(pair, problems):
    routers = [on_entropy(), on_divergence("js")]
    done = calibrate(routers, pair, problems, [0.4, 0.7], sampling=DRAW, quick=True, progress=False)
    assert [r.name for r in done] == [r.name for r in routers for _ in range(2)]
    for router in done:
        facts = facts_of(router)
        assert abs(facts["share_of_D"] - facts["budget"]) < 0.15, (router.name, facts["budget"], facts["share_of_D"])
        assert "control_changed_ratio" not in facts and sum(facts["swap_rate"]) > 0


def test_a_quick_search_goes_on_where_the_highest_threshold_changes_more_than_a_budget():
    def share(router):
        return float(np.exp(-router.params["threshold"] / (2.0 if router.name == "on_entropy" else 0.2)))

    rounds = []

    def shares(arms):
        rounds.append([r.name for r in arms])
        return [share(r) for r in arms]

    entropy, js = on_entropy(), on_divergence("js")
    jobs = [(entropy, 0.1), (entropy, 0.7), (js, 0.1), (js, 0.7)]
    found = _read_off(jobs, shares, [[1.8, 1.2, 0.6], [0.6, 0.3, 0.05]], [8.0, 0.69])
    for router, (_, budget) in zip(found, jobs, strict=True):
        assert abs(share(router) - budget) < 0.06, (router.name, router.params["threshold"])
    assert [set(names) for names in rounds] == [{"on_entropy", "on_divergence(js)"}, {"on_entropy"}] and len(rounds[1]) == FURTHER
    (nothing,) = _read_off([(entropy, 0.1)], shares, [[1.8, 1.2]], [1.8])  # no score is higher
    assert nothing.params["threshold"] == pytest.approx(1.8)


def test_scores_are_recorded_where_they_are_watched(pair, problems):
    table = sample(Arms([Hybrid(pair, always(), name="rl")], [on_entropy(), on_divergence("js")]), problems[:4], DRAW, progress=False).table
    for entropy, js, first, second in zip(table["base_entropy"], table["divergence"], table["score:0"], table["score:1"], strict=True):
        np.testing.assert_allclose(entropy, first, atol=1e-6)
        np.testing.assert_allclose(js, second, atol=1e-6)
