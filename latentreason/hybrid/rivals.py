"""Rival arms on the same pair: other ways to the RL gain, each tuned on calibration problems, with what it uses and what it costs.

A rival is a way to make rollouts at a setting. All get the same tuning budget: their grid, on the same calibration problems. What the base
model can do alone (another temperature, another prompt, votes, its own sharpened distribution) tells sharpening from learning; what takes
the RL model's weights or logits says how much of them is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from latentreason.hybrid.actions import logit_delta
from latentreason.hybrid.decode import Hybrid
from latentreason.models.merge import interpolated, largest_changes
from latentreason.models.pair import ModelPair
from latentreason.routing.controls import always, never
from latentreason.sampling.local import Sampling, sample
from latentreason.tables import Rollouts
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import styles_of

Draw = Callable[[ModelPair, list[Problem], Sampling, float], Rollouts]
VOTERS = 16
"""Base samples behind one sample of `majority` and `power`."""


@dataclass(frozen=True)
class Rival:
    """One rival.

    Attributes:
        name: of the arm.
        grid: settings tried on calibration problems; the one with the best accuracy is used.
        draw: (pair, problems, sampling, setting) -> Rollouts.
        uses: what it needs beyond the base model's own samples.
        passes: forward passes of one model for each token of the answer that is handed in.
    """

    name: str
    grid: tuple[float, ...]
    draw: Draw
    uses: str
    passes: float


def _temperature(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
    return sample(pair.base, problems, replace(sampling, temperature=setting).alone("base"), progress=False)


def _prompt(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
    """The task's prompt styles by number (a number without a style is the last one); for `chain`, its author cues."""
    task = problems[0].task
    if task != "chain":
        styles = list(styles_of(task))
        style = styles[min(int(setting), len(styles) - 1)]
        return sample(pair.base, problems, replace(sampling.alone("base"), prompt=replace(sampling.prompt, style=style)), progress=False)
    cue = ("", *chain.CUES)[int(setting)]
    asked = [replace(p, question=chain.problem(tuple(p.meta["start"]), p.meta["operations"], cue).question) for p in problems]
    return sample(pair.base, asked, sampling.alone("base"), progress=False)


def _interpolation(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
    return sample(interpolated(pair, setting), problems, sampling.alone("base"), progress=False)


def _largest(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
    return sample(largest_changes(pair, setting), problems, sampling.alone("base"), progress=False)


def _delta(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
    return sample(Hybrid(pair, always(), logit_delta(setting)), problems, sampling, progress=False)


def _voters(pair: ModelPair, problems: list[Problem], sampling: Sampling) -> pd.DataFrame:
    """Base samples in groups of VOTERS: column `group` is the sample that they make together."""
    many = sample(Hybrid(pair, never()), problems, replace(sampling, n=sampling.n * VOTERS, first_sample=sampling.first_sample * VOTERS), progress=False)
    return many.table.assign(group=many.table["sample"] // VOTERS)


def _picked(table: pd.DataFrame, rows: Sequence[Any], name: str) -> Rollouts:
    chosen = table.loc[list(rows)]
    return Rollouts(chosen.assign(sample=chosen["group"], arm=name).drop(columns="group").reset_index(drop=True), {name: {}})


def _majority(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
    """The answer that most voters give (an answer in no readable form has no vote); ties go to the earlier one."""
    table = _voters(pair, problems, sampling)
    answer = table["extracted"].replace("", np.nan)
    rows = []
    for _, part in table.groupby(["problem", "group"], sort=False):
        votes = answer[part.index].value_counts(sort=False)
        place = int(np.argmax(answer[part.index] == votes.idxmax())) if len(votes) else 0
        rows.append(part.index[place])
    return _picked(table, rows, "majority")


def _power(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
    """One voter drawn with weight p^(setting - 1): importance resampling towards p^setting, the sharpened base distribution, of as many voters as there are. They
    are drawn at temperature 1 without a nucleus, whatever the run's: the weights are relative to p.
    """
    table = _voters(pair, problems, replace(sampling, temperature=1.0, top_p=1.0))
    loglik = table["base_logprob"].map(np.sum).to_numpy(float)
    noise = np.random.default_rng(sampling.seed).gumbel(size=len(table))  # argmax of log-weight + Gumbel noise is a draw
    table = table.assign(score=(setting - 1) * loglik + noise)
    rows = table.groupby(["problem", "group"], sort=False)["score"].idxmax().to_list()
    return _picked(table.drop(columns="score"), rows, "power")


RIVALS: tuple[Rival, ...] = (
    Rival("temperature", (0.05, 0.2, 0.4, 0.6, 0.8), _temperature, "labels of calibration problems", 1),
    Rival("prompt", (0, 1, 2, 3), _prompt, "labels of calibration problems", 1),
    Rival("majority", (VOTERS,), _majority, "nothing", VOTERS),
    Rival("power", (2.0, 4.0, 8.0), _power, "labels of calibration problems", VOTERS),
    Rival("logit_delta", (0.25, 0.5, 0.75, 1.25, 1.5), _delta, "RL logits at every token", 2),
    Rival("interpolation", (0.25, 0.5, 0.75, 1.25, 1.5), _interpolation, "RL weights", 1),
    Rival("largest_changes", (0.01, 0.05, 0.1, 0.25, 0.5), _largest, "the largest changes of RL weights", 1),
)
"""In the order of what they use."""


def bias_vector(biased: ModelPair) -> Rival:
    """The RL-trained bias vector (Sinii et al. 2025, arXiv 2505.18706): one vector a block, trained by RL with the base's weights frozen, times a factor.

    Args:
        biased: the same base, and the model with the trained biases.
    """

    def draw(pair: ModelPair, problems: list[Problem], sampling: Sampling, setting: float) -> Rollouts:
        return sample(interpolated(biased, setting), problems, sampling.alone("base"), progress=False)

    return Rival(BIAS_VECTOR, (0.5, 0.75, 1.0, 1.25, 1.5), draw, BIAS_USES, 1)


BIAS_VECTOR, BIAS_USES = "RL-trained bias vector", "an RL training of its own"


def tuned(rival: Rival, pair: ModelPair, problems: list[Problem], sampling: Sampling) -> tuple[float, list[dict[str, float]]]:
    """The setting with the best accuracy on calibration problems (the first of equals), and what each gave."""
    tried = []
    for setting in rival.grid:
        correct = rival.draw(pair, problems, sampling, setting).table["correct"]
        tried.append({"setting": setting, "accuracy": float(correct.mean())})
    return max(tried, key=lambda t: t["accuracy"])["setting"], tried
