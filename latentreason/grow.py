"""Growing organisms from the command line: which recipes, the plan with its times, what came of each, and where its measurements go."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from latentreason.config import load_config
from latentreason.errors import InvalidInput, LatentReasonError, unknown_name
from latentreason.files import read_table
from latentreason.measure.organism import Measuring, measure
from latentreason.models.pair import ModelPair, organism_dirs
from latentreason.organisms import adapter
from latentreason.organisms.estimate import described, estimate
from latentreason.organisms.families import families, in_processes
from latentreason.organisms.problems import problems_of
from latentreason.organisms.recipe import Recipe, config_of
from latentreason.organisms.ship import adopt
from latentreason.organisms.train import train
from latentreason.organisms.zoo import ADAPTERS, ORGANISMS
from latentreason.picture import picture
from latentreason.store import config_hash, open_artifact

RUNS = Path("artifacts/runs/organisms")
MEASURED = Path("artifacts/runs/measured")


def run_dir(name: str, seed: int) -> Path:
    """Where a trained organism goes."""
    return RUNS / f"{name}-{seed}"


def seed_dir(name: str, seed: int) -> Path:
    """Where the tables of a seed are published."""
    return Path("artifacts/results") / name / "seeds" / str(seed)


def work_dir(seed: int) -> Path:
    """Where the models of all organisms of a seed are made, and shared."""
    return RUNS / f"work-{seed}"


def measured_dir(name: str, seed: int) -> Path:
    """Where the measurements of a trained organism go."""
    return MEASURED / f"{name}-{seed}"


def recipes_of(*names: str) -> list[Recipe]:
    """The recipes that names ask for, each once: of the zoo, `all`, or in a TOML file.

    Raises:
        UnknownName: no such organism, or a key of the file that is none.
        InvalidInput: what the recipe refuses, or a recipe of one's own under the name of another in the zoo.
    """
    found: dict[str, Recipe] = {}
    for name in names:
        if name.endswith(".toml"):
            recipe = load_config(Recipe, name)
            if found.get(recipe.name, recipe) != recipe:
                raise InvalidInput(f"{name} holds another recipe of the name {recipe.name!r}; give each a name of its own.")
            if ORGANISMS.get(recipe.name, recipe) != recipe:
                raise InvalidInput(f"{name} holds another recipe than that of {recipe.name!r} in the zoo; the two would be mixed up in its tables. Give it a name of its own.")
            found[recipe.name] = recipe
        elif name == "all":
            found |= ORGANISMS
        elif name in ORGANISMS:
            found[name] = ORGANISMS[name]
        else:
            raise unknown_name("organism", name, [*ORGANISMS, *ADAPTERS, "all"])
    return list(found.values())


def known(recipes: Iterable[Recipe]) -> dict[str, Recipe]:
    """Who may be a teacher: the zoo, and the recipes that are asked for beside each other."""
    return ORGANISMS | {recipe.name: recipe for recipe in recipes}


def plan(recipes: list[Recipe], seed: int) -> pd.DataFrame:
    """The plan as it is printed: one row an organism, minutes of the models that are not there yet."""
    table = estimate(recipes, seed, work_dir(seed), known=known(recipes))
    minutes = [f"{m:.1f} ({b:.1f})" if b else f"{m:.1f}" for m, b in zip(table["minutes"], table["base"], strict=True)]
    shown = {"organism": table["organism"], "truth": table["truth"], "weights": [f"{p:.2f}M" for p in table["parameters"]], "what is done": [described(r) for r in recipes]}
    return pd.DataFrame({**shown, "minutes (base)": ["there" if t else m for t, m in zip(table["there"], minutes, strict=True)], "MB": [f"{m:.1f}" for m in table["megabytes"]]})


def totals(recipes: list[Recipe], seed: int, jobs: int = 1) -> str:
    """The plan in one line."""
    among = known(recipes)
    table = estimate(recipes, seed, work_dir(seed), known=among)
    longest = max((float(estimate(family, seed, work_dir(seed), known=among)["minutes"].sum()) for family in families(recipes, seed, work_dir(seed), among)), default=0.0) if jobs > 1 else 0.0
    on = f", {max(table['minutes'].sum() / jobs, longest):.0f} on {jobs}" if jobs > 1 else ""  # a family has one core at a time
    return f"{len(table)} organisms, about {table['minutes'].sum():.0f} minutes on one free core{on}, {table['megabytes'].sum():.1f} MB of weights as shipped"


def grown(recipe: Recipe, seed: int, out: Path | None = None, *, among: Mapping[str, Recipe] = ORGANISMS, progress: bool = True) -> Path:
    """Train an organism into its place; its teachers are `among` these. A base or a teacher that another organism ships is not trained again."""
    adopt(recipe, seed, work_dir(seed), organism_dirs(), among)
    return train(recipe, out or run_dir(recipe.name, seed), seed=seed, work=work_dir(seed), known=among, progress=progress)


def grown_all(recipes: list[Recipe], seed: int, *, jobs: int = 1, progress: bool = True) -> Iterator[tuple[Recipe, Path | BaseException]]:
    """Train organisms into their places, several at once if `jobs` is above 1; each with its folder as it is done, or with what went wrong, which stops no other."""
    among = known(recipes)
    if jobs > 1:
        yield from in_processes(grown, families(recipes, seed, work_dir(seed), among), seed, jobs, among=among, progress=False)
        return
    for recipe in recipes:
        try:
            yield recipe, grown(recipe, seed, among=among, progress=progress)
        except LatentReasonError as error:
            yield recipe, error


def trained(recipe: Recipe, seed: int) -> Path | None:
    """The artifact of an organism that has been trained with this seed, or is shipped as it was; None where there is none."""
    for folder in (run_dir(recipe.name, seed), organism_dirs().get(recipe.name)):
        if folder is not None and (folder / "manifest.json").is_file():
            manifest = open_artifact(folder, verify=False)
            if manifest.config_hash == config_hash({"recipe": config_of(recipe), "seed": seed}):
                return folder
    return None


def measured(recipe: Recipe, seed: int, how: Measuring = Measuring(), *, progress: bool = True) -> Path | None:
    """Measure an organism into its place; None where it has not been trained. What is there is not measured again."""
    folder = trained(recipe, seed)
    return folder and measure(recipe, folder, measured_dir(recipe.name, seed), seed=seed, cache=MEASURED / "models", how=how, progress=progress)


def measured_all(recipes: list[Recipe], seed: int, how: Measuring = Measuring(), *, jobs: int = 1, progress: bool = True) -> Iterator[tuple[Recipe, Path | BaseException | None]]:
    """Measure organisms into their places, several at once if `jobs` is above 1; each as it is done."""
    if jobs > 1:
        yield from in_processes(measured, families(recipes, seed, work_dir(seed), known(recipes)), seed, jobs, how=how, progress=False)
        return
    for recipe in recipes:
        try:
            yield recipe, measured(recipe, seed, how, progress=progress)
        except LatentReasonError as error:
            yield recipe, error


def all_measured() -> list[Path]:
    """Measurements of all organisms and seeds, in the order of the zoo, recipes of one's own after it."""
    order = {name: i for i, name in enumerate(ORGANISMS)}
    folders = [f.parent for f in MEASURED.glob("*/manifest.json")]
    named = [(f, *f.name.rpartition("-")[::2]) for f in folders]
    return [f for f, name, seed in sorted(named, key=lambda each: (order.get(each[1], len(order)), each[1], int(each[2])))]


def line(folder: Path) -> str:
    """What came of an organism, by the curve of its training: the pass rate on the training problems at the first and the last step that measured it."""
    curve = read_table(folder / "curve_rl.parquet")
    rate = curve["pass_rate"].dropna() if "pass_rate" in curve else curve["reward"].dropna()
    notes = "; ".join(sorted({n for n in curve.get("note", pd.Series(dtype=str)).dropna() if n}))
    return f"{folder.name}: {rate.name} in training {rate.iloc[0]:.2f} to {rate.iloc[-1]:.2f}" + (f" ({notes})" if notes else "")


def picture_of(recipe: Recipe, folder: Path, seed: int, *, progress: bool = True) -> pd.DataFrame:
    """The picture of a trained organism, on the problems of its recipe."""
    return picture(ModelPair.from_folder(folder, recipe.name), problems=problems_of(recipe, limit=200), seed=seed, progress=progress)


def adapter_picture(name: str, out: Path, *, seed: int, **how: Any) -> tuple[pd.DataFrame, Path]:
    """Train an organism that is an adapter; its picture, and its folder."""
    recipe = ADAPTERS[name]
    folder = adapter.train(recipe, out, seed=seed, **how)
    pair = ModelPair.from_folder(folder, name)
    return picture(pair, recipe.task, seed=seed, n_problems=64, n_samples=4, progress=how.get("progress", True)), folder
