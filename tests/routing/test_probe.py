"""Routers that read the residual stream: what they see is what the model has there, and a probe is what scikit-learn fits."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput, NonFinite
from latentreason.routing.probe import Probe, auroc_interval, fit_probe, on_nearest, on_probe, on_value, readout_baselines
from latentreason.routing.router import Step
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 12)).astype(np.float32) * RNG.uniform(0.1, 5, 12).astype(np.float32) + 3
GROUPS = np.repeat([f"p{i}" for i in range(40)], 10)


def step_with(resid):
    n = len(next(iter(resid.values())))
    return Step(0, torch.zeros(n, 5), None, None, None, torch.zeros(n, 0, dtype=torch.long), torch.arange(n), resid)


def test_a_logistic_probe_is_scikit_learns_on_standardised_activations():
    target = X @ RNG.normal(size=12) + RNG.normal(size=400) > 3
    probe = fit_probe({"base:1": X[:, :5], "rl:2": X[:, 5:]}, target, label="x", timing_source="base alone", groups=GROUPS)
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(X.astype(float), target)
    found = probe({"base:1": torch.from_numpy(X[:, :5]), "rl:2": torch.from_numpy(X[:, 5:])})
    np.testing.assert_allclose(found.numpy(), peer.decision_function(X.astype(float)), atol=2e-3)
    assert 0.5 < probe.info["auroc"] <= 1 and probe.info["n_held_out"] == 80
    assert sum(n for *_, n in probe.info["calibration_curve"]) == 80


def test_a_ridge_probe_is_scikit_learns_and_reports_held_out_r2():
    target = X @ RNG.normal(size=12) + RNG.normal(size=400)
    probe = fit_probe({"base:0": X}, target, label="x", timing_source="base alone", groups=GROUPS)
    peer = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11))).fit(X.astype(float), target)
    np.testing.assert_allclose(probe({"base:0": torch.from_numpy(X)}).numpy(), peer.predict(X.astype(float)), atol=2e-3)
    assert probe.info["r2"] > 0.9 and probe.info["auroc"] > 0.9  # of being above 0
    predicted, observed, n = np.array(probe.info["calibration_curve"]).T
    assert n.sum() == probe.info["n_held_out"] and (np.diff(predicted) > 0).all() and abs(predicted - observed).max() < 1.0


def test_noise_is_predicted_no_better_than_chance():
    """The control of every figure that a probe reports."""
    noise = fit_probe({"base:0": X}, RNG.random(400) < 0.5, label="x", timing_source="base alone", groups=GROUPS)
    assert abs(noise.info["auroc"] - 0.5) < 0.2
    assert fit_probe({"base:0": X}, RNG.normal(size=400), label="x", timing_source="base alone", groups=GROUPS).info["r2"] < 0.1


def test_one_class_and_weights_that_are_not_finite_are_refused():
    with pytest.raises(InvalidInput, match="has only one class: 400 of 400 rows are true"):
        fit_probe({"base:0": X}, np.ones(400, dtype=bool), label="x", timing_source="base alone")
    with pytest.raises(NonFinite, match="holds NaN or Inf"):
        Probe({"base:0": torch.tensor([torch.nan])}, 0.0, "x", "base alone")


def test_routers_say_what_they_read_and_route_above_their_threshold():
    value = Probe({"base:1": torch.tensor([1.0, 0.0]), "rl:1": torch.tensor([0.0, 1.0])}, -0.5, "value", "RL model live")
    cost = Probe({"base:1": torch.tensor([0.0, 1.0])}, 0.0, "cost", "RL model live")
    resid = {"base:1": torch.tensor([[1.0, 2.0], [1.0, -2.0], [0.0, 1.0]]), "rl:1": torch.tensor([[0.0, 0.5], [0.0, 0.5], [0.0, 0.0]])}
    worth, spent = torch.tensor([1.0, 1.0, -0.5]), torch.tensor([2.0, -2.0, 1.0])
    assert on_probe(value, 0.0).decide(step_with(resid)).tolist() == (worth > 0).tolist()
    for price in (0.1, 0.4, 0.6, 100.0):
        expected = [w > price * s and w > 0 for w, s in zip(worth.tolist(), spent.tolist(), strict=True)]
        assert on_value(value, cost, float(np.arctan(price))).decide(step_with(resid)).tolist() == expected
    assert on_probe(value).reads == {"base", "rl", "base:1", "rl:1"}
    assert on_value(cost, cost).name == "on_value(base)" and on_value(value, cost).name == "on_value"
    assert on_probe(value).spec()["params"]["probe"]["timing_source"] == "RL model live"


def test_nearest_vector_is_the_largest_projection_in_units_of_scale():
    vectors = VectorSet(tuple(SteeringVector.of(Site(1), torch.tensor(v), label, 5) for label, v in (("a", [2.0, 0.0]), ("b", [0.0, 4.0]))))
    step = step_with({"base:1": torch.tensor([[1.0, 1.0], [0.2, 2.0], [-1.0, -1.0]])})
    router = on_nearest(vectors, layer=1, threshold=0.45)
    assert router.score is not None
    assert router.score(step).tolist() == pytest.approx([0.5, 0.5, -0.25])
    assert router.decide(step).tolist() == [True, True, False] and router.reads == {"base", "base:1"}


def test_projections_are_counted_from_the_center():
    vectors = VectorSet(tuple(SteeringVector.of(Site(1), torch.tensor(v), label, 5) for label, v in (("a", [2.0, 0.0]), ("b", [0.0, 4.0]))))
    resid = torch.tensor([[11.0, 1.0], [9.0, 3.0]])
    plain, counted = (on_nearest(vectors, 1, center=center).score(step_with({"base:1": resid})) for center in (None, torch.tensor([10.0, 0.0])))
    assert plain.tolist() == pytest.approx([5.5, 4.5]) and counted.tolist() == pytest.approx([0.5, 0.75])  # all lie far along a: which lies far along b is seen only from the center


def test_an_auroc_has_the_interval_of_problems_drawn_again():
    score = RNG.normal(size=400)
    target = RNG.random(400) < 1 / (1 + np.exp(-score))
    low, high = auroc_interval(target, score, GROUPS)
    assert low < roc_auc_score(target, score) < high
    alike = auroc_interval(np.repeat(target[::10], 10), np.repeat(score[::10], 10), GROUPS)  # ten equal rows a problem are one
    assert alike[1] - alike[0] > 1.5 * (high - low)


def test_baselines_are_read_off_the_same_held_out_problems():
    token = RNG.integers(0, 3, 400)
    target = (token == 1) ^ (RNG.random(400) < 0.1)
    found = readout_baselines(target, GROUPS, inputs={"token and position": np.stack([token, np.arange(400)], 1), "twin": X, "entropy": -token.astype(float)})
    assert found["token and position"]["auroc"] > 0.8 > 0.65 > found["twin"]["auroc"]
    out = np.isin(GROUPS, np.random.default_rng(0).permutation(np.unique(GROUPS))[:8])
    assert found["entropy"]["auroc"] == pytest.approx(roc_auc_score(target[out], -token[out]))
    assert readout_baselines(np.zeros(400, bool), GROUPS, inputs={"entropy": token.astype(float)}) == {}
