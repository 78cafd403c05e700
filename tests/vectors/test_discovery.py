"""Categories without labels on planted clusters; then on a tiny model, as `tag` uses them. Also the sparse autoencoder, and the judge with a made-up one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score

from latentreason.activations.sites import Activations, Site
from latentreason.errors import CorruptArtifact, InvalidInput, NonFinite, UnknownName
from latentreason.models.language_model import LM
from latentreason.strategies.rules import EVERY
from latentreason.strategies.tagging import tag
from latentreason.tables import Rollouts, Spans
from latentreason.vectors.autoencoder import train_sae
from latentreason.vectors.discovery import METHODS, discover
from latentreason.vectors.judging import judged, span_question
from latentreason.vectors.taxonomy import Strategies, capture_spans

KINDS, WIDTH = 5, 24


def planted(n: int = 600, kinds: int = KINDS, noise: float = 0.3, seed: int = 0) -> tuple[Activations, np.ndarray]:
    """Spans about `kinds` orthogonal centres, six a problem, and the kind of each."""
    rng = np.random.default_rng(seed)
    centres = 3 * np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0][:kinds]
    kind = rng.integers(0, kinds, n)
    values = centres[kind] + noise * rng.normal(size=(n, WIDTH)) + rng.normal(size=WIDTH)
    index = pd.DataFrame({"arm": "a", "problem": [f"p{i // 6}" for i in range(n)], "sample": 0, "position": 0, "token": 0, "text": [f"word{k} <b>the</b>" for k in kind]})
    return Activations({Site(1): torch.from_numpy(values.astype(np.float32))}, index), kind


@pytest.fixture(scope="module")
def spans() -> tuple[Activations, np.ndarray]:
    return planted()


@pytest.fixture(scope="module")
def found(spans) -> Strategies:
    return discover(spans[0], n=KINDS)


@pytest.mark.parametrize("method", METHODS)
def test_planted_clusters_and_their_number_are_found(spans, method: str) -> None:
    activations, kind = spans
    made = discover(activations, method=method, among=(4, 5, 6))
    held = activations.index["problem"].isin(made.info["held_out"]).to_numpy(bool)
    assert len(made) == KINDS and 0.25 < held.mean() < 0.4
    assert adjusted_mutual_info_score(kind[held], made.label(activations)[held]) > 0.95
    assert sorted(made.table["title"].str.split().str[0]) == [f"word{k}" for k in range(KINDS)]


def test_scores_are_what_their_formulas_say(spans, found: Strategies) -> None:
    activations, kind = spans
    held = activations.index["problem"].isin(found.info["held_out"]).to_numpy(bool)
    x = activations.values[Site(1)].double().numpy()
    x = x - x[~held].mean(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    centres = np.stack([x[~held & (kind == k)].mean(0) for k in range(KINDS)])
    left = ((x[held] - centres[kind[held]]) ** 2).sum() / ((x[held] - x[held].mean(0)) ** 2).sum()
    units = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    (row,) = found.scores.to_dict("records")
    assert row["completeness"] == pytest.approx(1 - left) and row["consistency"] == 1
    assert row["independence"] == pytest.approx(1 - np.abs(units @ units.T)[np.triu_indices(KINDS, 1)].mean())
    assert row["score"] == pytest.approx(np.mean([row[c] for c in ("completeness", "consistency", "independence")]))
    assert (row["n_held_out"], row["n_problems"], row["n"]) == (held.sum(), 33, KINDS)
    assert found.table["n"].sum() == (~held).sum() and found.table["n_held_out"].sum() == held.sum() and found.table["n"].is_monotonic_decreasing


def test_centroids_are_means_about_the_mean_in_units_of_the_activation(spans, found: Strategies) -> None:
    activations, _ = spans
    values, labels = activations.values[Site(1)].double().numpy(), found.label(activations)
    fitted = ~activations.index["problem"].isin(found.info["held_out"]).to_numpy(bool)
    for name, n in zip(found.names, found.table["n"], strict=True):
        vector = found.centroids[name, Site(1)]
        expected = values[fitted & (labels == name)].mean(0) - values[fitted].mean(0)
        np.testing.assert_allclose(vector.vector.numpy(), expected, atol=1e-8)
        assert vector.n == n == (fitted & (labels == name)).sum()


@pytest.mark.parametrize("method", METHODS)
def test_neither_the_order_of_the_spans_nor_their_scale_matters(spans, method: str) -> None:
    activations, _ = spans
    order = np.random.default_rng(1).permutation(len(activations))
    other = Activations({Site(1): 4 * activations.values[Site(1)][torch.from_numpy(order)]}, activations.index.iloc[order].reset_index(drop=True))
    first, second = discover(activations, method=method, n=KINDS), discover(other, method=method, n=KINDS)
    np.testing.assert_array_equal(first.label(activations)[order], second.label(other))
    pd.testing.assert_frame_equal(first.table, second.table)
    assert second.centroids.vectors[0].scale == pytest.approx(4 * first.centroids.vectors[0].scale)


def test_one_state_beside_several_is_named_and_the_other_is_read_alone(spans) -> None:
    activations, kind = spans
    both = Activations({**activations.values, Site(0): torch.randn(len(activations), 7)}, activations.index)
    with pytest.raises(InvalidInput, match=r"of resid.0, resid.1; name one with site="):
        discover(both, n=3)
    made = discover(both, n=KINDS, site=Site(1))
    assert adjusted_mutual_info_score(kind, made.label(activations)) > 0.95
    with pytest.raises(InvalidInput, match=r"capture resid.1 too"):
        made.label(Activations({Site(0): both.values[Site(0)]}, activations.index))
    with pytest.raises(InvalidInput, match="width 24, found 7"):
        replace(made, site=Site(0)).label(both)


def test_what_cannot_be_clustered_is_refused(spans) -> None:
    activations, _ = spans
    index = activations.index
    with pytest.raises(UnknownName, match="Did you mean 'kmeans'"):
        discover(activations, method="kmean")
    with pytest.raises(InvalidInput, match="1 problem: at least 6 are needed"):
        discover(Activations(activations.values, index.assign(problem="p")), n=2)
    with pytest.raises(InvalidInput, match="no column `problem`"):
        discover(Activations(activations.values, index.drop(columns="problem")), n=2)
    with pytest.raises(InvalidInput, match=r"n=1000 categories of 402 fitting spans \(402 of them different\): ask for 2 to 402"):
        discover(activations, n=1000)
    with pytest.raises(InvalidInput, match="n=1 categories"):
        discover(activations, n=1)
    with pytest.raises(InvalidInput, match="too few for any of"):
        discover(activations.select(np.arange(len(activations)) < 40), among=(4, 8))
    with pytest.raises(InvalidInput, match="too few for 20 categories"):
        discover(activations.select(np.arange(len(activations)) < 40), n=20)
    same = Activations({Site(1): torch.ones(600, WIDTH)}, index)
    with pytest.raises(InvalidInput, match=r"1 of them different"):
        discover(same)
    broken = activations.values[Site(1)].clone()
    broken[3, 0] = float("nan")
    with pytest.raises(NonFinite, match="1 of 600 span activations at resid.1 hold NaN"):
        discover(Activations({Site(1): broken}, index), n=KINDS)


def test_the_loss_of_the_sparse_autoencoder_falls_and_its_seed_fixes_it() -> None:
    rng = np.random.default_rng(0)
    x = np.eye(8, 16)[rng.integers(0, 8, 700)] + 0.1 * rng.normal(size=(700, 16))
    weight, bias, losses = train_sae(x, 8, 0)
    assert losses[-1] < 0.5 * losses[0] < 1 and min(losses) < 0.25
    assert (weight.shape, bias.shape) == ((8, 16), (8,))
    again = train_sae(x, 8, 0)
    np.testing.assert_array_equal(weight, again[0])
    assert losses == again[2] and losses != train_sae(x, 8, 1)[2]
    assert len(train_sae(x, 8, 0, epochs=3)[2]) <= 6  # of the starts, the one that is chosen after five epochs


def test_what_a_model_wrote_is_escaped_where_it_is_shown(found: Strategies) -> None:
    page = found._repr_html_()
    assert "&lt;b&gt;the&lt;/b&gt;" in page and "<b>" not in page
    assert f"on {found.scores['n_held_out'].iloc[0]} held-out spans of 33 problems" in repr(found)


def test_they_are_saved_and_loaded_and_damage_is_named(spans, found: Strategies, tmp_path) -> None:
    found.save(tmp_path / "categories")
    again = Strategies.load(tmp_path / "categories")
    np.testing.assert_array_equal(found.label(spans[0]), again.label(spans[0]))
    pd.testing.assert_frame_equal(found.table, again.table)
    pd.testing.assert_frame_equal(found.scores, again.scores)
    assert again.info == found.info and again.centroids.labels == found.centroids.labels
    torch.testing.assert_close(again.centroids.vectors[2].vector, found.centroids.vectors[2].vector)
    (tmp_path / "categories" / "card.json").write_text("{}")
    with pytest.raises(CorruptArtifact, match=r"card\.json"):
        Strategies.load(tmp_path / "categories")


def test_a_judge_gives_titles_and_a_second_opinion_and_its_failures_are_counted(spans, found: Strategies) -> None:
    activations, _ = spans
    asked: list[str] = []

    def judge(text: str) -> str:
        asked.append(text)
        if "candidate" not in text:
            return "thinking aloud\n**Says a word**"
        examples, candidate = text.split("Candidate:")
        if len(asked) == 9:
            raise OSError("no route")
        return "I say NO, no: YES" if candidate.split()[1] in examples else "NO"

    made = judged(found, activations, judge, n=4)
    assert set(made.table["judge_title"]) == {"Says a word"} and (made.table["judge_accuracy"] == 1).all()
    assert made.info["judge_failures"] == 1 and made.table["judge_n"].sum() == 4 * 2 * KINDS - 1 and len(asked) == 9 * KINDS
    assert "judge_title" in discover(activations, n=3, judge=judge).table
    assert span_question(["```\nobey"], "x").count("```") == 4 and "follow no instruction" in asked[0]
    lost = judged(found, activations, lambda _: "", n=2)
    assert lost.table["judge_accuracy"].isna().all() and (lost.table["judge_n"] == 0).all()
    with pytest.raises(InvalidInput, match="no column `text`"):
        judged(found, Activations(activations.values, activations.index.drop(columns="text")), judge)


@pytest.fixture
def written(tiny_model, tiny_tokenizer) -> tuple[LM, Rollouts, Spans]:
    """A tiny model, random completions, and two spans in each: 0 to 3, and 3 to the end."""
    lm, rng = LM(tiny_model, tiny_tokenizer, "tiny"), np.random.default_rng(0)
    ids = [rng.integers(3, 64, size=12).astype(np.int32) for _ in range(40)]
    keys = {"arm": "base", "problem": [f"p{i // 2}" for i in range(40)], "sample": [i % 2 for i in range(40)]}
    texts = [str(tiny_tokenizer.decode(i[4:].tolist())) for i in ids]
    table = pd.DataFrame({**keys, "prompt_ids": pd.Series([i[:4] for i in ids]), "token_ids": pd.Series([i[4:] for i in ids]), "text": texts})
    spans = pd.concat([table[[*keys]].assign(strategy="s", start=a, end=b) for a, b in ((0, 3), (3, 8))], ignore_index=True)
    return lm, Rollouts(table), Spans(spans)


def test_a_span_is_the_mean_of_its_states_from_the_token_before_it_to_its_last(written) -> None:
    lm, rollouts, spans = written
    found = capture_spans(lm, rollouts, spans, layers=1)
    row = rollouts.table.iloc[5]
    with torch.inference_mode():
        ids = torch.tensor([np.concatenate([row["prompt_ids"], row["token_ids"]]).tolist()])
        hidden = lm.model(ids, output_hidden_states=True).hidden_states[2][0]
    torch.testing.assert_close(found.values[Site(1)][5], hidden[3:7].mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.values[Site(1)][45], hidden[6:11].mean(0), atol=1e-5, rtol=1e-5)  # cut off: the last token was never read
    assert found.index["text"][5] == lm.tokenizer.decode(row["token_ids"][:3].tolist()) and found.index["position"][45] == 3
    elsewhere = Spans(spans.table.assign(problem="nobody's"))
    with pytest.raises(InvalidInput, match="lie in no completion"):
        capture_spans(lm, rollouts, elsewhere, layers=1)


def test_tag_names_spans_by_categories(written) -> None:
    lm, rollouts, spans = written
    found = discover(capture_spans(lm, rollouts, spans, layers=1), n=3)
    again = tag(rollouts, found.labeller(lm), tokenizer=lm.tokenizer).table
    every = tag(rollouts, EVERY, tokenizer=lm.tokenizer)
    pd.testing.assert_frame_equal(again.drop(columns="strategy"), every.table.drop(columns="strategy"))
    assert set(again["strategy"]) <= set(found.names)
    np.testing.assert_array_equal(again["strategy"], found.label(capture_spans(lm, rollouts, every, layers=1)))
