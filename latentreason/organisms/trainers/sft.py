"""Imitation: trl's SFTTrainer on an expert's traces, or on those of another organism's RL model (distillation)."""

import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from latentreason.errors import InvalidInput
from latentreason.files import read_table, write_table
from latentreason.models.language_model import LM
from latentreason.organisms.problems import expert_traces, repeated
from latentreason.organisms.recipe import SFT, Recipe
from latentreason.organisms.rewards import graded
from latentreason.organisms.trainers.checkpoint import keeper, newest_whole, written
from latentreason.organisms.trainers.grpo import curve_of, rollouts
from latentreason.organisms.trainers.metrics import kl_to, measured
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem

EVERY, PROMPTS, SAMPLES, NEW_TOKENS = 10, 32, 4, 96
"""How often the model is sampled for the curve, on how many problems of the training split, how often each, and how far."""


def traces_of(recipe: Recipe, stage: SFT, seed: int, teacher: Path | None) -> list[tuple[Problem, list[str]]]:
    """What is imitated: a problem and a trace of it, words with <eos>.

    Raises:
        InvalidInput: the teacher is right nowhere.
    """
    problems = chain.load(split="train", limit=stage.traces, seed=seed, how=stage.problems or recipe.problems)
    if stage.expert is not None:
        return [(p, trace) for p, (trace,) in zip(problems, expert_traces(problems, stage.expert, seed), strict=True)]
    lm, found = LM.from_pretrained(teacher, name="teacher"), list[tuple[Problem, list[str]]]()
    for begin in range(0, len(problems), 512):
        part = problems[begin : begin + 512]
        drawn = rollouts(lm, [f"{chain.BOS} {p.question}" for p in part], NEW_TOKENS, seed, begin)["completion_ids"]
        words = [[chain.VOCABULARY[i] for i in ids] for ids in drawn]
        grades = graded([" ".join(w for w in row if w != chain.EOS) for row in words], [p.id for p in part], [p.answer for p in part], [p.task for p in part])
        found += [(p, row) for p, row, g in zip(part, words, grades, strict=True) if row[-1] == chain.EOS and (g.correct or not stage.only_right)]
    if not found:
        raise InvalidInput(f"The teacher {stage.teacher!r} solves none of {len(problems)} problems, so there is nothing to imitate. Use another teacher, or only_right=False.")
    return found


def train_sft(recipe: Recipe, seed: int, base: Path, out: Path, *, stage: SFT, origin: Path | None = None, teacher: Path | None = None, progress: bool = True) -> pd.DataFrame:
    """Imitation from the model in `base` to `out` (a Hugging Face directory); trl's metrics, one row a step, with the figures of `measured` every
    `EVERY` steps (of samples drawn after that step) and the seconds since the start.

    Resumes from the newest whole checkpoint in `out/checkpoints`. The arguments are those of `train_rl`; `teacher` is where the teacher's model lies.
    """
    from datasets import Dataset, disable_progress_bars, enable_progress_bars
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    lm, first, checkpoints, samples = LM.from_pretrained(base, name="policy"), LM.from_pretrained(origin or base, name="base"), out / "checkpoints", out / "samples.parquet"
    ids = {word: i for i, word in enumerate(chain.VOCABULARY)}
    rows: list[dict[str, list[int]]] = []
    for number in repeated(list(range(len(pairs := traces_of(recipe, stage, seed, teacher)))), stage.steps * stage.batch, seed):
        problem, trace = pairs[number]
        prompt, said = [[ids[w] for w in words] for words in ([chain.BOS, *problem.question.split()], trace)]
        rows.append({"input_ids": prompt + said, "labels": [-100] * len(prompt) + said})
    asked = [p for p in chain.load(split="train", limit=PROMPTS, seed=seed + 1, how=stage.problems or recipe.problems) for _ in range(SAMPLES)]
    config = SFTConfig(
        output_dir=str(checkpoints), max_steps=stage.steps, per_device_train_batch_size=stage.batch, learning_rate=stage.lr, lr_scheduler_type="linear",
        warmup_steps=4, max_grad_norm=1.0, weight_decay=0.0, adam_beta2=0.98, train_sampling_strategy="sequential", logging_steps=1, save_steps=20,
        save_total_limit=1, report_to="none", disable_tqdm=not progress, seed=seed, use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False,
    )  # fmt: skip

    class Samples(TrainerCallback):
        """Writes the figures of the model's samples beside its checkpoints, so that a killed run finds them; and a step's seconds into the log."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begun = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            state.log_history[-1]["step_time"] = time.monotonic() - self.begun

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % EVERY and state.global_step < stage.steps:
                return
            policy = LM(kwargs["model"].eval(), lm.tokenizer, "policy")
            drawn = rollouts(policy, [f"{chain.BOS} {p.question}" for p in asked], NEW_TOKENS, seed, state.global_step)
            texts = lm.tokenizer.batch_decode(drawn["completion_ids"], skip_special_tokens=True)
            figures = measured(texts, [p.id for p in asked], [p.answer for p in asked], [p.task for p in asked], [p.meta for p in asked])
            length = sum(map(len, drawn["completion_ids"])) / len(asked)
            row = {"step": state.global_step, **figures, "completions/mean_length": length, "kl_to_base": kl_to(first.model, policy.model, drawn["prompt_ids"], drawn["completion_ids"])}
            kwargs["model"].train()
            before = [each for each in read_table(samples).to_dict("records") if each["step"] < row["step"]] if samples.exists() else []
            write_table(samples, pd.DataFrame([*before, row]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disable_progress_bars()  # of the few seconds in which trl looks at the rows
        trainer = SFTTrainer(
            model=lm.model, args=config, train_dataset=Dataset.from_list(rows), processing_class=lm.tokenizer, callbacks=[Samples(), *keeper(out, stage.keep)],
        )  # fmt: skip
        enable_progress_bars()
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=newest_whole(checkpoints))
    written(lm, out, half=recipe.size.half)
    curve = curve_of(trainer.state.log_history).drop(columns="num_tokens")  # trl counts those of one session
    return curve.merge(read_table(samples), on="step", how="left").assign(note="")
