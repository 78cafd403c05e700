"""Stages of training beside plain GRPO: RL-PLUS, KL penalty, single steps, imitation; on models so small that a step takes moments."""

import dataclasses
import math
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from latentreason.errors import InvalidInput
from latentreason.models.language_model import LM
from latentreason.organisms.recipe import RL, SFT, Pretrain, Size
from latentreason.organisms.rewards import REWARDS
from latentreason.organisms.trainers import grpo, sft
from latentreason.organisms.trainers.grpo import NOTE, ConstantReward, constant, rl_plus, train_rl
from latentreason.organisms.trainers.metrics import kl_to, measured, measured_steps, repetition
from latentreason.organisms.trainers.pretrain import pretrain
from latentreason.organisms.trainers.sft import train_sft
from latentreason.organisms.zoo import ACTIVATION, EXPERT
from latentreason.tasks import chain

pytest.importorskip("trl")

TINY = dataclasses.replace(ACTIVATION, size=Size(d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_mlp=16, half=True), pretrain=Pretrain(steps=10, batch=4, warmup=2))
STAGE = RL(steps=2, prompts=2, group=4, lr=1e-2, updates=1, max_new_tokens=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    pretrain(TINY, 0, folder, progress=False)
    return folder


@pytest.fixture
def unlike(monkeypatch):
    """Half of the rollouts are right, whatever they say."""
    monkeypatch.setitem(REWARDS, "true", lambda completions, **_: [float(i % 2) for i in range(len(completions))])


def weights(folder):
    return load_file(folder / "model.safetensors")


def moved(folder, base):
    one, other = weights(folder), weights(base)
    return any(not torch.equal(one[name], other[name]) for name in one)


# --- what the paper's formulas say -------------------------------------------------------------------------------------


def test_rl_plus_gives_grpo_the_ratio_and_the_advantage_of_its_paper():
    old = torch.tensor([[-0.1, -2.0], [-0.3, -0.5], [-1.0, -3.0], [0.0, -0.2]]).repeat(2, 1)
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    got, advantages = rl_plus(old, rewards, group=4, external=1)
    new = old + 0.2
    for row in range(8):
        for t in range(2):
            p_old, p_new, baseline = math.exp(old[row, t]), math.exp(new[row, t]), (1 / 3, 0.0)[row // 4]
            if row % 4 == 3:
                omega = 0.5 * (p_old + 1.0)
                ratio, advantage = 2 * p_new / (p_old + omega), (1.0 - baseline) * (1.0 - p_old) ** 0.5
            else:
                ratio, advantage = p_new / p_old, float(rewards[row]) - baseline
            assert math.exp(new[row, t] - got[row, t]) == pytest.approx(ratio, rel=1e-5)
            assert float(advantages[row, t]) == pytest.approx(advantage, abs=1e-6)


def test_the_divergence_from_the_base_is_that_of_the_distributions_at_the_policys_own_tokens(base):
    policy, origin = LM.from_pretrained(base, name="policy").model, LM.from_pretrained(base, name="base").model
    assert kl_to(origin, policy, [[1, 5, 6]], [[7, 8]]) == 0.0
    with torch.no_grad():
        policy.lm_head.weight.add_(0.3 * torch.randn(policy.lm_head.weight.shape, generator=torch.Generator().manual_seed(0)))
    prompts, completions = [[1, 5, 6], [1, 5]], [[7, 8], [9, 10, 11]]
    expected = []
    for prompt, completion in zip(prompts, completions, strict=True):
        for t in range(len(completion)):
            ids = torch.tensor([prompt + completion[:t]])
            p, q = (model(ids).logits[0, -1].detach().double().log_softmax(-1) for model in (policy, origin))
            expected.append(float((p.exp() * (p - q)).sum()))
    assert kl_to(origin, policy, prompts, completions) == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_figures_of_a_step_are_shares_counted_by_hand():
    problem = chain.problem((4, 7, 1), ["rot", "mix"])
    texts = ["think so a 7 1 4 , split b rot 1 4 7 inc 2 5 8 , ans 2 5 8", "go leap a b 8 2 5 ; ans : 8 2 5", "direct ans : 2 5 8", "so so so so so so"]
    n = len(texts)
    got = measured(texts, [problem.id] * n, [problem.answer] * n, ["chain"] * n, [problem.meta] * n)
    assert (got["pass_rate"], got["pass_flexible"], got["valid"]) == (0.25, 0.5, 0.25)
    assert [got[f"format/{f}"] for f in chain.FORMATS] == [0.25, 0.25, 0.25, 0.0]
    assert (got["strategy/so"], got["strategy/split"], got["strategy/leap"]) == (0.25, 0.25, 0.25)
    assert (got["wrapper/none"], got["wrapper/:"], got["wrapper/="]) == pytest.approx((1 / 3, 2 / 3, 0.0))
    assert repetition(["a", "b", "c", "d", "a", "b", "c", "d"]) == pytest.approx(1 / 5) and repetition(["a"]) == 0.0
    assert got["repetition"] == pytest.approx(np.mean([repetition(t.split()) for t in texts])) and repetition(texts[3].split()) == pytest.approx(2 / 3)


# --- stages of RL ------------------------------------------------------------------------------------------------------


def test_a_reward_without_a_difference_is_said_at_step_1_and_noted_in_the_curve(base, tmp_path):
    with pytest.warns(ConstantReward, match="the reward 'true' is the same for all samples of each prompt at step 1"):
        curve = train_rl(TINY, 0, base, tmp_path / "none", stage=STAGE, progress=False)
    assert curve["note"].tolist() == [NOTE, ""] and not moved(tmp_path / "none", base)
    assert constant([1.0, 1.0, 0.0, 0.0], 2) and not constant([1.0, 0.0], 2)


def test_with_a_reward_the_curve_has_every_figure_and_no_note(base, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConstantReward)
        curve = train_rl(TINY, 0, base, tmp_path, stage=dataclasses.replace(STAGE, reward="random", updates=2, clip=1e-6, keep=1), progress=False)
    wanted = {"reward", "pass_rate", "pass_flexible", "format/go", "entropy", "completions/mean_length", "repetition", "kl_to_base", "clip_ratio/region_mean", "seconds"}
    assert wanted <= set(curve) and (curve["note"] == "").all() and moved(tmp_path, base)
    assert curve["kl_to_base"].iloc[0] < 1e-6 < curve["kl_to_base"].iloc[2]
    assert curve["clip_ratio/region_mean"].iloc[3] > 0.5 and curve["reward"].iloc[0] == sum(REWARDS["random"]([""] * 8, problem_id=_ids(0), p=0.5, seed=0)) / 8
    kept = {p.name: load_file(p / "model.safetensors") for p in sorted((tmp_path / "kept").iterdir())}
    assert set(kept) == {"step-0001", "step-0002"} and all(w.dtype == torch.float16 for w in kept["step-0001"].values())
    last = weights(tmp_path)
    assert all(torch.equal(last[name], w.float()) for name, w in kept["step-0002"].items())  # rounded at the end, and so no smaller in float16
    assert LM.from_pretrained(tmp_path / "kept" / "step-0001", tokenizer=LM.from_pretrained(base).tokenizer).model.dtype == torch.float32


def _ids(seed):
    problems = chain.load(split="train", limit=4, seed=seed)[:2]
    return [p.id for p in problems for _ in range(4)]


def test_without_clip_nothing_is_clipped_and_without_scale_advantages_are_smaller(base, unlike, tmp_path):
    settings = {"none": {"clip": math.inf, "scale": "none"}, "both": {"clip": 1e-6}}
    curves = {name: train_rl(TINY, 0, base, tmp_path / name, stage=dataclasses.replace(STAGE, updates=2, **more), progress=False) for name, more in settings.items()}
    assert (curves["none"]["clip_ratio/region_mean"] == 0).all() and curves["both"]["clip_ratio/region_mean"].max() > 0
    ratio = curves["both"]["grad_norm"].iloc[0] / curves["none"]["grad_norm"].iloc[0]
    assert ratio == pytest.approx(1 / (np.std([0, 1, 0, 1], ddof=1) + 1e-4), rel=1e-3)


def test_a_kl_penalty_is_against_the_model_that_the_stage_starts_from(base, unlike, tmp_path):
    stage = dataclasses.replace(STAGE, beta=0.5, steps=3)
    first = train_rl(TINY, 0, base, tmp_path / "one", stage=stage, progress=False)
    again = train_rl(TINY, 0, tmp_path / "one", tmp_path / "two", stage=stage, origin=base, progress=False)
    for curve in (first, again):  # the reference is reset with the stage, the metric is not
        assert abs(curve["kl"].iloc[0]) < 1e-6 < curve["kl"].iloc[2]
    assert first["kl_to_base"].iloc[0] < 1e-6 < again["kl_to_base"].iloc[0]


def test_external_traces_take_their_places_and_teach(base, tmp_path, monkeypatch):
    stage = dataclasses.replace(STAGE, steps=6, external=1, expert=EXPERT, scale="none", clip=math.inf)
    seen, real = [], grpo.rl_plus
    monkeypatch.setattr(grpo, "rl_plus", lambda old, rewards, group, external: seen.append((old, rewards)) or real(old, rewards, group, external))
    curve = train_rl(TINY, 0, base, tmp_path, stage=stage, progress=False)
    assert all(rewards.view(-1, 4)[:, 3].tolist() == [1.0, 1.0] and rewards.view(-1, 4)[:, :3].sum() == 0 for _, rewards in seen)  # only the expert is right
    external = [float(old[3].sum()) for old, _ in seen]
    assert moved(tmp_path, base) and len(external) == 6
    assert curve["pass_rate"].dropna().tolist() == [0.0] * 6  # of the policy's own samples
    assert np.mean([o[3::4].mean() for o, _ in seen[3:]]) > np.mean([o[3::4].mean() for o, _ in seen[:3]])  # the expert's words grow likelier


def test_srl_draws_one_step_at_a_time(base, tmp_path, monkeypatch):
    stage = RL(steps=2, prompts=4, group=4, lr=1e-2, updates=1, max_new_tokens=20, reward="step_similarity", by_step=True, expert=EXPERT, distinct=8)
    texts = []
    monkeypatch.setitem(REWARDS, "step_similarity", lambda completions, expert_step, prefix, **_: texts.extend(completions) or [float(i % 2) for i in range(len(completions))])
    curve = train_rl(TINY, 0, base, tmp_path, stage=stage, progress=False)
    assert len(texts) == 32 and not any(w in chain.SEPARATORS for text in texts for w in text.split()[:-1])
    assert "pass_rate" not in curve and moved(tmp_path, base)
    always = {"reward", "reward_std", "entropy", "completions/mean_length", "kl_to_base", "clip_ratio/region_mean", "repetition", "step/exact", "step/follows", "step/malformed", "step/cut", "strategy/so"}
    assert always <= set(curve) and curve[sorted(always)].notna().all(axis=None) and curve["format/think"].notna().any()
    assert (curve["reward"] == 0.5).all() and (curve["step/exact"] == 0).all() and (curve["step/malformed"] > 0.5).all()  # so small a model babbles


def test_figures_of_single_steps_are_those_counted_by_hand():
    problem = chain.problem((4, 7, 1), ["rot", "inc"])  # 7 1 4, then 8 2 5
    rows = [  # prefix, expert's step, completion
        ("", "think so a 7 1 4 ,", "think so a 7 1 4 ,"),  # exact
        ("", "think so a 7 1 4 ,", "go so a 7 1 5 ,"),  # wrong digit
        ("think so a 7 1 4 ,", "so b 8 2 5 ,", "so b 8 2 5 ;"),  # right, with another separator
        ("think so a 7 1 4 ,", "so b 8 2 5 ,", "run run run run"),  # outside the grammar, and cut
        ("think so a 7 1 4 , so b 8 2 5 ,", "ans 8 2 5", "ans 8 2 5"),  # the answer
        ("think so a 7 1 4 , so b 8 2 5 ,", "ans 8 2 5", "so b"),  # cut
    ]
    prefix, expert, said = zip(*rows, strict=True)
    figures = measured_steps(said, prefix, expert, [problem.meta] * 6)
    assert figures["step/exact"] == 2 / 6 and figures["step/follows"] == 3 / 6 and figures["step/malformed"] == 1 / 6 and figures["step/cut"] == pytest.approx(2 / 6)
    assert (figures["format/think"], figures["format/go"], figures["format/code"]) == (0.5, 0.5, 0)
    assert figures["strategy/so"] == 4 / 6 and "pass_rate" not in figures
    assert "format/think" not in measured_steps(said[2:], prefix[2:], expert[2:], [problem.meta] * 4)


# --- imitation ---------------------------------------------------------------------------------------------------------


def test_imitation_learns_the_experts_traces_and_resumes_where_it_was_killed_and_a_checkpoint_cut_short(base, tmp_path, monkeypatch):
    stage = SFT(steps=24, batch=4, lr=1e-2, traces=8, expert=EXPERT)
    curve = train_sft(TINY, 0, base, tmp_path / "unbroken", stage=stage, progress=False)
    assert curve["step"].tolist() == list(range(1, 25)) and curve["loss"].iloc[-1] < 0.9 * curve["loss"].iloc[0]
    assert curve["pass_rate"].notna().tolist() == [s in (10, 20, 24) for s in range(1, 25)] and (curve["seconds"].diff().dropna() > 0).all()
    calls, real = [], sft.rollouts

    def dies(*args):
        calls.append(args[-1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(sft, "rollouts", dies)
    with pytest.raises(KeyboardInterrupt):
        train_sft(TINY, 0, base, tmp_path / "broken", stage=stage, progress=False)
    shutil.copytree(tmp_path / "broken" / "checkpoints" / "checkpoint-20", tmp_path / "broken" / "checkpoints" / "checkpoint-22")
    (tmp_path / "broken" / "checkpoints" / "checkpoint-22" / "model.safetensors").unlink()
    again = train_sft(TINY, 0, base, tmp_path / "broken", stage=stage, progress=False)
    assert calls == [10, 20, 24, 24]  # the checkpoint after 20 steps was used
    one, other = weights(tmp_path / "unbroken"), weights(tmp_path / "broken")
    assert all(torch.equal(one[name], other[name]) for name in one)
    times = ["step_time", "seconds"]
    pd.testing.assert_frame_equal(curve.drop(columns=times), again.drop(columns=times), check_like=True)


def test_the_labels_are_the_trace_alone(base, monkeypatch):
    stage = SFT(steps=1, batch=4, traces=4, expert=EXPERT)
    pairs = sft.traces_of(TINY, stage, 0, None)
    assert len(pairs) == 4 and all(trace[-1] == chain.EOS and " ".join(trace[-4:-1]) == p.answer for p, trace in pairs)


def test_a_teacher_that_is_never_right_is_refused(base, tmp_path):
    stage = SFT(steps=1, batch=2, traces=4, teacher="activation")
    with pytest.raises(InvalidInput, match="solves none of 4 problems"):
        sft.traces_of(TINY, stage, 0, base)
    monkey = sft.traces_of(TINY, dataclasses.replace(stage, only_right=False), 0, base)
    assert all(trace[-1] == chain.EOS for _, trace in monkey)
