"""From the command line to tables of a verdict: of one pair, and of every trained organism of the zoo, stacked, for `studies.calibration`."""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from latentreason import grow
from latentreason.errors import LatentReasonError
from latentreason.files import read_table, write_table
from latentreason.judge import TINY, Judging, case_of, case_of_task, collect, fitted, identity
from latentreason.models.pair import ModelPair, organism_dirs
from latentreason.models.prompts import Prompt
from latentreason.organisms.recipe import Recipe, config_of
from latentreason.organisms.zoo import ORGANISMS
from latentreason.store import config_hash, open_artifact

RESULTS = Path("artifacts/results/zoo")
RUNS = Path("artifacts/runs/verdict")
STACKED = ("verdicts", "verdicts_temperatures")


def collected(pair: ModelPair, task: str, out: Path | None = None, *, grown: tuple[Recipe, int] | None = None, tiny: bool = False, style: str | None = None, chat: bool = False, progress: bool = True, **how: Any) -> Path:
    """The folder with a pair's tables of a verdict.

    Args:
        pair: any; one with the name of an organism is judged on that organism's problems.
        task: of the problems of any other pair.
        out: a folder of its own; None for one below `RUNS`.
        grown: recipe and seed of an organism of one's own, which is judged on that recipe's problems.
        tiny: seconds, and numbers that mean nothing.
        style, chat: of the prompt.
        progress: show bars.
        **how: further fields of `Judging`, such as temperature, max_new_tokens and seed.
    """
    config = replace(TINY if tiny else Judging(), prompt=Prompt(style, chat), **how)
    if not config.temperature:
        config = replace(config, n_samples=1, calibration_samples=1, training_samples=1, breadth_samples=0)
    recipe, trained_with = grown or (ORGANISMS.get(pair.name), config.seed)
    if recipe is not None and task == "chain":
        config = fitted(config, recipe)
        case = case_of(recipe, config, trained_with)
    else:
        case = case_of_task(task, config)
    folder = out or RUNS / f"{pair.name}-{config_hash(identity(pair, case, config))[:8]}"
    collect(pair, case, config, folder, progress=progress)
    return folder


def chosen(names: Iterable[str]) -> list[Recipe]:
    """Recipes by name, or in a TOML file; of no name all of the zoo whose truth is known. Raises as `grow.recipes_of`."""
    return grow.recipes_of(*names) or [recipe for recipe in ORGANISMS.values() if recipe.truth is not None]


def weights_of(recipe: Recipe, seed: int) -> tuple[Path | None, str]:
    """The folder of an organism's weights, trained here or shipped; or None and why not."""
    shipped = organism_dirs().get(recipe.name)
    why = "not trained yet"
    for folder in (grow.run_dir(recipe.name, seed), *([shipped] if shipped else [])):
        if (folder / "manifest.json").is_file():
            manifest = open_artifact(folder, verify=False)
            if manifest.config_hash == config_hash({"recipe": config_of(recipe), "seed": seed}):
                return folder, ""
            if manifest.seed == seed:
                why = "its weights are of another recipe, so train it anew"
    return None, why


def collect_zoo(recipes: list[Recipe], seeds: Iterable[int], tables: Path = RESULTS / "tables", config: Judging = Judging(), *, runs: Path = RUNS, progress: bool = True) -> dict[str, str]:
    """Collect what is not in the stacked tables yet, organism by organism; what is there stays, also where its weights are not.

    Args:
        recipes, seeds: which organisms.
        tables: folder of the stacked tables `verdicts`, `verdicts_temperatures` and `verdicts_truths`.
        config: how much is sampled.
        runs: where an unfinished collection lies, a folder each.
        progress: show bars.

    Returns:
        "name, seed" -> why there is no table of it.
    """
    missing: dict[str, str] = {}
    _drop_former(recipes, tables)
    for seed in seeds:
        for recipe in recipes:
            try:
                if why := _collected(recipe, seed, recipes, tables, config, runs, progress):
                    missing[f"{recipe.name}, seed {seed}"] = why
            except LatentReasonError as error:  # of one organism; the others go on
                missing[f"{recipe.name}, seed {seed}"] = f"{type(error).__name__}: {error}"
    return missing


def _drop_former(recipes: list[Recipe], tables: Path) -> None:
    """Take out of the stacked tables what is of a former recipe of its organism: its truth may have been another."""
    file = tables / f"{STACKED[1]}.parquet"
    if not file.is_file():
        return
    now = {name: config_hash(config_of(recipe)) for name, recipe in {**ORGANISMS, **{recipe.name: recipe for recipe in recipes}}.items()}
    tried = read_table(file).reindex(columns=["organism", "seed", "recipe"]).drop_duplicates()
    former = {(organism, seed) for organism, seed, recipe in tried.itertuples(index=False) if now.get(organism, recipe) != recipe}
    for name in STACKED if former else ():
        table = read_table(tables / f"{name}.parquet")
        write_table(tables / f"{name}.parquet", table[[(o, s) not in former for o, s in zip(table["organism"], table["seed"], strict=True)]].reset_index(drop=True))


def _collected(recipe: Recipe, seed: int, asked: list[Recipe], tables: Path, config: Judging, runs: Path, progress: bool) -> str:
    """Collect one organism into the stacked tables; why not, "" where it is there."""
    stacked = {name: read_table(file) if (file := tables / f"{name}.parquet").is_file() else pd.DataFrame({"organism": [], "seed": []}) for name in STACKED}
    old = {name: (table["organism"] == recipe.name) & (table["seed"] == seed) for name, table in stacked.items()}
    of, there = stacked[STACKED[1]].loc[old[STACKED[1]]].reindex(columns=["key", "recipe"]), all(rows.any() for rows in old.values())
    grown_by = config_hash(config_of(recipe))
    folder, why = weights_of(recipe, seed)
    if folder is None:
        return "" if there else why
    config = fitted(config, recipe)
    pair, case = ModelPair.from_folder(folder, recipe.name), case_of(recipe, config, seed)
    key = config_hash(identity(pair, case, config))
    if there and set(of["key"]) == {key} and set(of["recipe"]) == {grown_by}:
        return ""
    out, file = runs / f"{recipe.name}-{seed}-{key[:8]}", tables / "verdicts_truths.parquet"
    stated = read_table(file).set_index("organism")["truth"].to_dict() if file.is_file() else {}  # of recipes of one's own
    truths = stated | {name: each.truth or "" for name, each in {**ORGANISMS, **{each.name: each for each in asked}}.items()}
    named = dict.fromkeys([*stated, *stacked[STACKED[0]]["organism"], *(each.name for each in asked)])  # what was asked for and is not judged counts, too
    write_table(file, pd.DataFrame({"organism": list(named), "truth": [truths.get(name, "") for name in named]}))  # first: without it a verdict has nothing to be right about
    for name, new in zip(STACKED, collect(pair, case, config, out, progress=progress), strict=True):
        rows = new.assign(recipe=grown_by) if name == STACKED[1] else new.copy()
        rows.insert(0, "organism", recipe.name)
        rows.insert(1, "seed", seed)
        both = rows if stacked[name].empty else pd.concat([stacked[name][~old[name]], rows], ignore_index=True)
        write_table(tables / f"{name}.parquet", both.sort_values(["organism", "seed"], kind="stable"))
    shutil.rmtree(out / "parts", ignore_errors=True)
    return ""
