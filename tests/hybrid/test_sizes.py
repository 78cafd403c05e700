"""How much `compare` trains and tries, and which router of a timing source it takes a closer look at."""

from dataclasses import replace

import numpy as np
import pytest

from latentreason import compare
from latentreason.curves import reaches
from latentreason.hybrid.steering import random_category
from latentreason.reproduce import TINY, RunConfig, few_layers
from latentreason.routing.base_only import on_entropy, on_margin
from latentreason.routing.oracle import on_divergence
from latentreason.steered import STRENGTHS, _bias_arms, biases, size_of
from latentreason.vectors.contrast import paired_differences, pca


def test_a_bounded_configuration_trains_less_and_the_whole_one_what_the_reference_does():
    whole = size_of(RunConfig(), 4)
    assert whole.layers == [0, 1, 2] and len(whole.seeds) == len(whole.draws) == 3 and whole.grid == {}
    assert size_of(RunConfig(), 30).layers == few_layers(30)
    assert size_of(RunConfig(trained_epochs=2), 30) == size_of(RunConfig(trained_epochs=2), 30)._replace(epochs=2, seeds=(0,), layers=[8, 15], draws=(0,), samples=RunConfig().rival_samples)
    assert whole.samples == 2 * RunConfig().rival_samples
    for n_layers in (1, 2, 3):  # the last block's output is read by the head alone, unless there is no other
        assert size_of(TINY, n_layers).layers[-1] <= max(0, n_layers - 2)


def test_a_bias_by_category_has_as_many_sizes_as_a_vector_has_settings():
    tried = biases(4 * len(STRENGTHS))
    assert len(set(tried)) == 4 * len(STRENGTHS) and tried == sorted(tried) and (tried[0], tried[-1]) == (0.5, 32.0)

    two = random_category(("a", "b"))
    arms = _bias_arms({"a": 1, "b": 2}, {"rl": two}, 24)
    assert len(arms["js, logit bias"].grid) == 2 * len(STRENGTHS) and len(arms["js, RL category, logit bias"].grid) == 24
    assert _bias_arms({}, {"rl": two}, 24) == {}


def calibrated_at(router, *points):
    facts = {"rl_accuracy": 1.0, "base_accuracy": 0.0}
    return [replace(router, params={**router.params, "calibration": {**facts, "share_of_D": share, "accuracy": accuracy}}) for share, accuracy in points]


def test_the_best_router_of_a_timing_source_reaches_over_the_curve():
    assert reaches([0.25, 0.5, 0.75]) and not reaches([0.79, 0.8]) and not reaches([0.2, 0.5]) and not reaches([])
    high_and_narrow = calibrated_at(on_margin(), (0.79, 0.99), (0.8, 0.99))  # the line from 0 that nobody measured has the largest area
    wide = calibrated_at(on_entropy(), (0.25, 0.3), (0.5, 0.5), (0.75, 0.8))
    live = calibrated_at(on_divergence("js"), (0.25, 0.3), (0.5, 0.5), (0.75, 0.8))
    assert compare._best_of_each([*high_and_narrow, *wide, *live]) == {"on_entropy", "on_divergence(js)"}


def test_paired_differences_that_are_rounding_are_none():
    """Formats chosen after one and the same prompt differ by rounding alone within a problem: the direction is that of all rows, not of the rounding."""
    rng = np.random.default_rng(0)
    groups, mask = np.repeat(np.arange(20), 2), np.tile([True, False], 20)
    same = np.repeat(rng.normal(size=(20, 6)), 2, axis=0)  # a problem's two rows are one activation ...
    mask[20:] = np.arange(20) % 4 < 2  # ... and half of the problems lie on one side alone, so that the two means differ
    first, second = (pca(same + 1e-9 * rng.normal(size=same.shape), mask, groups) for _ in range(2))
    assert len(paired_differences(same, mask, groups)) == 10
    assert first @ second / (np.linalg.norm(first) * np.linalg.norm(second)) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(first, pca(same, mask), atol=1e-6)
