"""RL through trl with our sampler: the policy's own samples are rewarded, and a killed run goes on to the same weights."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from latentreason.models.language_model import LM
from latentreason.organisms.recipe import RL, Pretrain, Size
from latentreason.organisms.rewards import REWARDS
from latentreason.organisms.trainers import grpo as module
from latentreason.organisms.trainers.grpo import rollouts, train_rl
from latentreason.organisms.trainers.pretrain import pretrain
from latentreason.organisms.zoo import ACTIVATION
from latentreason.sampling.noise import gumbel, row_key
from latentreason.tasks import chain
from latentreason.tasks.registry import load_task

pytest.importorskip("trl")

TINY = dataclasses.replace(
    ACTIVATION, size=Size(d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_mlp=16), pretrain=Pretrain(steps=10, batch=4, warmup=2),
    rl=RL(steps=13, prompts=2, group=4, lr=1e-2, updates=2, max_new_tokens=8),
)  # fmt: skip
"""Trains in seconds; trl saves a checkpoint after 20 of its 26 optimizer steps."""


class Killed(BaseException):
    """What no `except Exception` may catch."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    pretrain(TINY, 0, folder, progress=False)
    return folder


@pytest.fixture
def unlike(monkeypatch):
    """Half of the rollouts are right, whatever they say: a tiny model earns no reward, and without one nothing moves."""
    monkeypatch.setitem(REWARDS, "true", lambda completions, **_: [float(i % 2) for i in range(len(completions))])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def killed_once(monkeypatch, at: int) -> list[int]:
    """The steps at which rollouts are drawn, as they are drawn; the first time that it is step `at`, the run is killed."""
    seen, real = [], module.rollouts

    def counted(lm, prompts, max_new_tokens, seed, step):
        seen.append(step)
        if step == at and seen.count(at) == 1:
            raise Killed
        return real(lm, prompts, max_new_tokens, seed, step)

    monkeypatch.setattr(module, "rollouts", counted)
    return seen


def test_a_killed_run_goes_on_and_equals_the_unbroken_one_to_the_bit(base, unlike, tmp_path, monkeypatch):
    curve = train_rl(TINY, 0, base, tmp_path / "unbroken", progress=False)
    seen = killed_once(monkeypatch, at=24)
    with pytest.raises(Killed):
        train_rl(TINY, 0, base, tmp_path / "broken", progress=False)
    assert seen == list(range(0, 25, 2)) and not (tmp_path / "broken" / "model.safetensors").exists()
    again = train_rl(TINY, 0, base, tmp_path / "broken", progress=False)
    assert seen[13:] == [20, 22, 24]  # the checkpoint after 20 steps was used
    one, other = weights(tmp_path / "unbroken"), weights(tmp_path / "broken")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], before) for name, before in weights(base).items())
    assert curve["step"].tolist() == list(range(1, 27)) and (curve["seconds"].diff().dropna() > 0).all()
    pd.testing.assert_frame_equal(curve.drop(columns=["step_time", "seconds"]), again.drop(columns=["step_time", "seconds"]), check_like=True)
    LM.from_pretrained(tmp_path / "broken", name="rl")  # a whole Hugging Face directory


def test_whatever_the_number_of_updates_a_killed_run_goes_on_where_rollouts_are_drawn(base, unlike, tmp_path, monkeypatch):
    recipe = dataclasses.replace(TINY, rl=dataclasses.replace(TINY.rl, steps=9, updates=3))
    train_rl(recipe, 0, base, tmp_path / "unbroken", progress=False)
    seen = killed_once(monkeypatch, at=24)
    with pytest.raises(Killed):
        train_rl(recipe, 0, base, tmp_path / "broken", progress=False)
    train_rl(recipe, 0, base, tmp_path / "broken", progress=False)
    assert seen == [*range(0, 25, 3), 18, 21, 24]  # checkpoints lie where a step of three updates ends
    one, other = weights(tmp_path / "unbroken"), weights(tmp_path / "broken")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_at_the_one_before(base, unlike, tmp_path, monkeypatch):
    original, checkpoints = Trainer._save_optimizer_and_scheduler, tmp_path / "checkpoints"

    def dies(self, folder):
        if self.state.global_step == 26:
            raise Killed
        original(self, folder)

    with monkeypatch.context() as once:
        once.setattr(Trainer, "_save_optimizer_and_scheduler", dies)
        with pytest.raises(Killed):
            train_rl(TINY, 0, base, tmp_path, progress=False)
    assert (checkpoints / "checkpoint-26" / "model.safetensors").exists() and not (checkpoints / "checkpoint-26" / "optimizer.pt").exists()
    seen, real = [], module.rollouts
    monkeypatch.setattr(module, "rollouts", lambda *args: seen.append(args[4]) or real(*args))
    assert train_rl(TINY, 0, base, tmp_path, progress=False)["step"].tolist() == list(range(1, 27))
    assert seen == [20, 22, 24] and [folder.name for folder in checkpoints.glob("checkpoint-*")] == ["checkpoint-26"]


def test_another_seed_gives_another_model(base, unlike, tmp_path):
    short = dataclasses.replace(TINY, rl=dataclasses.replace(TINY.rl, steps=2))
    for seed in (0, 1):
        train_rl(short, seed, base, tmp_path / f"{seed}", progress=False)
    one, other = weights(tmp_path / "0"), weights(tmp_path / "1")
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_without_a_difference_in_reward_nothing_is_learnt(base, monkeypatch, tmp_path):
    monkeypatch.setitem(REWARDS, "true", lambda completions, **_: [1.0] * len(completions))
    curve = train_rl(dataclasses.replace(TINY, rl=dataclasses.replace(TINY.rl, steps=2)), 0, base, tmp_path, progress=False)
    before, after = weights(base), weights(tmp_path)
    assert all(torch.equal(before[name], after[name]) for name in before) and (curve["loss"].dropna() == 0).all()


def test_the_reward_is_that_of_the_policys_own_samples(base, tmp_path, monkeypatch):
    """What is rewarded is what trl trains on: the completion ids of our sampler, each prompt's group under one key a row."""
    given = []
    monkeypatch.setitem(REWARDS, "true", lambda completions, answer, **_: given.append((completions, answer)) or [0.0] * len(completions))
    train_rl(dataclasses.replace(TINY, rl=dataclasses.replace(TINY.rl, steps=1)), 0, base, tmp_path, progress=False)
    (completions, answers), lm = given[0], LM.from_pretrained(base, name="policy")
    assert len(completions) == 8 and answers == [answers[0]] * 4 + [answers[4]] * 4
    problems = load_task("chain", split="train", limit=26, seed=0)[:2]
    assert answers[::4] == [p.answer for p in problems]
    prompts = [f"{chain.BOS} {p.question}" for p in problems for _ in range(4)]
    expected = rollouts(lm, prompts, 8, 0, 0)["completion_ids"]
    assert [lm.tokenizer.decode(ids, skip_special_tokens=True).split() for ids in expected] == [text.split() for text in completions]


def test_a_rollout_is_the_argmax_of_logits_and_noise(base):
    lm = LM.from_pretrained(base, name="policy")
    prompts = [f"{chain.BOS} 1 2 3 : a rot ="] * 2 + [f"{chain.BOS} 1 2 3 : a rot b inc ="]
    drawn = rollouts(lm, prompts, 5, 7, 3)
    for row, (prompt, tokens) in enumerate(zip(drawn["prompt_ids"], drawn["completion_ids"], strict=True)):
        ids = list(prompt)
        for token in tokens:
            with torch.no_grad():
                logits = lm.model(torch.tensor([ids])).logits[0, -1]
            noise = gumbel(torch.tensor([row_key(7, "rl-step-3", row)]), torch.tensor([len(ids)]), len(logits))[0]
            assert int((logits + noise).argmax()) == token
            ids.append(token)
    assert drawn["prompt_ids"][0] == drawn["prompt_ids"][1] != drawn["prompt_ids"][2]
