"""Rival arms on the same pair: other ways to the RL gain, each tuned on calibration problems, with what it uses and what it costs.

A rival is a way to make rollouts at a setting. All get the same tuning budget: `BUDGET` settings, on the same calibration problems. What the base
model can do alone (another temperature, another prompt, an example, votes, its own sharpened distribution) tells sharpening from learning; what takes
the RL model's weights or logits says how much of them is needed::

    for rival in rivals_for(pair, problems[0].task, examples):
        setting, tried = tuned(rival, pair, calibration, sampling)
        drawn = rival.draw(pair, problems, sampling, {setting: rival.grid[setting]})[setting]
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from latentreason.hybrid.actions import logit_delta
from latentreason.hybrid.decode import Hybrid
from latentreason.models.merge import interpolated, largest_changes
from latentreason.models.pair import ModelPair
from latentreason.models.prompts import Prompt, render
from latentreason.routing.controls import always, never
from latentreason.sampling.local import Sampling, sample
from latentreason.tables import Rollouts
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import styles_of

Draw = Callable[[ModelPair, list[Problem], Sampling, Mapping[str, Any]], dict[str, Rollouts]]
One = Callable[[ModelPair, list[Problem], Sampling, Any], Rollouts]
BUDGET = 6
"""Settings of each rival that are tried on calibration problems."""
VOTERS = 16
"""Base samples behind one sample of `majority` (at most) and of `power`."""
LABELS, LOGITS, WEIGHTS = "labels of calibration problems", "RL logits at every token", "RL weights"


@dataclass(frozen=True)
class Rival:
    """One rival.

    Attributes:
        name: of the arm.
        grid: settings by how they are called in tables; the one with the best accuracy on calibration problems is used.
        draw: (pair, problems, sampling, some of the grid) -> rollouts of each.
        uses: what it needs beyond the base model's own samples.
        passes: of a setting: tokens that a model reads for each token of the answer that is handed in.
        content_source: whose tokens they are, as in `latentreason.sources`.
        rl_logits: share of the tokens at which the RL model's logits are read.
    """

    name: str
    grid: Mapping[str, Any]
    draw: Draw
    uses: str
    passes: Callable[[Any], float] = lambda setting: 1.0
    content_source: str = "base token"
    rl_logits: float = 0.0

    def facts(self, setting: str, tried: list[dict[str, Any]]) -> dict[str, Any]:
        """What the study `rivals` wants to know of the arm."""
        sources = {"timing_source": "none", "content_source": self.content_source}
        return {"uses": self.uses, "passes": self.passes(self.grid[setting]), "rl_logits": self.rl_logits, "setting": setting, "tried": tried, **sources}


def each(one: One) -> Draw:
    """Settings that have nothing in common, one after the other."""
    return lambda pair, problems, sampling, grid: {name: one(pair, problems, sampling, setting) for name, setting in grid.items()}


def _numbers(*values: float) -> dict[str, float]:
    return {f"{value:g}": value for value in values}


@each
def _temperature(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
    return sample(pair.base, problems, replace(sampling, temperature=setting).alone("base"), progress=False)


@each
def _prompt(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: tuple[str, float]) -> Rollouts:
    """Another style of the task's prompt, or for `chain` an author's cue; at a temperature."""
    style, temperature = setting
    alone = replace(sampling.alone("base"), temperature=temperature)
    if problems[0].task != "chain":
        return sample(pair.base, problems, replace(alone, prompt=replace(sampling.prompt, style=style)), progress=False)
    asked = [replace(p, question=chain.problem(tuple(p.meta["start"]), p.meta["operations"], style, p.meta.get("first", 0)).question) for p in problems]
    return sample(pair.base, asked, alone, progress=False)


@each
def _example(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: tuple[str, float]) -> Rollouts:
    """A worked example before the question. Where the context is short, completions are cut earlier: to no less than half of what the others may say."""
    example, temperature = setting
    asked = [replace(p, question=f"{example} {p.question}") for p in problems]
    alone = replace(sampling.alone("base"), temperature=temperature)
    room = sampling.max_new_tokens if pair.base.context is None else pair.base.context + 1 - max(len(render(p, pair.base.writer, alone.prompt)) for p in asked)
    return sample(pair.base, asked, replace(alone, max_new_tokens=min(sampling.max_new_tokens, max(room, sampling.max_new_tokens // 2))), progress=False)


@each
def _interpolation(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
    return sample(interpolated(pair, setting), problems, sampling.alone("base"), progress=False)


@each
def _largest(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
    return sample(largest_changes(pair, setting), problems, sampling.alone("base"), progress=False)


@each
def _delta(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
    return sample(Hybrid(pair, always(), logit_delta(setting)), problems, sampling, progress=False)


def _voters(pair: ModelPair, problems: list[Problem], sampling: Sampling) -> pd.DataFrame:
    """Base samples in groups of VOTERS: column `group` is the sample that they make together."""
    many = replace(sampling, n=sampling.n * VOTERS, first_sample=sampling.first_sample * VOTERS, rl_prompt=None)
    table = sample(Hybrid(pair, never(), mode="lazy"), problems, many, progress=False).table  # lazy: the RL model is never run
    return table.assign(group=table["sample"] // VOTERS)


def _picked(table: pd.DataFrame, rows: Sequence[Any], name: str) -> Rollouts:
    chosen = table.loc[list(rows)]
    return Rollouts(chosen.assign(sample=chosen["group"], arm=name).drop(columns="group").reset_index(drop=True), {name: {}})


def _majority(pair: ModelPair, problems: list[Problem], sampling: Sampling, grid: Mapping[str, tuple[int, float]]) -> dict[str, Rollouts]:
    """The answer that most of the first voters give (an answer in no readable form has no vote); ties go to the earlier one."""
    drawn = {t: _voters(pair, problems, replace(sampling, temperature=t)) for t in {t for _, t in grid.values()}}

    def vote(table: pd.DataFrame, voters: int) -> Rollouts:
        answer, rows = table["extracted"].replace("", np.nan), []
        for _, part in table.groupby(["problem", "group"], sort=False):
            heard = part.index[part["sample"] % VOTERS < voters]
            votes = answer[heard].value_counts(sort=False)
            place = int(np.argmax(answer[heard] == votes.idxmax())) if len(votes) else 0
            rows.append(heard[place])
        return _picked(table, rows, "majority")

    return {name: vote(drawn[temperature], voters) for name, (voters, temperature) in grid.items()}


def _power(pair: ModelPair, problems: list[Problem], sampling: Sampling, grid: Mapping[str, float]) -> dict[str, Rollouts]:
    """One voter drawn with weight p^(setting - 1): importance resampling towards p^setting, the sharpened base distribution, of as many voters as there are. They
    are drawn at temperature 1 without a nucleus, whatever the run's: the weights are relative to p.
    """
    table = _voters(pair, problems, replace(sampling, temperature=1.0, top_p=1.0))
    loglik = table["base_logprob"].map(np.sum).to_numpy(float)
    noise = np.random.default_rng(sampling.seed).gumbel(size=len(table))  # argmax of log-weight + Gumbel noise is a draw

    def draw(power: float) -> Rollouts:
        scored = table.assign(score=(power - 1) * loglik + noise)
        rows = scored.groupby(["problem", "group"], sort=False)["score"].idxmax().to_list()
        return _picked(table, rows, "power")

    return {name: draw(power) for name, power in grid.items()}


def prompts_of(task: str, prompt: Prompt = Prompt()) -> list[str]:
    """Other ways to put the question than the run's own: up to three styles of the task's prompt, or for `chain` its authors' cues."""
    known = list(chain.CUES) if task == "chain" else [s for s in styles_of(task) if s != (prompt.style or next(iter(styles_of(task))))]
    return known[: BUDGET // 2]


def worked_examples(pair: ModelPair, problems: list[Problem], sampling: Sampling, n: int = BUDGET // 2) -> list[str]:
    """Questions with right completions that the base itself gives, one a problem, from the shortest to the longest that leaves room for a question and half of a completion: what the
    base is shown uses labels, but no other model.

    Args:
        pair: its base is asked.
        problems: of the split fit.
        sampling: of the completions.
        n: how many examples, at most.
    """
    questions, lm = {p.id: p.question for p in problems}, pair.base
    longest = max(len(render(p, lm.writer, sampling.prompt)) for p in problems)
    room = float("inf") if lm.context is None else lm.context - longest - sampling.max_new_tokens // 2
    table = sample(lm, problems, replace(sampling.alone("base"), n=4), progress=False).table
    size = table["n_tokens"] + table["prompt_ids"].map(len)
    right = table[table["correct"] & (size <= room)].sort_values(["n_tokens", "problem", "sample"]).drop_duplicates("problem")
    chosen = right.iloc[sorted({round(place) for place in np.linspace(0, len(right) - 1, n)})] if len(right) else right
    return [f"{questions[problem]} {text}" for problem, text in zip(chosen["problem"], chosen["text"], strict=True)]


def rivals_for(task: str, prompt: Prompt = Prompt(), examples: Sequence[str] = (), temperature: float = 1.0) -> tuple[Rival, ...]:
    """The rivals of a task, in the order of what they use. Each has `BUDGET` settings, where there are so many. To change nothing is one of those of `temperature`.

    Args:
        task: its prompts are tried.
        prompt: of the run.
        examples: of `worked_examples`, for a task that has no few-shot prompt of its own; without any there is no rival `few_shot`.
        temperature: of the run, one of those at which prompts, examples and votes are tried.
    """
    lower, middle = (0.4 if temperature > 0.4 else 0.2), (0.7 if temperature != 0.7 else 1.0)
    two = partial(_at, temperatures=(temperature, lower))
    beyond, few = _numbers(0.25, 0.5, 0.75, 1.25, 1.5, 2.0), _numbers(0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
    votes = {f"{voters} at T={t:g}": (voters, t) for t in sorted((lower, middle, temperature)) for voters in (VOTERS // 2, VOTERS)}
    found = (
        Rival("temperature", _numbers(*sorted({0.05, 0.2, 0.4, 0.6, 0.8, 1.0} - {temperature})[: BUDGET - 1], temperature), _temperature, LABELS),
        Rival("prompt", two({name: name for name in prompts_of(task, prompt)}), _prompt, LABELS),
        Rival("few_shot", two({f"example {i + 1}": example for i, example in enumerate(examples)}), _example, "labels of fitting and calibration problems"),
        Rival("majority", votes, _majority, LABELS, passes=lambda setting: float(setting[0])),
        Rival("power", _numbers(1.5, 2.0, 3.0, 4.0, 6.0, 8.0), _power, LABELS, passes=lambda setting: float(VOTERS)),
        Rival("logit_delta", beyond, _delta, LOGITS, lambda setting: 2.0, "RL logits", 1.0),
        Rival("interpolation", beyond, _interpolation, WEIGHTS, content_source="RL weights"),
        Rival("largest_changes", few, _largest, "the largest changes of RL weights", content_source="RL weights"),
    )
    return tuple(rival for rival in found if rival.grid)


def _at(grid: Mapping[str, str], temperatures: Sequence[float]) -> dict[str, tuple[str, float]]:
    return {f"{name} at T={t:g}": (setting, t) for name, setting in grid.items() for t in temperatures}


BIAS_VECTOR, BIAS_USES = "RL-trained bias vector", "an RL training of its own"


def bias_vector(biased: ModelPair) -> Rival:
    """The RL-trained bias vector (Sinii et al. 2025, arXiv 2505.18706): one vector a block, trained by RL with the base's weights frozen, times a factor.

    Args:
        biased: the same base, and the model with the trained biases.
    """

    def draw(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
        return sample(interpolated(biased, setting), problems, sampling.alone("base"), progress=False)

    return Rival(BIAS_VECTOR, _numbers(0.5, 0.75, 1.0, 1.25, 1.5, 2.0), each(draw), BIAS_USES, content_source="RL-trained vector")


def tuned(rival: Rival, pair: ModelPair, problems: list[Problem], sampling: Sampling) -> tuple[str, list[dict[str, Any]]]:
    """The setting with the best accuracy on calibration problems (the first of equals), and what each gave.

    Raises:
        ContextTooLong: a prompt with an example is longer than the models' context.
    """
    drawn = rival.draw(pair, problems, sampling, rival.grid)
    accuracy = {name: float(drawn[name].table["correct"].mean()) for name in rival.grid}
    return max(accuracy, key=lambda name: accuracy[name]), [{"setting": name, "accuracy": each} for name, each in accuracy.items()]
