"""Contrasts against numpy by hand and planted directions; `fit_vectors` end to end on a tiny model."""

import numpy as np
import pandas as pd
import pytest
import torch

from latentreason.activations.capture import capture
from latentreason.activations.sites import Activations, Site
from latentreason.errors import InvalidInput, UnknownName
from latentreason.models.language_model import LM
from latentreason.tables import Rollouts, Spans
from latentreason.vectors.contrast import (
    METHODS,
    PAIRED,
    contrast_table,
    diff_means,
    fit_onsets,
    fit_vectors,
    logistic,
    paired_differences,
    pca,
    shuffled,
)

WIDTH = 24


def planted(n: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise of unequal spread, with a direction added where the mask is true."""
    rng = np.random.default_rng(seed)
    spread = np.linspace(0.5, 2.0, WIDTH)
    direction = rng.normal(size=WIDTH) * spread**2
    direction /= np.linalg.norm(direction)
    mask = rng.random(n) < 0.4
    return (rng.normal(size=(n, WIDTH)) * spread + 6 * mask[:, None] * direction).astype(np.float32), mask, direction


def onsets(n_problems: int = 40, seed: int = 0) -> Activations:
    """`split` and `so` differ by a planted direction, so do the formats by another; `run` is seen once."""
    rng = np.random.default_rng(seed)
    labels = [("split", "so", "format:think", "format:go")[i % 4] for i in range(4 * n_problems)] + ["run"]
    values = rng.normal(size=(len(labels), WIDTH)).astype(np.float32)
    values[:, 0] += 8 * np.array([label == "split" for label in labels])
    values[:, 1] += 8 * np.array([label == "format:think" for label in labels])
    index = pd.DataFrame(
        {"arm": "a", "problem": [f"p{i // 8}" for i in range(len(labels))], "sample": 0, "position": 0, "token": 0, "strategy": labels}
    )
    return Activations({Site(1): torch.from_numpy(values), Site(2): torch.from_numpy(2 * values)}, index)


def test_diff_means_equals_numpy_by_hand() -> None:
    values, mask, direction = planted()
    expected = values[mask].mean(0) - values[~mask].mean(0)
    np.testing.assert_allclose(diff_means(values, mask), expected, atol=1e-5)
    masks = np.stack([mask, ~mask])
    np.testing.assert_allclose(diff_means(values, masks), [expected, -expected], atol=1e-5)
    assert expected @ direction / np.linalg.norm(expected) > 0.95
    with pytest.raises(InvalidInput, match="all true or all false"):
        diff_means(values, np.ones(len(values), dtype=bool))


def test_logistic_finds_the_planted_direction_where_the_spread_is_equal() -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=WIDTH)
    direction /= np.linalg.norm(direction)
    mask = rng.random(3000) < 0.3
    values = rng.normal(size=(3000, WIDTH)) + 3 * mask[:, None] * direction
    found = logistic(values, mask)
    assert found @ direction / np.linalg.norm(found) > 0.95


def test_logistic_weighs_by_the_spread_where_it_is_not() -> None:
    values, mask, direction = planted(2000)
    found = logistic(values, mask)
    optimal = direction / np.linspace(0.5, 2.0, WIDTH) ** 2  # Fisher: inverse covariance times difference
    assert found @ optimal / np.linalg.norm(found) / np.linalg.norm(optimal) > 0.95


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_pca_is_the_first_component_of_the_paired_differences_as_scikit_learn_has_it() -> None:
    from sklearn.decomposition import PCA

    values, mask, _ = planted(300)
    problem = np.arange(300) // 6
    differences = [values[(problem == p) & mask].mean(0) - values[(problem == p) & ~mask].mean(0) for p in range(50) if len(set(mask[problem == p])) == 2]
    np.testing.assert_allclose(paired_differences(values, mask, problem), differences, atol=1e-5)
    differences = np.array(differences)
    expected = PCA(1).fit(np.vstack([differences, -differences])).components_[0]  # either order of a pair, so the mean is zero
    found, gap = pca(values, mask, problem), values[mask].mean(0) - values[~mask].mean(0)
    assert abs(cosine(found, expected)) > 0.99999 and found @ gap > 0
    np.testing.assert_array_equal(pca(values, mask, np.array([f"problem {p}" for p in problem])), found)
    np.testing.assert_allclose(pca(values, ~mask, problem), -found, atol=1e-5)


def test_pca_without_pairs_is_that_of_the_rows_about_the_midpoint_of_the_sides() -> None:
    from sklearn.decomposition import PCA

    values, _, _ = planted(300)
    mask = np.arange(300) % 2 == 0  # as many on either side: the midpoint is the mean
    expected = PCA(1).fit(values).components_[0]
    assert abs(cosine(pca(values, mask), expected)) > 0.99999
    alone = np.arange(300)  # no group has both sides
    np.testing.assert_array_equal(pca(values, mask, alone), pca(values, mask))
    three = np.repeat([True, False], [1, 2])
    assert np.isfinite(pca(values[:3], three)).all() and not pca(np.ones((4, WIDTH), np.float32), mask[:4]).any()
    with pytest.raises(InvalidInput, match="all true or all false"):
        pca(values, np.ones(300, dtype=bool))


def test_pca_agrees_with_diff_means_on_a_clean_contrast_and_says_how_many_pairs_it_had() -> None:
    data = onsets()
    found, means = (fit_onsets(data, method=method)["split", Site(1)] for method in ("pca", "diff_means"))
    assert cosine(found.vector.numpy(), means.vector.numpy()) > 0.97 and found.scale == pytest.approx(means.scale, rel=0.05)
    assert found.info["n_pairs"] == 20 and "n_pairs" not in means.info  # a problem holds all four labels twice
    assert found.info["split_half"] > 0.95
    twin = found.random_like(found.info["control_seed"])
    assert twin.scale == found.scale and abs(cosine(twin.vector.numpy(), found.vector.numpy())) < 0.6


@pytest.mark.parametrize("method", METHODS)
def test_the_length_of_a_vector_is_the_mean_projection_gap(method: str) -> None:
    values, mask, _ = planted()
    vector = METHODS[method](values, mask)
    projected = values @ (vector / np.linalg.norm(vector))
    np.testing.assert_allclose(projected[mask].mean() - projected[~mask].mean(), np.linalg.norm(vector), rtol=1e-4)


def test_a_choice_is_compared_with_its_own_family() -> None:
    labels = pd.Series(["split", "so", "format:think", "format:go", "so"])
    table = contrast_table(labels)
    assert table["split"].tolist() == [1, -1, 0, 0, -1] and table["format:go"].tolist() == [0, 0, -1, 1, 0]
    assert contrast_table(labels, against="all")["split"].tolist() == [1, -1, -1, -1, -1]
    with pytest.raises(UnknownName, match="famly"):
        contrast_table(labels, against="famly")


def test_shuffles_keep_the_counts_within_strata_and_are_seeded() -> None:
    rng = np.random.default_rng(0)
    strata, mask = rng.integers(0, 3, 60), rng.random(60) < 0.4
    found = shuffled(mask, n=50, seed=1, strata=strata)
    for s in range(3):
        assert (found[:, strata == s].sum(1) == mask[strata == s].sum()).all()
    assert len(np.unique(found, axis=0)) == 50
    np.testing.assert_array_equal(found, shuffled(mask, n=50, seed=1, strata=strata))
    free = shuffled(mask, n=4000, seed=1)
    np.testing.assert_allclose(free.mean(0), mask.mean(), atol=0.05)  # every row is as likely
    assert (free.sum(1) == mask.sum()).all()


def test_vectors_of_onsets_with_their_reliability_and_control() -> None:
    data = onsets()
    found = fit_onsets(data, seed=3)
    assert found.labels == ["format:go", "format:think", "so", "split"] and found.sites == [Site(1), Site(2)]
    assert found.skipped == {"run": "1 spans with and 80 without: at least 2 of each are needed"}
    v = found["split", Site(1)]
    rows = data.index["strategy"]
    values = data.values[Site(1)].numpy()
    np.testing.assert_allclose(v.vector, values[rows == "split"].mean(0) - values[(rows == "so") | (rows == "run")].mean(0), atol=1e-5)
    assert v.n == 40 and v.info["n_without"] == 41 and float(v.direction[0]) > 0.95 and v.scale > 7
    assert v.info["split_half"] > 0.9 and v.info["control_seed"] == 3
    assert v.random_like(v.info["control_seed"]).scale == v.scale
    assert abs(float(found["format:think", Site(2)].direction[1])) > 0.95
    assert "split_half" not in fit_onsets(data, control=False)["split", Site(1)].info


def test_split_halves_are_of_problems() -> None:
    index = onsets(8).index[:32].assign(problem=["p0"] * 16 + ["p1"] * 16)
    values = torch.zeros(32, 4)
    is_split = torch.tensor([label == "split" for label in index["strategy"]])
    values[:16, 0], values[16:, 1] = 1.0 * is_split[:16], 1.0 * is_split[16:]  # each problem has a direction of its own
    found = fit_onsets(Activations({Site(0): values}, index))
    assert found["split", Site(0)].info["split_half"] == pytest.approx(0, abs=1e-6)
    one = fit_onsets(Activations({Site(0): values}, index.assign(problem="p")))
    assert one["split", Site(0)].info["split_half"] is None


def test_what_cannot_be_fitted_says_why() -> None:
    data = onsets()
    flat = Activations({Site(1): torch.ones(len(data), 4)}, data.index)
    with pytest.raises(InvalidInput, match="same mean at resid"):
        fit_onsets(flat)
    alone = data.select(data.index["strategy"] == "so")
    with pytest.raises(InvalidInput, match="40 spans with and 0 without"):
        fit_onsets(alone)
    with pytest.raises(UnknownName, match="'difference'"):
        fit_onsets(data, method="difference")


@pytest.mark.parametrize("method", METHODS)
def test_fit_vectors_uses_the_activations_that_predict_the_opening_tokens(tiny_model, tiny_tokenizer, method: str) -> None:
    lm, rng = LM(tiny_model, tiny_tokenizer, "tiny"), np.random.default_rng(0)
    ids = [rng.integers(3, 64, size=12).astype(np.int32) for _ in range(20)]
    keys = {"arm": "base", "problem": [f"p{i // 2}" for i in range(20)], "sample": [i % 2 for i in range(20)]}
    rollouts = Rollouts(pd.DataFrame({**keys, "prompt_ids": pd.Series([i[:4] for i in ids]), "token_ids": pd.Series([i[4:] for i in ids])}))
    table = pd.concat([rollouts.table[[*keys]].assign(strategy="ab"[t // 4], start=t, end=t + 2, choice=t != 2) for t in (0, 2, 4)])
    found = fit_vectors(lm, rollouts, Spans(table), layers=[2, 0], method=method)
    assert found.labels == ["a", "b"] and found.sites == [Site(0), Site(2)]
    assert found.card()["model"] == "tiny" and found.card()["method"] == method
    every = capture(lm, rollouts, [Site(2)])
    kept = every.select(every.index["position"].isin([0, 4]))  # the span at 2 was no choice
    groups = [kept.index["problem"].to_numpy(str)] if method in PAIRED else []
    expected = METHODS[method](kept.values[Site(2)].numpy(), (kept.index["position"] == 4).to_numpy(), *groups)
    np.testing.assert_allclose(found["b", Site(2)].vector, expected, atol=1e-3)
    torch.testing.assert_close(found["a", Site(2)].vector, -found["b", Site(2)].vector, atol=1e-3, rtol=0)
    assert fit_vectors(lm, rollouts, Spans(table), method="diff_means").sites == [Site(0), Site(1), Site(2)]
    with pytest.raises(UnknownName, match="layers"):
        fit_vectors(lm, rollouts, Spans(table), layers="last")
