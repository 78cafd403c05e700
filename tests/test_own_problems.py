"""An organism is asked its own problems in the jobs `reproduce` and `claims`, by its name and by its folder; nothing changes for a pair whose problems are the task's."""

import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from latentreason import claims, reproduce as job
from latentreason.cli import app
from latentreason.errors import UnknownName
from latentreason.files import read_json, read_table, write_json
from latentreason.hybrid import calibrate
from latentreason.models.pair import ModelPair, organism_dir
from latentreason.organisms.problems import problems_of, recipe_named, room
from latentreason.organisms.recipe import config_of
from latentreason.organisms.zoo import EASY_AND_HARD, ORGANISMS
from latentreason.plan import plan
from latentreason.reproduce import TINY, Run, RunConfig, identity, load_pair, problems_for, run_dir
from latentreason.store import config_hash
from latentreason.studies.recompute import RESULTS
from latentreason.tables import Rollouts
from latentreason.tasks.registry import load_task

ROOT = Path(__file__).parents[1]


def operations(ids: set[str], config: RunConfig, split: str, limit: int) -> list[list[str]]:
    """Operations of the problems of a table, all of which the recipe must have drawn."""
    asked = {p.id: p.meta["operations"] for p in problems_for(config, split, limit)}
    return [asked[name] for name in ids]


def test_for_activation_neither_problems_nor_the_run_are_others_than_before() -> None:
    config, pair = RunConfig(), ModelPair.from_organism("activation")
    for split in ("test", "calibration", "fit"):
        assert problems_for(replace(config, seed=3), split, 20) == load_task("chain", split=split, limit=20, seed=3)
    plain = {key: value for key, value in asdict(config).items() if value is not None} | {"weights": [pair.base.fingerprint, pair.rl.fingerprint]}
    assert identity(config, pair) == plain
    committed = read_json(ROOT / "artifacts" / "results" / "activation" / "run.json")
    ids = {split: config_hash({"ids": [p.id for p in problems_for(config, split, of["n"])]}) for split, of in committed["data"].items()}
    assert ids == {split: of["ids_hash"] for split, of in committed["data"].items()}


@pytest.mark.parametrize("name", ["planning", "new-skill", "contaminated", "too-hard"])
def test_an_organism_has_the_problems_of_its_recipe_and_its_run_says_so(name: str) -> None:
    recipe, config = ORGANISMS[name], RunConfig(pair=name)
    assert problems_for(config, "test", 30) == problems_of(recipe, split="test", limit=30)
    assert room(recipe) >= 96 and (recipe.problems == ORGANISMS["activation"].problems) == ("problems" not in identity(config, load_pair(config)))
    assert {p.id for p in problems_for(config, "calibration", 30)}.isdisjoint(p.id for p in problems_for(config, "test", 30))


def test_a_folder_is_the_same_pair_wherever_it_lies_and_another_task_is_that_task(tmp_path: Path) -> None:
    shutil.copytree(organism_dir("planning"), tmp_path / "planning")
    by_name, by_folder = RunConfig(pair="planning"), RunConfig(pair=str(tmp_path / "planning"))
    assert run_dir(by_name, tmp_path) == run_dir(by_folder, tmp_path) and recipe_named(by_folder.pair) == (ORGANISMS["planning"], 0)
    assert problems_for(by_folder, "test", 5) == problems_for(by_name, "test", 5)
    assert problems_for(replace(by_name, task="arith"), "test", 5) == load_task("arith", split="test", limit=5)
    assert recipe_named("smollm2-arith") is None and recipe_named("one/base,another/rl") is None
    with pytest.raises(UnknownName):
        ModelPair.named(str(tmp_path / "nothing"))


def test_a_completion_is_no_longer_than_the_context_of_an_organism_of_ones_own(tmp_path: Path) -> None:
    recipe = replace(ORGANISMS["new-skill"], name="mine", size=replace(ORGANISMS["new-skill"].size, context=60))
    write_json(tmp_path / "mine" / "recipe.json", {"recipe": config_of(recipe), "seed": 1})
    write_json(tmp_path / "mine" / "manifest.json", {})
    config = RunConfig(pair=str(tmp_path / "mine"))
    run = Run(tmp_path, config, ModelPair.from_organism("new-skill"))
    assert run.sampling(4).max_new_tokens == room(recipe) == 60 - 7 - 12
    assert replace(run, config=replace(config, max_new_tokens=9)).sampling(4).max_new_tokens == 9
    assert replace(run, config=RunConfig()).sampling(4).max_new_tokens == 96


@pytest.mark.parametrize("pair", ["collapsed", "folder"])
def test_the_plan_knows_organisms_that_share_a_base_and_folders(pair: str) -> None:
    planned = plan(RunConfig(pair=str(organism_dir("collapsed")) if pair == "folder" else pair))
    assert planned.fetch == () and planned.notes == () and planned.size.context == 160


def test_contamination_is_asked_of_what_the_corpus_held_and_of_its_twins(tmp_path: Path) -> None:
    config = replace(TINY, pair="contaminated")
    run = job.reproduce(config, tmp_path / "run", stages={"contamination": claims.STAGES["contamination"]}, progress=False)
    table = read_table(run.tables / "contamination.parquet")
    seen = problems_of(ORGANISMS["contaminated"], split="seen", limit=6)
    assert set(table.loc[table["split"] == "seen", "problem"]) == {p.id for p in seen}
    clean = problems_of(ORGANISMS["contaminated"], split="clean", limit=6)
    assert set(table.loc[table["split"] == "clean", "problem"]) == {p.id for p in clean}
    assert RESULTS["contamination"](run.tables).estimate("accuracy", split="seen minus clean", arm="change").defined


def test_planning_is_asked_of_the_problems_that_planning_is_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = os.path.relpath(organism_dir("planning"))
    monkeypatch.setattr(claims, "STAGES", {"planning": claims.STAGES["planning"]})
    said = CliRunner().invoke(app, ["claims", "--pair", folder, "--tiny", "--runs", str(tmp_path), "--quiet"])
    assert said.exit_code == 0, said.output
    (table,) = (read_table(file) for file in tmp_path.glob("planning-*/tables/planning.parquet"))
    assert set(table["pair"]) == {"planning"}
    for each in operations(set(table["problem"]), replace(TINY, pair="planning"), "test", TINY.passk_problems):
        assert 4 <= len(each) <= 6 and set(each) <= set(EASY_AND_HARD)


def test_recovery_is_asked_of_the_problems_that_need_the_new_skill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "ROUNDS", 1)
    monkeypatch.setattr(calibrate, "PARTS", 4)
    config = replace(TINY, pair="new-skill")
    run = job.reproduce(config, tmp_path / "run", stages={name: job.STAGES[name] for name in ("calibrate", "curves, sampled", "geometry")}, progress=False)
    ids = set(Rollouts.load(run.tables / "t1_ends.parquet").table["problem"])
    assert len(ids) == TINY.n_problems and all("sqr" in each for each in operations(ids, config, "test", TINY.n_problems))
    assert RESULTS["recovery"](run.tables).finding
