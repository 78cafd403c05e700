"""Weights between two checkpoints: the ends are the checkpoints, and the caller's models stay as they were."""

import numpy as np
import pytest
import torch

from latentreason.errors import InvalidInput
from latentreason.models.merge import interpolated, largest_changes, weight_changes
from latentreason.models.pair import ModelPair


@pytest.fixture(scope="module")
def two(make_lm):
    return ModelPair(make_lm("llama", 0), make_lm("llama", 1, "rl"))


def weights(lm):
    return dict(lm.model.named_parameters())


def test_the_ends_are_the_two_models_and_the_middle_is_their_mean(two):
    before = {k: v.clone() for k, v in weights(two.base).items()}
    for alpha in (0.0, 0.5, 1.0, 1.5):
        found = weights(interpolated(two, alpha))
        for name, weight in found.items():
            expected = (1 - alpha) * weights(two.base)[name] + alpha * weights(two.rl)[name]
            torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in weights(two.base).items())


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_the_largest_changes_are_kept_and_the_rest_is_the_base(two, share):
    changes = np.concatenate([(weights(two.rl)[k] - v).abs().flatten().numpy() for k, v in weights(two.base).items()])
    found = weights(largest_changes(two, share))
    kept = np.concatenate([(found[k] != v).flatten().numpy() for k, v in weights(two.base).items()])
    moved = changes > 0
    assert kept.sum() == pytest.approx(min(share * len(changes), moved.sum()), abs=2 + 1e-3 * len(changes))
    if share < 1:
        assert changes[kept].min() >= changes[~kept & moved].max()
    for name, weight in found.items():
        mask = weight != weights(two.base)[name]
        torch.testing.assert_close(weight[mask], weights(two.rl)[name][mask], atol=1e-6, rtol=1e-6)


def test_weight_changes_are_those_of_numpy(two):
    table = weight_changes(two, tolerance=0.05)
    for row in table.to_dict("records"):
        change = (weights(two.rl)[row["name"]] - weights(two.base)[row["name"]]).numpy().astype(float)
        singular = np.linalg.svd(change, compute_uv=False)
        assert row["stable_rank"] == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-4)
        assert row["unchanged"] == pytest.approx((np.abs(change) <= 0.05).mean(), abs=1e-3)
        assert row["relative"] == pytest.approx(np.linalg.norm(change) / np.linalg.norm(weights(two.base)[row["name"]].numpy()), rel=1e-5)
    same = ModelPair(two.base, two.base)
    assert (weight_changes(same)["unchanged"] == 1).all() and (weight_changes(same)["stable_rank"] == 0).all()


def test_what_means_nothing_is_refused(two, make_lm):
    for bad in (0.0, 1.1, float("nan")):
        with pytest.raises(InvalidInput, match=r"must lie in \(0, 1\]"):
            largest_changes(two, bad)
    with pytest.raises(InvalidInput, match="is not finite; 0 is the base model"):
        interpolated(two, float("inf"))
    with pytest.raises(InvalidInput, match="have different weights, so they have no difference"):
        weight_changes(ModelPair(make_lm("llama"), make_lm("gpt2", 1, "rl")))
