"""RL of an organism: trl's GRPOTrainer with a verifiable reward. Only the generation is ours (`rollout_func`)."""

import os
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from latentreason.models.decoding import Batch
from latentreason.models.language_model import LM
from latentreason.organisms.recipe import Recipe
from latentreason.organisms.rewards import true_reward
from latentreason.sampling.noise import gumbel, row_key
from latentreason.tasks import chain
from latentreason.tasks.registry import load_task


def rollouts(lm: LM, prompts: list[str], max_new_tokens: int, seed: int, step: int) -> dict[str, list[list[int]]]:
    """Completions of repeated prompts, in trl's shape; one prefix cache for all samples of a prompt."""
    unique = list(dict.fromkeys(prompts))
    index = torch.tensor([unique.index(p) for p in prompts])
    ids = [lm.tokenizer(p, add_special_tokens=False)["input_ids"] for p in unique]
    keys = torch.tensor([row_key(seed, f"rl-step-{step}", row) for row in range(len(prompts))])
    decoded = lm.decode(Batch(ids, index, keys, 1.0, 1.0, max_new_tokens, gumbel))
    tokens = [row[:n].tolist() for row, n in zip(decoded.records["token_ids"], decoded.length, strict=True)]
    return {"prompt_ids": [ids[i] for i in index.tolist()], "completion_ids": tokens, "logprobs": None}  # type: ignore[dict-item]


def train_rl(recipe: Recipe, seed: int, base: Path, out: Path, *, progress: bool = True) -> pd.DataFrame:
    """GRPO from the base model in `base` to `out` (a Hugging Face directory); trl's metrics, one row an optimizer step (those of
    the rollouts on the steps that drew some), with the seconds since the start.

    Resumes from trl's newest checkpoint in `out/checkpoints`.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is documented, but warns
    from datasets import Dataset
    from transformers import PrinterCallback
    from transformers.trainer_utils import get_last_checkpoint
    from trl import GRPOConfig, GRPOTrainer

    lm, rl, checkpoints = LM.from_pretrained(base, name="policy"), recipe.rl, out / "checkpoints"
    problems = load_task("chain", split="train", limit=rl.steps * rl.prompts, seed=seed)
    columns = [{"prompt": f"{chain.BOS} {p.question}", "problem_id": p.id, "answer": p.answer, "task": p.task} for p in problems]
    config = GRPOConfig(
        output_dir=str(checkpoints), max_steps=rl.steps * rl.updates, num_generations=rl.group, num_iterations=rl.updates,
        per_device_train_batch_size=rl.prompts * rl.group, gradient_accumulation_steps=1, steps_per_generation=1,
        learning_rate=rl.lr, lr_scheduler_type="constant_with_warmup", warmup_steps=4, max_grad_norm=1.0, weight_decay=0.0, adam_beta2=0.98,
        epsilon=rl.clip, beta=0.0, loss_type="dapo", scale_rewards="group", temperature=1.0, max_completion_length=rl.max_new_tokens,
        shuffle_dataset=False, logging_steps=1, save_steps=20, save_total_limit=1, report_to="none", disable_tqdm=not progress,
        seed=seed, use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False, remove_unused_columns=False,
    )  # fmt: skip

    def rollout_func(prompts: list[str], trainer: Any) -> dict[str, list[list[int]]]:
        policy = LM(trainer.model, lm.tokenizer, "policy")
        was_training = trainer.model.training
        trainer.model.eval()
        result = rollouts(policy, prompts, rl.max_new_tokens, seed, trainer.state.global_step)
        trainer.model.train(was_training)
        return result

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = GRPOTrainer(
            model=lm.model, reward_funcs=true_reward, args=config, train_dataset=Dataset.from_list(columns), processing_class=lm.tokenizer,
            rollout_func=rollout_func,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # quiet is quiet; the log is in the curve
        last = get_last_checkpoint(str(checkpoints)) if checkpoints.exists() else None
        trainer.train(resume_from_checkpoint=last)
    lm.model.save_pretrained(out)  # trained in place
    lm.tokenizer.save_pretrained(out)
    return _curve(trainer.state.log_history)


def _curve(log_history: list[dict[str, float]]) -> pd.DataFrame:
    """Trl's log as a table, with the seconds since the start; without its last row, which sums up one session."""
    history = pd.DataFrame([row for row in log_history if "loss" in row])
    return history.assign(seconds=history["step_time"].fillna(0.0).cumsum())
