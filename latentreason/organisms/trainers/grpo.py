"""RL of an organism: trl's GRPOTrainer with any reward of `rewards.py`. The generation is ours (`rollout_func`), and so is what RL-PLUS adds."""

import os
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from latentreason.models.decoding import Batch
from latentreason.models.language_model import LM
from latentreason.models.merge import with_biases
from latentreason.organisms.problems import expert_traces, steps_of, training_problems
from latentreason.organisms.recipe import RL, Recipe
from latentreason.organisms.rewards import REWARDS
from latentreason.organisms.trainers.checkpoint import keeper, newest_whole, written
from latentreason.organisms.trainers.metrics import kl_to, measured, measured_steps
from latentreason.sampling.noise import gumbel, row_key
from latentreason.tasks import chain

NOTE = "constant reward: no gradient at step 1"


class ConstantReward(UserWarning):
    """All samples of each prompt have the same reward, so that the policy has no gradient."""


def rollouts(lm: LM, prompts: list[str], max_new_tokens: int, seed: int, step: int, stop: frozenset[int] = frozenset()) -> dict[str, list[list[int]]]:
    """Completions of repeated prompts, in trl's shape; one prefix cache for all samples of a prompt."""
    unique = list(dict.fromkeys(prompts))
    index = torch.tensor([unique.index(p) for p in prompts])
    ids = [lm.tokenizer(p, add_special_tokens=False)["input_ids"] for p in unique]
    keys = torch.tensor([row_key(seed, f"rl-step-{step}", row) for row in range(len(prompts))])
    decoded = lm.decode(Batch(ids, index, keys, 1.0, 1.0, max_new_tokens, gumbel, stop=stop))
    tokens = [row[:n].tolist() for row, n in zip(decoded.records["token_ids"], decoded.length, strict=True)]
    return {"prompt_ids": [ids[i] for i in index.tolist()], "completion_ids": tokens, "logprobs": None}  # type: ignore[dict-item]


def columns_of(recipe: Recipe, stage: RL, seed: int) -> list[dict[str, Any]]:
    """The training set: one row a prompt, in the order in which the steps take them."""
    problems = training_problems(recipe, stage, seed)
    rows = [{"prompt": f"{chain.BOS} {p.question}", "problem_id": p.id, "answer": p.answer, "task": p.task} for p in problems]
    if stage.expert is None or not stage.by_step:
        return rows
    for number, (row, (trace,)) in enumerate(zip(rows, expert_traces(problems, stage.expert, seed), strict=True)):
        steps = steps_of(trace)
        at = number % len(steps)  # each place in a trace has its turn
        prefix = " ".join(word for step in steps[:at] for word in step)
        expert_step = " ".join(word for word in steps[at] if word != chain.EOS)
        row |= {"prompt": f"{row['prompt']} {prefix}".rstrip(), "problem_id": f"{row['problem_id']}/{at}", "prefix": prefix, "expert_step": expert_step}
    return rows


def biases_alone(model: Any) -> Any:
    """A copy that computes the same, and of which one vector a block can be trained: the bias of its MLP's output, added to the residual stream (Sinii et al. 2025,
    arXiv 2505.18706).
    """
    biased = with_biases(model)
    for name, weight in biased.named_parameters():
        weight.requires_grad_(name.endswith("mlp.down_proj.bias"))
    return biased


def rl_plus(old: Tensor, rewards: Tensor, group: int, external: int) -> tuple[Tensor, Tensor]:
    """RL-PLUS: what GRPO takes for old log-probability and advantage of each token, so that its ratio times advantage is that of RL-PLUS.

    Of an external trace the ratio is 2 pi / (pi_old + omega), with the estimate omega = (pi_old + 1) / 2 of who wrote it, and the advantage has the
    weight (1 - pi_old)^(1/2): tokens that the policy would not have said count most. Baselines are means of the policy's own samples.

    Args:
        old: log-probabilities (nats) of the policy that drew the batch, one row a completion.
        rewards: one a completion.
        group: completions of a prompt, the last `external` of which are external.
        external: number of these.

    Returns:
        Old log-probabilities, and advantages, of the shape of `old`.
    """
    own = rewards.view(-1, group)[:, : group - external].mean(1)
    advantages = (rewards - own.repeat_interleave(group))[:, None].expand_as(old).clone()
    others = torch.arange(len(rewards)) % group >= group - external
    p = old[others].exp()
    old = old.clone()
    old[others] = ((p + (p + 1.0) / 2.0) / 2.0).log()
    advantages[others] *= (1.0 - p).clamp_min(0.0).sqrt()  # a probability may be above 1 by rounding
    return old, advantages


def train_rl(recipe: Recipe, seed: int, base: Path, out: Path, *, stage: RL | None = None, origin: Path | None = None, progress: bool = True) -> pd.DataFrame:
    """GRPO from the model in `base` to `out` (a Hugging Face directory); trl's metrics and those of `measured` (of SRL `measured_steps`), one row an optimizer step (those of
    the rollouts on the steps that drew some), with the seconds since the start. The column `note` says where a reward gives no gradient.

    Resumes from trl's newest whole checkpoint in `out/checkpoints`.

    Args:
        recipe, seed: what is grown.
        base: where the stage starts: also its reference, where it has a KL penalty.
        out: where it ends.
        stage: which stage of the recipe; its only one by default.
        origin: the model from which the metric `kl_to_base` is measured; `base` by default.
        progress: show a bar.

    Warns:
        ConstantReward: at step 1 no prompt's samples differ in reward.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is documented, but warns
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    rl = stage or recipe.rl
    lm, first, checkpoints = LM.from_pretrained(base, name="policy"), LM.from_pretrained(origin or base, name="base"), out / "checkpoints"
    lm = LM(biases_alone(lm.model), lm.tokenizer, lm.name) if rl.trainable == "bias" else lm
    problems, columns = {p.id: p.meta for p in training_problems(recipe, rl, seed)}, columns_of(recipe, rl, seed)
    stop = frozenset(chain.VOCABULARY.index(w) for w in chain.SEPARATORS) if rl.by_step else frozenset[int]()
    external = external_traces(recipe, rl, seed, lm)
    last: dict[str, list[float | None]] = {}  # what the batch at hand was rewarded with
    config = GRPOConfig(
        output_dir=str(checkpoints), max_steps=rl.steps * rl.updates, num_generations=rl.group, num_iterations=rl.updates,
        per_device_train_batch_size=rl.prompts * rl.group, gradient_accumulation_steps=1, steps_per_generation=1,
        learning_rate=rl.lr, lr_scheduler_type="constant_with_warmup", warmup_steps=4, max_grad_norm=1.0, weight_decay=0.0, adam_beta2=0.98,
        epsilon=rl.clip, beta=rl.beta, loss_type="dapo", scale_rewards=rl.scale, temperature=1.0, max_completion_length=rl.max_new_tokens,
        shuffle_dataset=False, logging_steps=1, save_steps=rl.updates * max(1, 20 // rl.updates), save_total_limit=1, report_to="none", disable_tqdm=not progress,
        seed=seed, use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False, remove_unused_columns=False,
    )  # fmt: skip

    class RLPlus(GRPOTrainer):
        """GRPO in which the last samples of each group are external traces."""

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
            ids, mask = (torch.cat([batch[f"prompt_{kind}"], batch[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask"))
            with torch.no_grad():
                old = self._get_per_token_logps_and_entropies(self.model, ids, mask, batch["completion_ids"].shape[1])[0]
            batch["old_per_token_logps"], batch["advantages"] = rl_plus(old, torch.tensor(last["rewards"]), rl.group, rl.external)
            return batch

    def rollout_func(prompts: list[str], trainer: Any) -> dict[str, Any]:
        policy = LM(trainer.model, lm.tokenizer, "policy")
        was_training = trainer.model.training
        trainer.model.eval()
        own = [i for i in range(len(prompts)) if i % rl.group < rl.group - rl.external]
        result = rollouts(policy, [prompts[i] for i in own], rl.max_new_tokens, seed, trainer.state.global_step, *([stop] if stop else []))
        trainer._metrics["train"]["kl_to_base"].append(kl_to(first.model, trainer.model, result["prompt_ids"], result["completion_ids"]))
        trainer.model.train(was_training)
        if not external:
            return result
        drawn = dict(zip(own, result["completion_ids"], strict=True))
        completions = [drawn.get(i) or external[prompt][i % rl.group - rl.group] for i, prompt in enumerate(prompts)]
        ids = [lm.tokenizer(p, add_special_tokens=False)["input_ids"] for p in prompts]
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}

    def log(completions: Sequence[str], values: list[float | None], columns: dict[str, Any]) -> None:
        last["rewards"] = values
        if columns["trainer_state"].global_step == 0 and constant(values, rl.group):
            warnings.warn(f"Recipe {recipe.name!r}: the reward {rl.reward!r} is the same for all samples of each prompt at step 1, so there is no gradient. {FIX}", ConstantReward, stacklevel=2)
        if rl.by_step:
            metas = [problems[i.rpartition("/")[0]] for i in columns["problem_id"]]
            for name, value in measured_steps(completions, columns["prefix"], columns["expert_step"], metas).items():
                columns["log_metric"](name, value)
        else:
            own = [i for i in range(len(completions)) if i % rl.group < rl.group - rl.external]
            some = {name: [columns[name][i] for i in own] for name in ("problem_id", "answer", "task")}
            for name, value in measured([completions[i] for i in own], **some, meta=[problems[i] for i in some["problem_id"]]).items():
                columns["log_metric"](name, value)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ConstantReward)
        trainer = (RLPlus if external else GRPOTrainer)(
            model=lm.model, reward_funcs=observed(REWARDS[rl.reward], {**rl.reward_args, "seed": seed}, log), args=config, train_dataset=Dataset.from_list(columns),
            processing_class=lm.tokenizer, rollout_func=rollout_func, callbacks=keeper(out, rl.keep, rl.updates),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # quiet is quiet; the log is in the curve
        trainer.train(resume_from_checkpoint=newest_whole(checkpoints))
    written(lm, out, half=recipe.size.half)  # trained in place
    curve = curve_of(trainer.state.log_history)
    without = curve.index[0] if len(curve) and curve["frac_reward_zero_std"].iloc[0] == 1.0 else None
    return curve.assign(note=[NOTE if i == without else "" for i in curve.index])


FIX = "Use another reward, problems that the model sometimes solves, or a larger group."


def constant(values: Sequence[float | None], group: int) -> bool:
    """Whether no group of samples has two different rewards."""
    return all(len(set(values[i : i + group])) == 1 for i in range(0, len(values), group))


def observed(reward: Callable[..., list[float | None]], settings: dict[str, Any], log: Callable[..., None]) -> Callable[..., list[float | None]]:
    """The reward with its settings, under its own name; `log` sees all that it says."""

    @wraps(reward)
    def function(completions: list[str], **columns: Any) -> list[float | None]:
        values = reward(completions, **columns, **settings)
        log(completions, values, columns)
        return values

    return function


def external_traces(recipe: Recipe, rl: RL, seed: int, lm: LM) -> dict[str, list[list[int]]]:
    """Prompt -> token ids of the expert's traces that take the last places of its group."""
    if not rl.external or rl.expert is None:
        return {}
    problems = list({p.id: p for p in training_problems(recipe, rl, seed)}.values())
    written = expert_traces(problems, rl.expert, seed, rl.external)
    return {f"{chain.BOS} {p.question}": [[chain.VOCABULARY.index(w) for w in t] for t in traces] for p, traces in zip(problems, written, strict=True)}


def curve_of(log_history: list[dict[str, float]]) -> pd.DataFrame:
    """Trl's log as a table, with the seconds since the start; without its last row, which sums up one session."""
    history = pd.DataFrame([row for row in log_history if "loss" in row])
    return history.assign(seconds=history["step_time"].fillna(0.0).cumsum())
