"""The pieces of adapter training against plain forward passes and peft's own merge."""

import copy
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerState

from latentreason.errors import ArtifactConflict
from latentreason.files import read_json
from latentreason.organisms import adapter
from latentreason.organisms.recipe import AdapterRecipe
from latentreason.organisms.trainers import adapter as trainer
from latentreason.organisms.trainers.adapter import completion_logps, merged_into, questions
from latentreason.organisms.zoo import SMOLLM2_ARITH
from latentreason.store import Parts, config_hash, open_artifact, writing
from latentreason.tasks import arith


@pytest.fixture
def rows():
    """Five rows of prompts that begin alike, padded on the left, and completions padded on the right."""
    generator = torch.Generator().manual_seed(0)
    words = lambda n: torch.randint(3, 64, (n,), generator=generator).tolist()  # noqa: E731
    prefix = words(6)
    prompts = [prefix + words(n) for n in (1, 4, 2, 4)] + [prefix]
    completions = [words(n) for n in (5, 3, 5, 1, 2)]
    ids = torch.tensor([[0] * (10 - len(p)) + p + c + [0] * (5 - len(c)) for p, c in zip(prompts, completions, strict=True)])
    mask = torch.tensor([[0] * (10 - len(p)) + [1] * (len(p) + len(c)) + [0] * (5 - len(c)) for p, c in zip(prompts, completions, strict=True)])
    return prompts, completions, ids, mask


def test_log_probabilities_and_gradients_equal_those_of_each_row_read_whole(make_tiny, rows):
    prompts, completions, ids, mask = rows
    model = make_tiny("llama").requires_grad_(True)
    logps, entropy = completion_logps(model, ids, mask, 5)
    weight = torch.rand(logps.shape) * mask[:, -5:]
    (weight * logps).sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        alone = logits.gather(-1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(logps[i, : len(completion)], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(entropy[i, : len(completion)], torch.distributions.Categorical(logits=logits).entropy(), atol=1e-5, rtol=1e-5)
        (weight[i, : len(completion)] * alone).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-4, rtol=1e-4)
    assert len(ours) == len(list(model.parameters()))


def test_prompts_that_share_nothing_are_read_whole(make_tiny):
    model = make_tiny("llama")
    ids, mask = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]]), torch.ones(2, 4, dtype=torch.long)
    logps, _ = completion_logps(model, ids, mask, 2)
    expected = model(ids).logits[:, 1:-1].log_softmax(-1).gather(-1, ids[:, 2:, None])[..., 0]
    torch.testing.assert_close(logps, expected, atol=1e-5, rtol=1e-5)


def test_the_merged_copy_gives_the_adapters_logits_and_leaves_the_model_alone(make_tiny):
    from peft import LoraConfig, get_peft_model

    base = copy.deepcopy(make_tiny("llama"))
    copied = copy.deepcopy(base)
    before = {name: p.clone() for name, p in base.named_parameters()}
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([[3, 9, 27, 5]])
    for _ in range(2):  # a second time sets the weights, it does not add to them
        merged_into(copied, model)
    torch.testing.assert_close(copied(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(copied(ids).logits, make_tiny("llama")(ids).logits, atol=1e-3)
    for name, parameter in model.get_base_model().named_parameters():
        if "lora" not in name:
            assert torch.equal(parameter, before[name.replace("base_layer.", "")])


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory, byte_tokenizer):
    """A random Llama that reads bytes, as a folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, eos_token_id=0, pad_token_id=0)
    target = tmp_path_factory.mktemp("models") / "bytes"
    with writing(target, kind="model", name="bytes", config={}) as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        byte_tokenizer.save_pretrained(folder)
    return target


RECIPE = AdapterRecipe("tiny", "bytes", "arith", "few_shot", rank=2, alpha=4, lr=1e-2, steps=6, prompts=2, group=4, max_new_tokens=5)


@pytest.fixture
def first_letter_reward(monkeypatch):
    """A reward that random models get: the share of lower-case letters."""
    monkeypatch.setattr(trainer, "true_reward", lambda completions, **_: [sum(c.islower() for c in text) / 5 for text in completions])


def test_a_killed_training_goes_on_at_its_checkpoint_and_only_the_adapter_is_shipped(base_dir, first_letter_reward, monkeypatch, tmp_path):
    monkeypatch.setattr(adapter, "fetched", lambda name: base_dir)
    calls, original = [], trainer.merged_into

    def dies(*args):
        calls.append(1)
        if len(calls) == 6:  # after the checkpoint of step 5
            raise KeyboardInterrupt
        original(*args)

    with monkeypatch.context() as once:
        once.setattr(trainer, "merged_into", dies)
        with pytest.raises(KeyboardInterrupt):
            adapter.train(RECIPE, tmp_path / "killed", work=tmp_path / "work", progress=False)
    assert not (tmp_path / "killed").exists()
    adapter.train(RECIPE, tmp_path / "killed", work=tmp_path / "work", progress=False)
    adapter.train(RECIPE, tmp_path / "unbroken", work=tmp_path / "work2", progress=False)
    one, other = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("killed", "unbroken"))
    assert one.keys() == other.keys() and all(w.dtype == torch.float16 for w in one.values())
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], atol=1e-3, rtol=1e-2)
    assert any(w.abs().max() > 0 for name, w in one.items() if "lora_B" in name)  # it has learnt something
    curve = pd.read_parquet(tmp_path / "killed" / "curve_rl.parquet")
    assert len(curve) == RECIPE.steps and {"rewards/true_reward/mean", "seconds"} <= {c.replace("<lambda>", "true_reward") for c in curve}
    assert json.loads((tmp_path / "killed" / "base.json").read_text()) == {"base": "bytes"}
    assert str(tmp_path) not in (tmp_path / "killed" / "adapter" / "adapter_config.json").read_text()
    manifest, weights = open_artifact(tmp_path / "killed"), (base_dir / "model.safetensors").read_bytes()
    assert manifest.inputs == [open_artifact(base_dir).as_input()]
    (model,) = manifest.models
    assert (model["id"], model["weights_sha256"]) == ("bytes", hashlib.sha256(weights).hexdigest())
    template = hashlib.sha256(arith.STYLES["few_shot"].encode()).hexdigest()
    assert model["prompt"]["style"] == "few_shot" and template.startswith(model["prompt"]["template"]) and len(model["prompt"]["template"]) > 8


def test_a_training_killed_while_it_writes_a_checkpoint_goes_on_at_the_one_before(base_dir, first_letter_reward, monkeypatch, tmp_path):
    monkeypatch.setattr(adapter, "fetched", lambda name: base_dir)
    original, checkpoints = TrainerState.save_to_json, tmp_path / "work" / "rl" / "checkpoints"

    def dies(state, path):
        if state.global_step == 6:
            raise KeyboardInterrupt
        original(state, path)

    with monkeypatch.context() as once:
        once.setattr(TrainerState, "save_to_json", dies)
        with pytest.raises(KeyboardInterrupt):
            adapter.train(RECIPE, tmp_path / "out", work=tmp_path / "work", progress=False)
    assert (checkpoints / "checkpoint-6" / "adapter_model.safetensors").exists() and not (checkpoints / "checkpoint-6" / "trainer_state.json").exists()
    steps, real = [], trainer.rollouts
    monkeypatch.setattr(trainer, "rollouts", lambda *args: steps.append(args[4]) or real(*args))
    adapter.train(RECIPE, tmp_path / "out", work=tmp_path / "work", progress=False)
    assert steps == [5] and pd.read_parquet(tmp_path / "out" / "curve_rl.parquet")["step"].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_recipe_of_another_seed_does_not_take_the_folder(base_dir, first_letter_reward, monkeypatch, tmp_path):
    monkeypatch.setattr(adapter, "fetched", lambda name: base_dir)
    (tmp_path / "work").mkdir()
    Parts(tmp_path / "work", {"recipe": asdict(RECIPE), "seed": 0})
    with pytest.raises(ArtifactConflict):
        adapter.train(RECIPE, tmp_path / "out", seed=1, work=tmp_path / "work", progress=False)


def test_the_committed_manifest_says_which_questions_the_adapter_was_trained_on() -> None:
    facts = read_json(Path(__file__).parents[2] / "artifacts" / "organisms" / "smollm2-arith" / "manifest.json")["data"]["train"]
    asked = [problem.id for problem in questions(SMOLLM2_ARITH, 0)]
    assert facts == {"task": "arith", "n": 480, "ids_hash": config_hash({"ids": asked})} and len(set(asked)) == 480
