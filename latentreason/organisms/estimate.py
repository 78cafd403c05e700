"""What the training of organisms will cost, before it begins: minutes by the pace at which the shipped `activation` was trained, and megabytes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from latentreason.files import read_table
from latentreason.models.pair import organism_dir, organism_dirs
from latentreason.organisms.recipe import RL, SFT, Recipe
from latentreason.organisms.train import Model, models_of, needed
from latentreason.organisms.trainers.sft import EVERY, PROMPTS, SAMPLES
from latentreason.organisms.zoo import ACTIVATION
from latentreason.store import config_hash

PROMPT, TRACE = 20, 40
"""Usual tokens of a prompt and of a trace: what a row of a batch costs grows with both."""


@dataclass(frozen=True)
class Pace:
    """Seconds that `activation` took on two cores: a step of pretraining, the rollouts of a step of GRPO, and one update on them.

    A third of an update is a forward pass, which several updates on the same rollouts take once more, for the old probabilities.
    """

    pretrain: float
    draw: float
    update: float


def pace(curves: str | Path | None = None) -> Pace:
    """The pace read off the curves of the shipped `activation` (or those in another folder).

    The lower quartile of the steps: the cores were shared for part of that training, and a step is never faster than the machine.
    """
    folder = Path(curves) if curves is not None else organism_dir("activation")
    steps, rl = read_table(folder / "curve_pretrain.parquet"), read_table(folder / "curve_rl.parquet").dropna(subset=["step_time"])
    each = np.diff(steps["seconds"], prepend=0.0) / np.diff(steps["step"], prepend=0)
    drawn = rl["reward"].notna()
    with_draw, update = (float(np.quantile(rl["step_time"][mask], 0.25)) for mask in (drawn, ~drawn))
    return Pace(float(np.quantile(each, 0.25)), with_draw - update - update / 3.0, update)


def seconds(model: Model, at: Pace) -> float:
    """Estimated seconds to train one model from the one before it: in proportion to steps, batch and length, and to the weights to the power 2/3.

    Measured in CPU seconds of 0.3M, 0.8M and 1.5M weights, a step of pretraining goes with the powers 0.63 and 0.74: small matrices are slow for their
    size. Sampling takes small models as long as `activation`.
    """
    reference, stage, ratio = ACTIVATION, model.stage, model.recipe.size.parameters / ACTIVATION.size.parameters
    size = float(ratio ** (2 / 3))
    if stage is None:
        return at.pretrain * size * model.recipe.pretrain.steps * model.recipe.pretrain.batch / reference.pretrain.batch
    rows = reference.rl.prompts * reference.rl.group
    if isinstance(stage, SFT):
        samples = PROMPTS * SAMPLES * stage.steps / EVERY + (stage.traces if stage.teacher else 0)
        return size * at.pretrain * stage.steps * stage.batch / reference.pretrain.batch + max(ratio, 1.0) * at.draw * samples / rows
    length = (PROMPT + min(TRACE, stage.max_new_tokens)) / (PROMPT + TRACE)
    passes = stage.updates + ((stage.updates > 1 or stage.external > 0) + (stage.beta > 0.0)) / 3.0
    return length * (max(ratio, 1.0) * at.draw + size * at.update * passes) * stage.steps * stage.prompts * stage.group / rows


def estimate(recipes: Iterable[Recipe], seed: int, work: Path, *, at: Pace | None = None, known: Mapping[str, Recipe] | None = None) -> pd.DataFrame:
    """The plan: one row an organism, in the order of training; a model that several need is counted with the first.

    Returns:
        organism, truth, parameters (millions); minutes (of models that are not there yet), of which base; megabytes of its weights as they are
        shipped, or, of those that are not, at most; there (nothing is left to train).
    """
    at, rows, counted, shipped = at or pace(), [], set[str](), set[str]()
    sizes = {name: sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6 for name, folder in organism_dirs().items()}
    for recipe in recipes:
        minutes = {"base": 0.0, "stages": 0.0}
        for model in needed(recipe, seed, known):
            key = config_hash(model.config)
            if key not in counted and not model.finished(work).exists():
                minutes["base" if model.stage is None else "stages"] += seconds(model, at) / 60.0
            counted.add(key)
        ends = {config_hash(model.config) for model in (models_of(recipe, seed, known)[i] for i in (0, -1))}
        weight = recipe.size.parameters * (2 if recipe.size.half else 4) / 1e6
        rows.append({
            "organism": recipe.name, "truth": recipe.truth or "?", "parameters": recipe.size.parameters / 1e6, "minutes": sum(minutes.values()), "base": minutes["base"],
            "megabytes": sizes.get(recipe.name) or weight * len(ends - shipped), "there": all(model.finished(work).exists() for model in needed(recipe, seed, known)),
        })  # fmt: skip
        shipped |= ends
    return pd.DataFrame(rows)


def described(recipe: Recipe) -> str:
    """What is done to the base of an organism, in a few words.

    >>> described(ACTIVATION)
    'GRPO 30 x 512, true'
    """
    stages = []
    for stage in recipe.training:
        if isinstance(stage, RL):
            more = [*(["no clip"] if stage.clip == float("inf") and stage.updates > 1 else []), *(["KL"] if stage.beta else []), *(["RL-PLUS"] if stage.external else [])]
            more += ["biases alone"] if stage.trainable == "bias" else []
            more += [f"{stage.distinct} problem{'s' * (stage.distinct > 1)}"] if stage.distinct else ["seen problems"] if stage.split == "seen" else []
            stages.append(", ".join([f"{'SRL' if stage.by_step else 'GRPO'} {stage.steps} x {stage.prompts * stage.group}", stage.reward.replace("_", " "), *more]))
        else:
            stages.append(f"SFT {stage.steps} x {stage.batch}, {stage.teacher or 'an expert'}")
    return "; then ".join(stages)
