"""Steering by category: the vector that is added is that of the category that the activation falls into."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from latentreason.activations.sites import Activations, Site
from latentreason.errors import InvalidInput, UnknownName
from latentreason.hybrid import actions
from latentreason.hybrid.actions import logit_bias, steer
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.hybrid.steering import Category, bias_by, fit_category, random_category, steer_by
from latentreason.models.cache import Reader
from latentreason.models.decoding import Batch, sampled
from latentreason.routing.controls import always, random_places
from latentreason.sampling.noise import gumbel
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

PROMPTS = [[1, 9, 40, 17, 33, 5, 60, 28], [1, 12], [1, 7, 21, 8, 50]]
BATCH = Batch(PROMPTS, torch.arange(3).repeat_interleave(4), 5 + torch.arange(12) * 7919, 1.0, 1.0, 10, gumbel)
HALF = random_places("half", [0], [0.5])
LABELS = ("a", "b", "c")


def vectors():
    noise = torch.randn(3, 3, 32, generator=torch.Generator().manual_seed(1)) * 3
    return VectorSet(tuple(SteeringVector.of(Site(layer), noise[i, layer], label, 10) for i, label in enumerate(LABELS) for layer in (0, 2)))


def rows(decoded, name="token_ids"):
    return [row[:n].tolist() for row, n in zip(decoded.records[name], decoded.length, strict=True)]


@pytest.mark.parametrize("chosen", [0, 2])
def test_a_category_that_never_changes_is_plain_steering(pair, chosen):
    fixed = Category("base:1", LABELS, torch.zeros(3, 32), torch.eye(3)[chosen])
    plain = Hybrid(pair, HALF, steer(vectors(), label=LABELS[chosen], strength=1.5)).decode(BATCH)
    found = Hybrid(pair, HALF, steer_by(vectors(), fixed, strength=1.5)).decode(BATCH)
    assert rows(found) == rows(plain) and rows(found, "source") == rows(plain, "source")


def test_a_bias_by_category_is_a_bias_on_the_token_of_that_category(pair):
    opening = {"a": 30, "b": 31, "c": 32, "nobody's": 33}
    for chosen, token in ((0, 30), (2, 32)):
        fixed = Category("base:1", LABELS, torch.zeros(3, 32), torch.eye(3)[chosen])
        found, plain = (Hybrid(pair, HALF, action).decode(BATCH) for action in (bias_by(opening, fixed, bias=3.0), logit_bias(token, 3.0)))
        assert rows(found) == rows(plain) and rows(found, "source") == rows(plain, "source")
    mixed = Category("rl:1", LABELS, torch.randn(3, 32, generator=torch.Generator().manual_seed(4)), torch.zeros(3))
    said = {token for row in rows(Hybrid(pair, always(), bias_by(opening, mixed, bias=1e6)).decode(BATCH)) for token in row}
    assert {30, 31, 32} >= said and len(said) > 1
    assert rows(Hybrid(pair, always(), bias_by(opening, mixed, bias=0.0)).decode(BATCH)) == rows(pair.base.decode(BATCH))
    with pytest.raises(UnknownName, match="Unknown strategy with a token of its own 'a'"):
        bias_by({"b": 31, "c": 32}, mixed, bias=1.0)
    with pytest.raises(InvalidInput, match="bias=inf is not finite"):
        bias_by(opening, mixed, bias=math.inf)
    with pytest.raises(InvalidInput, match="the models share tokens 0 to 63"):
        Hybrid(pair, always(), bias_by({**opening, "c": 64}, mixed, bias=1.0)).decode(BATCH)


@pytest.mark.parametrize("place", ["base:1", "rl:2"])
def test_the_vector_is_that_of_the_category_of_the_activation(pair, place):
    """Against full forwards of both models, with the vector added by hand at the last position."""
    weights = torch.randn(3, 32, generator=torch.Generator().manual_seed(4))
    category = Category(place, LABELS, weights, torch.tensor([0.1, 0.0, -0.1]))
    decoded, used = Hybrid(pair, HALF, steer_by(vectors(), category, strength=1.0)).decode(BATCH), set()
    lms = {"base": pair.base, "rl": pair.rl}
    blocks = pair.base.model.transformer.h if hasattr(pair.base.model, "transformer") else pair.base.model.model.layers
    for i, (tokens, routed) in enumerate(zip(rows(decoded), rows(decoded, "routed"), strict=True)):
        prompt = PROMPTS[int(BATCH.problem[i])]
        for t in (t for t, here in enumerate(routed) if here):
            ids = torch.tensor([prompt + tokens[:t]])
            with torch.inference_mode():
                hidden = lms[place.split(":")[0]].model(ids, output_hidden_states=True, use_cache=False).hidden_states[int(place[-1]) + 1][0, -1] if place != "rl:2" else None
                if hidden is None:  # the last block: hidden_states[-1] is after the final norm, so it is read by a hook
                    seen = []
                    deep = pair.rl.model.transformer.h if hasattr(pair.rl.model, "transformer") else pair.rl.model.model.layers
                    handle = deep[2].register_forward_hook(lambda m, a, out, seen=seen: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1]))
                    pair.rl.model(ids, use_cache=False)
                    handle.remove()
                    hidden = seen[0]
            label = LABELS[int((weights @ hidden + category.bias).argmax())]
            used.add(label)
            handles = []
            for layer in (0, 2):

                def add(module, args, out, vector=vectors()[label, Site(layer)].vector):
                    full = (out[0] if isinstance(out, tuple) else out).clone()
                    full[:, -1] += vector
                    return (full, *out[1:]) if isinstance(out, tuple) else full

                handles.append(blocks[layer].register_forward_hook(add))
            with torch.inference_mode():
                logits = pair.base.model(ids, use_cache=False).logits[0, -1]
            for handle in handles:
                handle.remove()
            noise = gumbel(BATCH.keys[i : i + 1], torch.tensor([len(prompt) + t]), 64)[0]
            assert tokens[t] == int((logits + noise).argmax())
    assert len(used) > 1


def test_a_random_category_depends_on_the_prefix_and_the_seed_alone(pair):
    def texts(seed, company=()):
        hybrids = [Hybrid(pair, always(), steer_by(vectors(), random_category(LABELS, seed=seed), strength=2.0), name="steered"), *company]
        decoded = Arms(hybrids).decode(BATCH)
        return rows(decoded)[:12]

    assert texts(0) == texts(0, [Hybrid(pair, HALF, name="other")]) != texts(1)


def test_a_random_category_is_each_label_as_often_at_every_place(pair):
    """The first token, too: there the completion is empty, and only the prompt can tell rows apart. And the label goes with the prompt, wherever its slot is moved."""
    from latentreason.models.decoding import decode

    category, found = random_category(LABELS, seed=3), {}
    prompts = [[1, 4 + i % 50, 4 + i // 50] for i in range(300)]
    batch = Batch(prompts, torch.arange(300).repeat_interleave(2), torch.arange(600) * 7919, 1.0, 1.0, 3, gumbel)

    def choose(moment):
        label = category(moment)[moment.slot]
        for row, prefix, each in zip(moment.row.tolist(), moment.prefix.tolist(), label.tolist(), strict=True):
            assert found.setdefault((*prompts[row // 2], -1, *prefix), each) == each
        return {"token_ids": sampled(moment.logits[0], moment)}

    decode([pair.base], batch, choose)
    for t in (0, 1, 2):
        share = np.bincount([label for key, label in found.items() if len(key) == 4 + t], minlength=3) / sum(len(key) == 4 + t for key in found)
        assert (abs(share - 1 / 3) < 0.12).all(), (t, share)
    alone = Batch(prompts[7:8], torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), 1.0, 1.0, 1, gumbel)
    seen: list[int] = []  # the same without company
    decode([pair.base], alone, lambda moment: seen.append(int(category(moment)[0])) or {"token_ids": sampled(moment.logits[0], moment)})
    assert seen == [found[1, 11, 4, -1]]


def test_the_classifier_is_scikit_learns():
    rng = np.random.default_rng(0)
    strategy = rng.choice(LABELS, 300)
    x = rng.normal(size=(300, 8)).astype(np.float32) + 2 * np.eye(3, 8)[[LABELS.index(s) for s in strategy]].astype(np.float32)
    index = pd.DataFrame({"arm": "a", "problem": [f"p{i // 10}" for i in range(300)], "sample": 0, "position": range(300), "token": 0, "strategy": strategy})
    onsets = Activations({Site(1): torch.from_numpy(x)}, index)
    category = fit_category(onsets, layer=1, model="base")
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(x, strategy)
    scores = torch.from_numpy(x) @ category.weights.T + category.bias
    assert [category.labels[i] for i in scores.argmax(-1).tolist()] == peer.predict(x).tolist()
    assert category.place == "base:1" and 0.6 < category.accuracy <= 1
    two = fit_category(onsets, layer=1, model="rl", labels=("a", "b"))
    some = np.isin(strategy, ["a", "b"])
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(x[some], strategy[some])
    scores = torch.from_numpy(x[some]) @ two.weights.T + two.bias
    assert [two.labels[i] for i in scores.argmax(-1).tolist()] == peer.predict(x[some]).tolist()


def test_what_means_nothing_is_refused(pair):
    index = pd.DataFrame({"arm": "a", "problem": ["p", "q"], "sample": 0, "position": 0, "token": 0, "strategy": "so"})
    with pytest.raises(InvalidInput, match=r"at least two strategies, found \[(np\.str_\()?'so'"):
        fit_category(Activations({Site(0): torch.zeros(2, 4)}, index), layer=0, model="base")
    with pytest.raises(InvalidInput, match="is not finite"):
        steer_by(vectors(), random_category(LABELS), strength=math.nan)
    with pytest.raises(UnknownName):
        steer_by(vectors(), random_category(("a", "nobody")))


@pytest.mark.parametrize("together", [1, 3, 64])
def test_arms_that_steer_are_read_again_together_and_each_says_what_it_says_alone(pair, monkeypatch, together):
    """Vectors at other blocks, strengths, categories and temperatures, in arms that share slots."""
    monkeypatch.setattr(actions, "TOGETHER", together)
    read = Category("rl:1", LABELS, torch.randn(3, 32, generator=torch.Generator().manual_seed(4)), torch.zeros(3))
    hybrids = [
        Hybrid(pair, HALF, steer(vectors().at(0), label="a", strength=1.5), "shallow"), Hybrid(pair, HALF, steer(vectors().at(2), label="a", strength=1.5), "deep"),
        Hybrid(pair, always(), steer_by(vectors(), read, strength=2.0), "by category"), Hybrid(pair, HALF, steer_by(vectors(), random_category(LABELS), strength=2.0), "at random"),
        Hybrid(pair, HALF, name="swap"), Hybrid(pair, HALF, steer(vectors().at(2), label="c", strength=3.0), "cool", tempering=(1.0, 0.5)),
        Hybrid(pair, HALF, steer(vectors(), label="b", strength=0.0), "nothing"),
    ]  # fmt: skip
    passes, again = [], Reader.again
    monkeypatch.setattr(Reader, "again", lambda self, slot, *rest, **how: (passes.append(len(slot)), again(self, slot, *rest, **how))[1])
    decoded = Arms(hybrids).decode(BATCH)
    most, n = max(passes), len(BATCH.problem)
    assert most <= together
    assert len(passes) <= BATCH.max_new_tokens or together < 64, "one pass a step, where all fit into one"
    found = rows(decoded)
    for i, hybrid in enumerate(hybrids):
        assert found[i * n : (i + 1) * n] == rows(hybrid.decode(BATCH)), hybrid.name
    assert found[6 * n :] == rows(pair.base.decode(BATCH))
    assert found[:n] != found[n : 2 * n]


def test_an_action_that_wraps_another_gets_its_tokens(pair):
    plain = steer(vectors(), label="a", strength=1.5)
    wrapped = actions.Action("mine", source=actions.STEERED, reads=plain.reads, tokens=lambda moment: plain.tokens(moment))
    assert rows(Hybrid(pair, HALF, wrapped).decode(BATCH)) == rows(Hybrid(pair, HALF, plain).decode(BATCH))
