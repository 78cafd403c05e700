"""Trained vectors against a planted one, finite differences, and a model that is left as it was."""

import numpy as np
import pandas as pd
import pytest
import torch

from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput
from latentreason.hybrid.decode import Hybrid
from latentreason.hybrid.steering import random_category, steer_by
from latentreason.models.blocks import blocks, hidden_of
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.routing.controls import always
from latentreason.sampling.local import Sampling, sample
from latentreason.tables import Rollouts
from latentreason.tasks.chain import load
from latentreason.vectors import optimised
from latentreason.vectors.optimised import disagreements, fit_optimised
from latentreason.vectors.steering_vector import SteeringVector

LAYER = 1


def planted(lm, n=40, seed=0):
    """Completions whose even places are the likeliest token of the model with a vector of the category added there, others the model's own."""
    rng, model = np.random.default_rng(seed), lm.model
    vectors = 6 * torch.nn.functional.normalize(torch.randn(2, lm.d_model, generator=torch.Generator().manual_seed(9)), dim=-1)
    rows, places = [], []
    for i in range(n):
        ids, category = rng.integers(3, 60, 4).tolist(), i % 2
        for t in range(8):

            def add(module, args, output, t=t, category=category):
                hidden = hidden_of(output).clone()
                for place in range(3, 4 + t):
                    if (place - 3) % 2 == 0:
                        hidden[:, place] += vectors[category]
                return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

            hook = blocks(lm)[LAYER].register_forward_hook(add)
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            hook.remove()
        rows.append({"arm": "rl", "problem": f"p{i:02d}", "sample": 0, "prompt_ids": np.array(ids[:4]), "token_ids": np.array(ids[4:])})
        places += [{"arm": "rl", "problem": f"p{i:02d}", "sample": 0, "start": t, "strategy": "ab"[category]} for t in range(0, 8, 2)]
    return Rollouts(pd.DataFrame(rows)), pd.DataFrame(places), vectors


@pytest.fixture(scope="module")
def lm(make_tiny, tiny_tokenizer):
    return LM(make_tiny("llama"), tiny_tokenizer, "base")


@pytest.fixture(scope="module")
def case(lm):
    return planted(lm)


def test_trained_vectors_say_what_planted_ones_made_the_model_say(lm, case):
    rollouts, at, truth = case
    before, hooks = [w.clone() for w in lm.model.parameters()], [len(m._forward_hooks) for m in lm.model.modules()]
    fitted = fit_optimised(lm, rollouts, at, layer=LAYER, seeds=(0, 1), epochs=40, patience=6, lr=0.1, batch=8)
    plain, runs = fitted.table.iloc[0], fitted.table.iloc[1:]
    rows = optimised._rows(rollouts, at, 64)
    held = [r for r, s in zip(rows, optimised._split([r.problem for r in rows]), strict=True) if s == "report"]
    ideal = optimised._loss(optimised._read(lm, LAYER, None, 2, rows), held, truth, None, 8)
    assert plain["seed"] == -1 and ideal < plain["report"]
    assert (runs["report"] < plain["report"] - 0.5 * (plain["report"] - ideal)).all()
    for i, label in enumerate("ab"):
        assert float(fitted.vectors[label, Site(LAYER)].direction @ truth[i] / truth[i].norm()) > 0.5
    assert runs["chosen"].sum() == 1 and runs.loc[runs["chosen"], "select"].iloc[0] == runs["select"].min()
    assert abs(fitted.optimism) < 2
    assert all(torch.equal(a, b) for a, b in zip(before, lm.model.parameters(), strict=True)) and hooks == [len(m._forward_hooks) for m in lm.model.modules()]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_what_all_completions_begin_with_is_read_once_and_changes_nothing(family, make_tiny, tiny_tokenizer, monkeypatch):
    lm = LM(make_tiny(family), tiny_tokenizer, "base")
    rollouts, at, _ = planted(lm, n=15)
    shots = np.random.default_rng(3).integers(3, 60, 21)
    long = Rollouts(rollouts.table.assign(prompt_ids=[np.concatenate([shots, ids]) for ids in rollouts.table["prompt_ids"]]))
    read = optimised._read(lm, LAYER, None, 2, optimised._rows(long, at, 64))
    assert read.begun == 21 and read.kept[0][0].shape[-2] == 21
    how = {"layer": LAYER, "seeds": (0,), "epochs": 2, "batch": 4, "strength": "learned"}
    once = fit_optimised(lm, long, at, **how)
    monkeypatch.setattr(optimised, "WORTH_SHARING", 10_000)
    assert optimised._read(lm, LAYER, None, 2, optimised._rows(long, at, 64)).begun == 0
    whole = fit_optimised(lm, long, at, **how)
    pd.testing.assert_frame_equal(once.table, whole.table, atol=1e-4)
    for key, vector in once.vectors.items():
        torch.testing.assert_close(vector.vector, whole.vectors[key].vector, atol=1e-4, rtol=1e-3)


def test_the_step_of_a_vector_is_a_share_of_the_size_of_the_activations(lm, case):
    rows = optimised._rows(case[0], case[1], 64)[:4]
    with torch.no_grad():
        hidden = [lm.model(torch.tensor(r.ids)[None], output_hidden_states=True).hidden_states[LAYER + 1][0, r.place] for r in rows]
    size = float(torch.cat(hidden).square().mean().sqrt())
    assert optimised._size(lm, rows, LAYER) == pytest.approx(size, rel=1e-5)
    short = {"layer": LAYER, "seeds": (0,), "epochs": 1, "batch": 100}  # one step of Adam moves each coordinate by its rate
    far, near = (fit_optimised(lm, *case[:2], **short, lr=lr).vectors["a", Site(LAYER)].scale for lr in (2.0, 1.0))
    rows = [r for r, s in zip(optimised._rows(*case[:2], 64), optimised._split([r.problem for r in optimised._rows(*case[:2], 64)]), strict=True) if s == "train"]
    assert far / lm.d_model**0.5 == pytest.approx(2 * optimised._size(lm, rows[:100], LAYER), rel=0.1) and far > 1.9 * near


def test_the_gradient_is_that_of_finite_differences(lm, case):
    rows = optimised._rows(case[0], case[1], 64)[:3]
    table, read = torch.randn(2, lm.d_model, generator=torch.Generator().manual_seed(1)).requires_grad_(), optimised._read(lm, LAYER, None, 2, rows)

    def loss(t):
        return optimised._mean(*optimised._sums(read, rows, t, None))

    loss(table).backward()
    for i, j in ((0, 3), (1, 20)):
        step = torch.zeros_like(table)
        step[i, j] = 1e-2
        with torch.no_grad():
            assert float(table.grad[i, j]) == pytest.approx(float(loss(table + step) - loss(table - step)) / 2e-2, abs=2e-3)


def test_a_learned_strength_and_a_bias_that_stays(lm, case):
    rollouts, at, truth = case
    bias = SteeringVector.of(Site(LAYER), truth.mean(0), "bias", 4)
    fitted = fit_optimised(lm, rollouts, at, layer=LAYER, strength="learned", bias=bias, seeds=(0,), epochs=6, lr=0.05, batch=8)
    assert fitted.strength is not None and fitted.strength.labels == ("a", "b")
    alpha = fitted.strength(torch.randn(5, lm.d_model), torch.tensor([0, 1, 1, 0, 1]))
    assert alpha.shape == (5,) and (alpha > 0).all()
    assert fitted.table["report"].iloc[1] < fitted.table["report"].iloc[0]


def test_a_hybrid_is_steered_with_the_learned_strength(make_tiny, tiny_tokenizer, lm, case):
    pair = ModelPair(lm, LM(make_tiny("llama", seed=1), tiny_tokenizer, "rl"))
    fitted = fit_optimised(lm, *case[:2], layer=LAYER, strength="learned", seeds=(0,), epochs=2, batch=8)
    category = random_category(("a", "b"))
    from latentreason.models.decoding import Batch
    from latentreason.sampling.noise import gumbel

    batch = Batch([[1, 9, 40, 17], [1, 12, 5, 6]], torch.tensor([0, 1]), torch.tensor([5, 6]), 1.0, 1.0, 6, gumbel)
    hybrid = Hybrid(pair, always(), steer_by(fitted.vectors, category, strength=fitted.strength))
    assert f"base:{LAYER}" in hybrid.action.reads and hybrid.action.params["strength"] == "learned"
    assert hybrid.decode(batch).records["token_ids"].shape == (2, 6)
    with pytest.raises(InvalidInput, match="fit both on the same strategies"):
        steer_by(fitted.vectors, random_category(("a",)), strength=fitted.strength)


def test_disagreements_are_the_tokens_that_always_changes():
    pair = ModelPair.from_organism("activation")
    rollouts = sample(Hybrid(pair, always()), load(split="fit", limit=4, seed=0), Sampling(n=2), progress=False)
    found = disagreements(rollouts)
    assert len(found) == rollouts.table["n_changed"].sum()
    by_hand = {(r["problem"], r["sample"], t) for _, r in rollouts.table.iterrows() for t, (a, b) in enumerate(zip(r["token_ids"], r["base_token_ids"], strict=True)) if a != b}
    assert by_hand == set(zip(found["problem"], found["sample"], found["start"], strict=True))
    with pytest.raises(InvalidInput, match="Only a Hybrid knows"):
        disagreements(sample(pair.rl, load(split="fit", limit=1, seed=0), Sampling(n=1), progress=False))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda at: at.iloc[:0], "no place to train on"), (lambda at: at.drop(columns="strategy"), "lack the columns"), (lambda at: at.assign(start=99), "outside its completion"),
        (lambda at: at.assign(problem="x"), "not among the rollouts"), (lambda at: at.assign(strategy=["rare", *["a"] * (len(at) - 1)]), r"No place of \['rare'\]"),
    ],
)  # fmt: skip
def test_places_that_cannot_be_trained_on(lm, case, change, said):
    with pytest.raises(InvalidInput, match=said):
        fit_optimised(lm, case[0], change(case[1]), layer=LAYER, seeds=(0,), epochs=1)
