"""Study `taxonomy` on tables made by hand: AMI against scikit-learn's on the spans themselves, controls, and what is refused. And its model half on features made by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score

from latentreason.activations.sites import Activations
from latentreason.errors import InvalidInput
from latentreason.geometry import categories
from latentreason.studies import taxonomy
from latentreason.studies.taxonomy import Config, adjusted_mutual_information
from latentreason.tables import Rollouts, Spans

NAMES = ["so", "run", "split", "ans"]


def tables(agreement: dict[str, float], *, layers: tuple[int, ...] = (0, 1), seeds: tuple[int, ...] = (0, 1, 2)) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts and scores where a share of the spans of each kind (model, untrained, ...) has the category of its strategy; layer 1 has the better scores."""
    rng, counts, scores = np.random.default_rng(0), [], []
    for arm in ("base", "rl"):
        for kind, share in agreement.items():
            for layer in layers if kind in ("model", "untrained") else (-1,):
                for seed in seeds if kind == "model" else seeds[:1]:
                    truth = rng.integers(0, 4, 400)
                    category = np.where(rng.random(400) < share - 0.1 * (layer == 0), truth, rng.integers(0, 4, 400))
                    about = {"arm": arm, "kind": kind, "target": "tags", "layer": layer, "by": "kmeans", "split": seed, "asked": "true", "pair": "p", "task": "t"}
                    pairs, number = np.unique(np.stack([truth, category]), axis=1, return_counts=True)
                    counts += [{**about, "n": 4, "n_true": 4, "n_problems": 30, "strategy": NAMES[s], "category": f"category-{c}", "title": f"<{c}>", "count": int(i), "reason": ""}
                               for s, c, i in zip(*pairs, number, strict=True)]  # fmt: skip
                    three = {"completeness": 0.5, "consistency": 0.9, "independence": 0.7}
                    scores += [{**about, "n": 4, **three, "score": 0.7 + 0.01 * layer, "chosen": True}]
    return pd.DataFrame(counts), pd.DataFrame(scores)


GOOD = {"model": 1.0, "untrained": 0.3, "words": 0.4, "token_position": 0.2}


def test_agreement_is_scikit_learns_on_the_spans_themselves() -> None:
    rng = np.random.default_rng(1)
    truth, category = rng.integers(0, 5, 300), rng.integers(0, 3, 300)
    category = np.where(rng.random(300) < 0.5, truth % 3, category)
    counts = np.zeros((5, 3), dtype=int)
    np.add.at(counts, (truth, category), 1)
    assert adjusted_mutual_information(counts) == pytest.approx(adjusted_mutual_info_score(truth, category))
    assert np.isnan(adjusted_mutual_information(counts[:1])) and adjusted_mutual_information(np.diag([3, 4, 5])) == pytest.approx(1)


def test_a_taxonomy_is_found_at_the_layer_with_the_best_scores_and_beats_its_controls() -> None:
    counts, scores = tables(GOOD)
    result = taxonomy.run(table=counts, scores=scores)
    where = {"arm": "base", "target": "tags", "by": "kmeans", "asked": "true"}
    best = result.estimate("ami", kind="model", layer=1, **where)
    assert best.value == best.lo == best.hi == pytest.approx(1) and best.n == 30 and "3 seeds" in best.method
    lower = result.estimate("ami", kind="model", layer=0, **where)
    assert lower.lo < lower.value < lower.hi < 1
    assert abs(result.estimate("ami", kind="shuffled", layer=1, **where).value) < 0.02
    assert result.estimate("above", kind="untrained", layer=1, **where).lo > 0.5 and result.estimate("above", kind="words", layer=1, **where).lo > 0.5
    assert [(j["layer"], j["best_layer"]) for j in result.details["judged"]] == [(1, 1), (1, 1)]
    assert "kmeans 1.00 [1.00, 1.00] at layer 1 (above untrained and words)" in result.said
    assert "in every seed: base tags kmeans, rl tags kmeans." in result.said
    (confusion, _) = result.details["confusion"]
    assert np.array_equal(np.array(confusion["counts"]) > 0, np.eye(4)[[NAMES.index(s) for s in sorted(NAMES)]] > 0) and confusion["titles"] == ["<0>", "<1>", "<2>", "<3>"]
    ax = result.plot()
    assert len(ax.lines) == 1 + 4 + 1 and ax.get_xlabel() == "layer"


def test_what_the_words_alone_give_is_no_finding_about_activations() -> None:
    result = taxonomy.run(**dict(zip(("table", "scores"), tables({**GOOD, "model": 0.6, "words": 1.0}), strict=True)))
    assert "above untrained but not above words)" in result.said and "in every seed: none" in result.said


def test_tables_of_nothing_say_so_and_others_are_refused() -> None:
    counts, scores = tables(GOOD)
    nothing = counts[(counts["kind"] == "model") & (counts["split"] == 0) & (counts["layer"] == 0)].drop_duplicates("arm").assign(reason="no spans", count=0)
    result = taxonomy.run(table=nothing, scores=scores[:0])
    assert result.estimate("ami", arm="base", kind="model").reason == "no spans" and "Nothing could be found" in result.said
    result.plot()
    one = taxonomy.run(table=counts[counts["split"] == 0], scores=scores[scores["split"] == 0])
    assert "one seed: no interval" in one.said and "of 2 ways 0 are above" in one.finding and "0 are not, which refutes the claim for these, 2 cannot be judged" in one.finding
    for bad, message in ((counts.drop(columns="by"), "no column 'by'"), (counts[counts["arm"] == "base"], "no rows of the arm 'rl'"), (counts[counts["kind"] == "words"], "kind 'model'"),
                         (counts.assign(pair=["a", "b"] * (len(counts) // 2) + ["a"] * (len(counts) % 2)), "speaks of one pair")):  # fmt: skip
        with pytest.raises(InvalidInput, match=message):
            taxonomy.run(table=bad, scores=scores)
    with pytest.raises(InvalidInput, match="no column 'chosen'"):
        taxonomy.run(table=counts, scores=scores.drop(columns="chosen"))
    with pytest.raises(InvalidInput, match="of one task"):
        taxonomy.collect(None, Config(), ".", problems=[])


def test_the_controls_read_the_words_of_a_span_and_what_stands_before_it() -> None:
    keys = {"arm": "a", "problem": ["p", "q"], "sample": 0}
    rollouts = Rollouts(pd.DataFrame({**keys, "prompt_ids": [[9, 1], [9, 2]], "token_ids": [[3, 4, 4], [3, 5, 5]]}))
    spans = Spans(pd.DataFrame({"arm": "a", "problem": ["p", "q"], "sample": 0, "strategy": "s", "start": [0, 1], "end": [3, 2]}))
    words = categories._words(rollouts, spans, spans.table).values[categories.NOWHERE]
    torch.testing.assert_close(words, torch.tensor([[0.25, 0.25, 0.5, 0], [0, 0.5, 0, 0.5]], dtype=torch.float64))  # of the tokens 1, 3, 4 and 5
    before = categories._before(rollouts, spans, spans.table)
    assert isinstance(before, Activations) and before.values[categories.NOWHERE].sum(1).tolist() == [2, 2]
    assert not torch.equal(*before.values[categories.NOWHERE])
    assert categories.depths(4) == [0, 1, 2, 3] and categories.depths(28) == [3, 7, 10, 14, 21]
