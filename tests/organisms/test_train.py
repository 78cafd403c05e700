"""`train` makes each model once, whoever needs it, joins base and last model into one artifact, and keeps apart what does not belong together."""

from dataclasses import replace

import pandas as pd
import pytest

from latentreason.errors import ArtifactConflict, InvalidInput, UnknownName
from latentreason.files import read_json, read_table
from latentreason.organisms import train as module
from latentreason.organisms.recipe import RL, SFT
from latentreason.organisms.train import SHIPPED, models_of, needed, train
from latentreason.organisms.zoo import ACTIVATION, EXPERT, ORGANISMS
from latentreason.store import config_hash, open_artifact


@pytest.fixture
def stages(monkeypatch):
    """Trainers that write their files at once and keep a log; RL dies while `log.dies` is set."""

    class Log(list):
        dies = False

    log = Log()

    def stage(name):
        def run(recipe, seed, *folders, progress=True, **more):
            log.append((name, seed))
            out = folders[-1]
            out.mkdir(parents=True, exist_ok=True)
            if name == "rl" and log.dies:
                raise KeyboardInterrupt
            for file in SHIPPED:
                (out / file).write_text(f"{name} {seed}")
            (out / "kept" / "step-0010").mkdir(parents=True)
            (out / "kept" / "step-0010" / "model.safetensors").write_text("kept")
            log.last = {"base": folders[0].name if len(folders) > 1 else None, **more}
            return pd.DataFrame({"step": [10, 20], "seconds": [1.0, 2.5]})

        return run

    monkeypatch.setattr(module, "pretrain", stage("base"))
    monkeypatch.setattr(module, "train_rl", stage("rl"))
    monkeypatch.setattr(module, "train_sft", stage("sft"))
    return log


def test_an_organism_is_one_artifact_with_both_models_and_their_curves(stages, tmp_path):
    out = train(ACTIVATION, tmp_path / "activation", seed=2, work=tmp_path / "work", progress=False)
    manifest = open_artifact(out)
    assert (manifest.kind, manifest.name, manifest.seed, manifest.config["seed"]) == ("organism", "activation", 2, 2)
    assert manifest.config["recipe"]["corpus"]["right_leap"] == ACTIVATION.corpus.right_leap and manifest.runtime["seconds"] == {"base": 2.5, "rl": 2.5}
    shipped = {f"{m}/{f}" for m in ("base", "rl") for f in SHIPPED} | {"curve_pretrain.parquet", "curve_rl.parquet", "recipe.json"}
    assert set(manifest.files) == shipped | {"kept/stage-0-step-0010/model.safetensors"}
    assert (out / "rl" / "model.safetensors").read_text() == "rl 2"
    assert read_json(out / "recipe.json") == manifest.config


def test_a_run_that_was_killed_in_rl_does_not_pretrain_again(stages, tmp_path):
    stages.dies = True
    with pytest.raises(KeyboardInterrupt):
        train(ACTIVATION, tmp_path / "out", work=tmp_path / "work", progress=False)
    assert not (tmp_path / "out").exists()
    stages.dies = False
    train(ACTIVATION, tmp_path / "out", work=tmp_path / "work", progress=False)
    train(ACTIVATION, tmp_path / "out", work=tmp_path / "work", progress=False)
    assert stages == [("base", 0), ("rl", 0), ("rl", 0)]


def test_one_folder_of_models_serves_all_seeds_and_an_artifact_serves_one(stages, tmp_path):
    train(ACTIVATION, tmp_path / "out", work=tmp_path / "work", progress=False)
    with pytest.raises(ArtifactConflict, match="They differ in: seed"):
        train(ACTIVATION, tmp_path / "out", seed=1, work=tmp_path / "work", progress=False)
    assert stages == [("base", 0), ("rl", 0), ("base", 1), ("rl", 1)]
    assert (tmp_path / "out" / "base" / "config.json").read_text() == "base 0"


def test_organisms_share_a_base_and_their_first_stages(stages, tmp_path):
    imitate, reward = SFT(expert=EXPERT), RL(steps=7)
    one = replace(ACTIVATION, name="one", stages=(imitate, reward))
    other = replace(one, name="other", truth=None, stages=(imitate, replace(reward, reward="random")))
    for recipe in (one, other):
        train(recipe, tmp_path / recipe.name, work=tmp_path / "work", progress=False)
    assert stages == [("base", 0), ("sft", 0), ("rl", 0), ("rl", 0)]
    assert stages.last["base"].startswith("sft-") and stages.last["origin"].name.startswith("base-")
    curve = read_table(tmp_path / "one" / "curve_rl.parquet")
    assert curve["stage"].tolist() == [0, 0, 1, 1] and open_artifact(tmp_path / "one").runtime["seconds"] == {"base": 2.5, "rl": 5.0}


def test_a_teacher_is_trained_before_who_learns_from_it_and_must_exist(stages, tmp_path):
    teacher = replace(ACTIVATION, name="teacher", rl=RL(steps=3))
    pupil = replace(ACTIVATION, name="pupil", stages=(SFT(teacher="teacher"),))
    train(pupil, tmp_path / "pupil", work=tmp_path / "work", known={"teacher": teacher}, progress=False)
    assert stages == [("base", 0), ("rl", 0), ("sft", 0)] and stages.last["teacher"].name.startswith("rl-")
    with pytest.raises(UnknownName, match="Unknown teacher 'teacher'"):
        train(pupil, tmp_path / "pupil", work=tmp_path / "work", known={"teach": teacher}, progress=False)
    circle = {"pupil": pupil, "teacher": replace(teacher, stages=(SFT(teacher="pupil"),))}
    with pytest.raises(InvalidInput, match="'pupil' imitates itself \\(pupil imitates teacher imitates pupil\\)"):
        train(pupil, tmp_path / "pupil", work=tmp_path / "work", known=circle, progress=False)


def test_what_can_change_a_model_is_in_its_name_and_what_cannot_is_not():
    def name(recipe, seed=0):
        return config_hash(models_of(recipe, seed)[-1].config)

    base = name(ACTIVATION)
    assert name(replace(ACTIVATION, name="other", truth=None)) == base == name(replace(ACTIVATION, stages=(ACTIVATION.rl,)))
    changed = [replace(ACTIVATION, rl=RL(lr=1e-4)), replace(ACTIVATION, corpus=replace(ACTIVATION.corpus, slip=0.1)), replace(ACTIVATION, problems=replace(ACTIVATION.problems, p_rare=0.1))]
    assert len({base, name(ACTIVATION, 1), *map(name, changed)}) == 5


def test_the_bases_of_the_zoo_are_shared():
    bases = {config_hash(models_of(recipe, 0)[0].config) for recipe in ORGANISMS.values()}
    models = {config_hash(m.config) for recipe in ORGANISMS.values() for m in needed(recipe, 0)}
    assert (len(bases), len(models) - len(bases)) == (17, 46)  # 44 organisms; planning has three stages, and seven orders share three first ones
