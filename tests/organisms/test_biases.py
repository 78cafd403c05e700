"""RL of one vector a block: nothing else moves, the start is the base to the bit, and what comes out is a model like any other."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from latentreason import compare
from latentreason.activations.capture import capture
from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput, UnknownName
from latentreason.hybrid.decode import Hybrid
from latentreason.hybrid.rivals import bias_vector
from latentreason.models.language_model import LM
from latentreason.models.merge import interpolated, largest_changes, weight_changes, with_biases
from latentreason.models.pair import ModelPair
from latentreason.organisms.estimate import described
from latentreason.organisms.recipe import RL, Pretrain, Size, config_of
from latentreason.organisms.rewards import REWARDS
from latentreason.organisms.ship import half_changes
from latentreason.organisms.train import models_of
from latentreason.organisms.trainers.grpo import train_rl
from latentreason.organisms.trainers.pretrain import pretrain
from latentreason.organisms.zoo import ACTIVATION, ORGANISMS
from latentreason.routing.controls import always
from latentreason.sampling.local import Sampling, sample
from latentreason.tasks.registry import load_task

pytest.importorskip("trl")

STAGE = RL(steps=2, prompts=2, group=4, lr=1e-2, updates=1, max_new_tokens=8, trainable="bias")
TINY = dataclasses.replace(ACTIVATION, size=Size(d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_mlp=16), pretrain=Pretrain(steps=10, batch=4, warmup=2), rl=STAGE)
IDS = torch.tensor([[1, 5, 9, 12, 7, 8]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base, and what two steps of RL with a reward of its own for every sample make of it."""
    root = tmp_path_factory.mktemp("biases")
    pretrain(TINY, 0, root / "base", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REWARDS, "true", lambda completions, **_: [float(i % 2) for i in range(len(completions))])
        curve = train_rl(TINY, 0, root / "base", root / "rl", progress=False)
        assert (curve["grad_norm"] > 0).all() and curve["kl_to_base"].iloc[0] == 0.0  # the gradient of the reward reaches the biases; before it, nothing differs
    return root


@pytest.fixture(scope="module")
def pair(folders):
    return ModelPair.from_pretrained(folders / "base", folders / "rl", verbose=False)


def test_only_one_vector_a_block_has_moved(folders):
    before, after = (load_file(folders / name / "model.safetensors") for name in ("base", "rl"))
    trained = {f"model.layers.{i}.mlp.down_proj.bias" for i in range(2)}
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert {name for name in after.keys() - before.keys() if after[name].any()} == trained
    assert all(after[name].shape == (16,) for name in trained)


def test_zero_biases_are_the_base_to_the_bit_and_leave_the_callers_model_alone(folders):
    lm = LM.from_pretrained(folders / "base", name="base")
    biased = with_biases(lm.model)
    with torch.inference_mode():
        for ids in (IDS, IDS[:, :1], IDS.repeat(5, 1)):
            assert torch.equal(biased(ids).logits, lm.model(ids).logits)
    assert lm.model.config.mlp_bias is False and not any("bias" in name for name, _ in lm.model.named_parameters())
    assert any(name.endswith("mlp.down_proj.bias") for name, _ in biased.named_parameters()) and biased.training is lm.model.training
    with torch.no_grad():
        biased.model.layers[0].mlp.down_proj.bias.fill_(1.0)
    again = with_biases(biased)  # biases that are there are kept
    assert torch.equal(again(IDS).logits, biased(IDS).logits) and not torch.equal(again(IDS).logits, lm.model(IDS).logits)


def test_a_model_with_biases_is_decoded_captured_and_fingerprinted_like_any_other(pair):
    problems = load_task("chain", split="fit", limit=3)
    drawing = Sampling(n=2, max_new_tokens=8)
    alone, always_rl = sample(pair.rl, problems, drawing, progress=False), sample(Hybrid(pair, always()), problems, drawing, progress=False)
    assert all((a == b).all() for a, b in zip(alone.table["token_ids"], always_rl.table["token_ids"], strict=True))
    read = capture(pair.rl, alone, [Site(0)])
    row = alone.table.iloc[0]
    with torch.inference_mode():
        ids = torch.tensor([[*row["prompt_ids"], *row["token_ids"]]])
        hidden = pair.rl.model(ids, output_hidden_states=True).hidden_states[1][0, len(row["prompt_ids"]) - 1]
    torch.testing.assert_close(read.values[Site(0)][0], hidden, atol=1e-5, rtol=1e-5)
    assert pair.rl.fingerprint != pair.base.fingerprint
    assert half_changes(pair.rl, problems, 4) >= 0  # shipping rounds a copy of it


def test_weights_between_base_and_biases(pair):
    assert torch.equal(interpolated(pair, 0.0).model(IDS).logits, pair.base.model(IDS).logits)
    torch.testing.assert_close(interpolated(pair, 1.0).model(IDS).logits, pair.rl.model(IDS).logits, atol=1e-5, rtol=1e-5)
    half, whole = (dict(interpolated(pair, alpha).model.named_parameters())["model.layers.1.mlp.down_proj.bias"] for alpha in (0.5, 1.0))
    torch.testing.assert_close(2 * half, whole)
    torch.testing.assert_close(largest_changes(pair, 1.0).model(IDS).logits, pair.rl.model(IDS).logits, atol=1e-5, rtol=1e-5)
    assert (weight_changes(pair)["unchanged"] == 1).all()  # no matrix has moved
    problems = load_task("chain", split="calibration", limit=2)
    drawn = bias_vector(pair).draw(pair, problems, Sampling(n=2, max_new_tokens=6), {"1": 1.0})["1"]
    said = sample(pair.rl, problems, Sampling(n=2, max_new_tokens=6), progress=False)
    assert [ids.tolist() for ids in drawn.table["token_ids"]] == [ids.tolist() for ids in said.table["token_ids"]]


def test_the_recipe_shares_its_base_and_the_shipped_ones_keep_their_hash():
    recipe = ORGANISMS["activation-bias"]
    assert models_of(recipe, 0)[0].config == models_of(ACTIVATION, 0)[0].config
    assert config_of(recipe.rl)["trainable"] == "bias" and "trainable" not in config_of(ACTIVATION.rl)
    assert described(recipe) == "GRPO 100 x 512, true, biases alone"


def test_the_rival_is_the_trained_organism_or_the_reason_why_there_is_none(pair, monkeypatch):
    known = dataclasses.replace(pair, name="activation")
    assert compare.trained_biases(pair) == "no recipe trains biases alone on this base"
    monkeypatch.setattr(compare, "weights_of", lambda recipe, seed: (None, "not trained yet"))
    assert compare.trained_biases(known) == "activation-bias: not trained yet (latentreason organisms train activation-bias)"
    monkeypatch.setattr(compare, "weights_of", lambda recipe, seed: (Path("here"), ""))
    monkeypatch.setattr(ModelPair, "from_folder", lambda folder, name: pair)
    assert compare.trained_biases(known) is pair
    monkeypatch.setattr(ModelPair, "from_folder", lambda folder, name: pair.exchanged())
    assert compare.trained_biases(known) == "activation-bias was trained on another base"


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_cannot_have_biases_is_refused(make_tiny):
    with pytest.raises(InvalidInput, match="A GPT2LMHeadModel cannot be given biases"):
        with_biases(make_tiny("gpt2", 0))
    with pytest.raises(UnknownName, match="Unknown value of trainable 'biases'. Did you mean 'bias'"):
        RL(trainable="biases")
