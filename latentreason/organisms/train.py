"""Train an organism: the base, then what its recipe does to it, stage by stage; base and last model become one artifact with a manifest.

Each model lies in a folder that is named by all that went into it (base, stages so far, seed). So organisms that share a base, or a base and
their first stages, share these models too, in whatever order they are trained, and a killed run goes on at its last checkpoint.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from latentreason.errors import InvalidInput, unknown_name
from latentreason.files import read_table, write_json, write_table
from latentreason.organisms.recipe import SFT, Recipe, Stage, config_of
from latentreason.organisms.trainers.grpo import train_rl
from latentreason.organisms.trainers.pretrain import pretrain
from latentreason.organisms.trainers.sft import train_sft
from latentreason.store import Parts, config_hash, writing

SHIPPED = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Model:
    """One model on the way to an organism: a base (no `stage`), or what a stage makes of the model before it."""

    recipe: Recipe
    stage: Stage | None
    config: dict[str, Any]

    def folder(self, work: Path) -> Path:
        """Where it lies."""
        kind = "base" if self.stage is None else "sft" if isinstance(self.stage, SFT) else "rl"
        return work / f"{kind}-{config_hash(self.config)[:12]}"

    def finished(self, work: Path) -> Path:
        """Its curve, written last."""
        return self.folder(work) / "finished.parquet"


def models_of(recipe: Recipe, seed: int, known: Mapping[str, Recipe] | None = None) -> list[Model]:
    """The models that an organism takes, base first, each with all that went into it.

    Raises:
        UnknownName: a teacher that is no organism.
        InvalidInput: an organism that imitates itself, if by way of others.
    """
    _acyclic(recipe, known, ())
    config: dict[str, Any] = {"base": {part: config_of(getattr(recipe, part)) for part in ("corpus", "size", "pretrain")}, "seed": seed}
    models = [Model(recipe, None, config)]
    for stage in recipe.training:
        problems = {"problems": config_of(stage.problems or recipe.problems)}
        teacher = {"teacher": models_of(teacher_of(stage, known), seed, known)[-1].config} if isinstance(stage, SFT) and stage.teacher else {}
        config = {**config, "stages": [*config.get("stages", []), config_of(stage) | problems | teacher]}
        models.append(Model(recipe, stage, config))
    return models


def _acyclic(recipe: Recipe, known: Mapping[str, Recipe] | None, pupils: tuple[str, ...]) -> None:
    """Raises InvalidInput where a recipe is taught by one of its pupils."""
    if recipe.name in pupils:
        raise InvalidInput(f"Recipe {recipe.name!r} imitates itself ({' imitates '.join([*pupils, recipe.name])}). Name another teacher.")
    for stage in recipe.training:
        if isinstance(stage, SFT) and stage.teacher:
            _acyclic(teacher_of(stage, known), known, (*pupils, recipe.name))


def teacher_of(stage: SFT, known: Mapping[str, Recipe] | None = None) -> Recipe:
    """The recipe of a stage's teacher."""
    if known is None:
        from latentreason.organisms.zoo import ORGANISMS

        known = ORGANISMS
    if stage.teacher not in known:
        raise unknown_name("teacher", stage.teacher, known)
    return known[stage.teacher]


def needed(recipe: Recipe, seed: int, known: Mapping[str, Recipe] | None = None) -> Iterator[Model]:
    """All models that have to be there for an organism, in an order in which they can be trained; with those of its teachers."""
    for model in models_of(recipe, seed, known):
        if isinstance(model.stage, SFT) and model.stage.teacher:
            yield from needed(teacher_of(model.stage, known), seed, known)
        yield model


def train(recipe: Recipe, out: str | Path, *, seed: int = 0, work: str | Path, known: Mapping[str, Recipe] | None = None, progress: bool = True) -> Path:
    """Train the models of an organism that are not there yet, and write the artifact.

    Args:
        recipe: what to grow.
        out: the artifact: `base/`, `rl/`, `curve_pretrain.parquet`, `curve_rl.parquet` (of several stages one after the other, by the column
            `stage`), `recipe.json`, `manifest.json`, and in `kept/` the weights that a stage kept on its way (float16).
        seed: of weights, corpus and RL.
        work: where models and checkpoints live; give the same folder again to resume, and to share what organisms have in common.
        known: recipes by name, among which the teachers are; those of the zoo by default.
        progress: show progress bars.

    Raises:
        ArtifactConflict: `out` belongs to another recipe or seed.
        UnknownName: a teacher that is no organism.

    Warns:
        ConstantReward: a reward without a gradient at step 1.
    """
    work, config = Path(work), {"recipe": config_of(recipe), "seed": seed}
    for model in needed(recipe, seed, known):
        if not model.finished(work).exists():
            _train(model, seed, work, known, progress)
    base, *stages = models_of(recipe, seed, known)
    pretraining = read_table(base.finished(work))
    curves = [read_table(model.finished(work)).assign(stage=number) for number, model in enumerate(stages)]
    seconds = {"base": _last(pretraining), "rl": sum(map(_last, curves))}
    with writing(out, kind="organism", name=recipe.name, config=config, seed=seed, runtime={"seconds": seconds}) as folder:
        for name, model in (("base", base), ("rl", stages[-1])):
            (folder / name).mkdir()
            for file in SHIPPED:
                shutil.copyfile(model.folder(work) / file, folder / name / file)
        write_table(folder / "curve_pretrain.parquet", pretraining)
        write_table(folder / "curve_rl.parquet", pd.concat(curves, ignore_index=True))
        for number, model in enumerate(stages):
            for kept in sorted((model.folder(work) / "kept").glob("step-*")):
                shutil.copytree(kept, folder / "kept" / f"stage-{number}-{kept.name}")
        write_json(folder / "recipe.json", config)
    return Path(out)


def _train(model: Model, seed: int, work: Path, known: Mapping[str, Recipe] | None, progress: bool) -> None:
    """Train one model whose predecessors are there."""
    recipe, stage, out = model.recipe, model.stage, model.folder(work)
    Parts(out, model.config)  # claims the folder, and says in it what the model is
    if stage is None:
        curve = pretrain(recipe, seed, out, progress=progress)
    else:
        models = models_of(recipe, seed, known)
        before, origin = models[[m.config for m in models].index(model.config) - 1].folder(work), models[0].folder(work)
        if isinstance(stage, SFT):
            teacher = models_of(teacher_of(stage, known), seed, known)[-1].folder(work) if stage.teacher else None
            curve = train_sft(recipe, seed, before, out, stage=stage, origin=origin, teacher=teacher, progress=progress)
        else:
            curve = train_rl(recipe, seed, before, out, stage=stage, origin=origin, progress=progress)
    write_table(model.finished(work), curve)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def _last(curve: pd.DataFrame) -> float:
    return float(curve["seconds"].iloc[-1]) if len(curve) else 0.0
