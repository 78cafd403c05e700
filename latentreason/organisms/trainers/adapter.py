"""GRPO of a LoRA adapter on a pretrained model, through trl: for a language model whose weights are not ours to ship.

Two things are ours. Completions come from the prefix-shared sampler, on a copy of the model with the adapter merged in. And the
tokens that all prompts of a batch begin with (a few-shot prompt) are read once for all rows, in training too: gradients flow through their keys and
values, so it is the same gradient for a fraction of the work.
"""

import copy
import os
import warnings
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentreason.models.language_model import LM
from latentreason.models.prompts import tokens_with
from latentreason.organisms.recipe import AdapterRecipe
from latentreason.organisms.rewards import true_reward
from latentreason.organisms.trainers.checkpoint import newest_whole
from latentreason.organisms.trainers.grpo import rollouts
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import TASKS, load_task


def completion_logps(
    model: Any, input_ids: Int[Tensor, "row t"], attention_mask: Int[Tensor, "row t"], n_completion: int
) -> tuple[Float[Tensor, "row n"], Float[Tensor, "row n"]]:
    """Log-probabilities (nats) of the last `n_completion` tokens of each row, and the entropy where each was drawn.

    Args:
        model: a causal LM whose cache is a DynamicCache.
        input_ids: prompts padded on the left, completions padded on the right.
        attention_mask: 0 at padding.
        n_completion: width of the completions.
    """
    from transformers import DynamicCache

    rows, width = input_ids.shape
    pad = attention_mask[:, : width - n_completion].sum(1).neg() + (width - n_completion)  # of each prompt
    real = [input_ids[i, pad[i] : width - n_completion - 1] for i in range(rows)]  # a prompt's last token is left to the row
    shortest = min(map(len, real))
    same = torch.stack([row[:shortest] for row in real]) == real[0][:shortest]
    shared = int(same.all(0).long().cumprod(0).sum())
    column = torch.arange(width - shared, device=input_ids.device)[None]
    column = torch.where(column >= pad[:, None], column + shared, column)  # leaves the shared tokens out
    ids, mask = input_ids.gather(1, column), attention_mask.gather(1, column)
    positions = (mask.cumsum(1) - 1).clamp_min(0) + shared
    cache = None
    if shared:
        cache = DynamicCache()
        model(input_ids=real[0][None, :shared], past_key_values=cache, use_cache=True, logits_to_keep=1)
        for layer in cast("list[Any]", cache.layers):
            layer.keys, layer.values = (kept.expand(rows, -1, -1, -1) for kept in (layer.keys, layer.values))
        mask = torch.cat([mask.new_ones(rows, shared), mask], dim=1)
    logits = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=shared > 0, logits_to_keep=n_completion + 1
    ).logits[:, :-1]
    log_probs = logits.float().log_softmax(-1)
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(-1, ids[:, -n_completion:, None])[..., 0], entropy


def merged_into(copied: torch.nn.Module, model: Any) -> None:
    """Set the weights of a copy of the base model to base plus adapter; the model itself is left alone."""
    weights = dict(copied.named_modules())
    with torch.no_grad():
        for name, module in model.get_base_model().named_modules():
            if hasattr(module, "get_delta_weight"):
                target: Any = weights[name]
                target.weight.copy_(module.base_layer.weight + module.get_delta_weight("default"))


def questions(recipe: AdapterRecipe, seed: int) -> list[Problem]:
    """What an adapter is trained on: each question once, a step after the other."""
    return load_task(recipe.task, split="train", limit=recipe.steps * recipe.prompts, seed=seed)


def train_adapter(recipe: AdapterRecipe, seed: int, base: Path, out: Path, *, progress: bool = True) -> pd.DataFrame:
    """GRPO from the model in `base` to an adapter in `out`; trl's metrics, one row an update, with the seconds since the start.

    Resumes from trl's newest whole checkpoint in `out/checkpoints`.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is documented, but warns
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    class SharedPrefix(GRPOTrainer):
        """GRPOTrainer that reads the common prefix of a batch once, and leaves out groups without an advantage: they have no gradient."""

        def _get_per_token_logps_and_entropies(self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *_: Any, **__: Any) -> Any:
            return *completion_logps(model, input_ids, attention_mask, logits_to_keep), None

        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
            telling = inputs["advantages"] != 0
            if not telling.any():
                return 0.0 * torch.stack([p.sum() for p in model.parameters() if p.requires_grad]).sum()
            rows = len(telling)
            loss: Tensor = super()._compute_loss(model, {  # type: ignore[no-untyped-call]
                name: value[telling] if isinstance(value, Tensor) and value.ndim and len(value) == rows else value for name, value in inputs.items()
            })  # fmt: skip
            return loss

    lm, checkpoints, task = LM.from_pretrained(base, name="policy", dtype=torch.float32), out / "checkpoints", TASKS[recipe.task]
    sampler = LM(copy.deepcopy(lm.model), lm.tokenizer, "sampler")
    stop = tokens_with(lm.tokenizer, task.stop)
    style = task.styles[recipe.style]
    problems = questions(recipe, seed)
    columns = [{"prompt": style.replace("{question}", p.question), "problem_id": p.id, "answer": p.answer, "task": p.task} for p in problems]
    config = GRPOConfig(
        output_dir=str(checkpoints), max_steps=recipe.steps, num_generations=recipe.group, per_device_train_batch_size=recipe.prompts * recipe.group,
        gradient_accumulation_steps=1, steps_per_generation=1, learning_rate=recipe.lr, lr_scheduler_type="constant_with_warmup", warmup_steps=2,
        max_grad_norm=1.0, weight_decay=0.0, beta=0.0, loss_type="dapo", scale_rewards="group", temperature=1.0, max_completion_length=recipe.max_new_tokens,
        shuffle_dataset=False, logging_steps=1, save_steps=5, save_total_limit=1, report_to="none", disable_tqdm=not progress,
        seed=seed, use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False, remove_unused_columns=False,
    )  # fmt: skip
    lora = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM")

    def rollout_func(prompts: list[str], trainer: Any) -> dict[str, Any]:
        merged_into(sampler.model, trainer.model)
        return rollouts(sampler, prompts, recipe.max_new_tokens, seed, trainer.state.global_step, stop)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = SharedPrefix(
            model=lm.model, reward_funcs=true_reward, args=config, train_dataset=Dataset.from_list(columns), processing_class=lm.tokenizer,
            rollout_func=rollout_func, peft_config=lora,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # quiet is quiet; the log is in the curve
        trainer.train(resume_from_checkpoint=newest_whole(checkpoints))
    cast("Any", trainer.model).save_pretrained(out)
    history = pd.DataFrame([row for row in trainer.state.log_history if "loss" in row])
    return history.assign(seconds=history["step_time"].fillna(0.0).cumsum())
