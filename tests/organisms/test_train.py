"""`train` joins its two stages into one artifact, resumes at a stage, and keeps apart what does not belong together."""

import pandas as pd
import pytest

from latentreason.errors import ArtifactConflict
from latentreason.files import read_json
from latentreason.organisms import train as module
from latentreason.organisms.train import SHIPPED, train
from latentreason.organisms.zoo import ACTIVATION
from latentreason.store import open_artifact


@pytest.fixture
def stages(monkeypatch):
    """Stages that write their files at once and keep a log; RL dies while `log.dies` is set."""

    class Log(list):
        dies = False

    log = Log()

    def stage(name):
        def run(recipe, seed, *folders, progress=True):
            log.append((name, seed))
            out = folders[-1]
            out.mkdir(parents=True, exist_ok=True)
            if name == "rl" and log.dies:
                raise KeyboardInterrupt
            for file in SHIPPED:
                (out / file).write_text(f"{name} {seed}")
            return pd.DataFrame({"step": [10, 20], "seconds": [1.0, 2.5]})

        return run

    monkeypatch.setattr(module, "pretrain", stage("base"))
    monkeypatch.setattr(module, "train_rl", stage("rl"))
    return log


def test_an_organism_is_one_artifact_with_both_models_and_their_curves(stages, tmp_path):
    out = train(ACTIVATION, tmp_path / "activation", seed=2, work=tmp_path / "work", progress=False)
    manifest = open_artifact(out)
    assert (manifest.kind, manifest.name, manifest.seed, manifest.config["seed"]) == ("organism", "activation", 2, 2)
    assert manifest.config["recipe"]["corpus"]["right_leap"] == ACTIVATION.corpus.right_leap and manifest.runtime["seconds"] == {"base": 2.5, "rl": 2.5}
    assert set(manifest.files) == {f"{m}/{f}" for m in ("base", "rl") for f in SHIPPED} | {"curve_pretrain.parquet", "curve_rl.parquet", "recipe.json"}
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


def test_folders_of_another_seed_are_refused(stages, tmp_path):
    train(ACTIVATION, tmp_path / "out", work=tmp_path / "work", progress=False)
    with pytest.raises(ArtifactConflict, match="They differ in: seed"):
        train(ACTIVATION, tmp_path / "other", seed=1, work=tmp_path / "work", progress=False)
    with pytest.raises(ArtifactConflict, match="They differ in: seed"):
        train(ACTIVATION, tmp_path / "out", seed=1, work=tmp_path / "work 1", progress=False)
    assert (tmp_path / "out" / "base" / "config.json").read_text() == "base 0"
