"""Organisms as they are shipped are those that were trained; and others are trained on what is shipped as on what was trained."""

from dataclasses import replace

import pytest

from latentreason.errors import CorruptArtifact, InvalidInput
from latentreason.files import read_json
from latentreason.models.language_model import LM
from latentreason.organisms import ship as module
from latentreason.organisms.recipe import RL, SFT, Pretrain, Size
from latentreason.organisms.ship import adopt, greedy_tokens, ship
from latentreason.organisms.train import models_of, train
from latentreason.organisms.zoo import ORGANISMS
from latentreason.tasks.registry import load_task

pytest.importorskip("trl")


STAGE = RL(steps=1, prompts=2, group=4, updates=1, max_new_tokens=8)
ONE = replace(
    ORGANISMS["sharpening"], name="one", size=Size(d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_mlp=16, half=True), pretrain=Pretrain(steps=3, batch=8), stages=(STAGE,)
)  # fmt: skip
OTHER = replace(ONE, name="other", stages=(replace(STAGE, reward="random"),))
PUPIL = replace(ONE, name="pupil", truth=None, stages=(SFT(teacher="one", steps=1, batch=4, traces=4, only_right=False),))
ROUGH = replace(ONE, name="rough", size=replace(ONE.size, half=False))
KNOWN = {recipe.name: recipe for recipe in (ONE, OTHER, PUPIL, ROUGH)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    for recipe in (ONE, OTHER, ROUGH):
        train(recipe, root / recipe.name, work=root / "work", known=KNOWN, progress=False)
    return root


@pytest.fixture(scope="module")
def shipped(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("shipped")
    ship([ONE, OTHER, ROUGH], {name: trained / name for name in KNOWN}, out, n_problems=4)
    return out


def folders(out):
    return {folder.name: folder for folder in out.iterdir()}


def test_what_is_shipped_says_what_was_trained_in_half_the_size_and_a_base_is_there_once(trained, shipped):
    problems = load_task("chain", limit=5)
    assert (shipped / "one" / "base").is_dir() and not (shipped / "other" / "base").exists()
    assert read_json(shipped / "other" / "base.json") == {"organism": "one"}
    for name, part in (("one", "base"), ("one", "rl"), ("other", "rl")):
        before, after = ((root / name / part) for root in (trained, shipped))
        assert (after / "model.safetensors").stat().st_size < 0.7 * (before / "model.safetensors").stat().st_size
        assert greedy_tokens(LM.from_pretrained(before), problems, 12) == greedy_tokens(LM.from_pretrained(after), problems, 12)
    assert ship([ONE], {}, shipped).keys() == {"one", "other", "rough"}  # what is there stays


def test_others_are_trained_on_shipped_models_as_on_trained_ones(trained, shipped, tmp_path):
    assert adopt(PUPIL, 0, tmp_path / "work", folders(shipped), KNOWN) == ["one/base", "one/rl"]
    assert adopt(PUPIL, 0, tmp_path / "work", folders(shipped), KNOWN) == []  # it is there
    both = [train(PUPIL, tmp_path / which, work=work, known=KNOWN, progress=False) for which, work in (("a", tmp_path / "work"), ("b", trained / "work"))]
    for part in ("base/model.safetensors", "rl/model.safetensors", "curve_pretrain.parquet"):
        assert (both[0] / part).read_bytes() == (both[1] / part).read_bytes(), part


def test_what_would_not_be_the_same_is_not_taken(shipped, tmp_path):
    assert adopt(ONE, 0, tmp_path, {"one": shipped / "one"}, KNOWN) == []  # by its name it is trained again
    assert adopt(PUPIL, 1, tmp_path, folders(shipped), KNOWN) == []  # another seed
    kept = {**KNOWN, "one": replace(ONE, stages=(replace(STAGE, keep=1),))}
    assert adopt(PUPIL, 0, tmp_path, folders(shipped), kept) == []  # another recipe by now
    beside = replace(ROUGH, name="beside", stages=OTHER.stages)
    assert read_json(shipped / "rough" / "base" / "config.json")["dtype"] == "float32"
    assert adopt(beside, 0, tmp_path, {"rough": shipped / "rough"}, KNOWN) == []  # rounded when it was shipped
    assert not any(model.folder(tmp_path).exists() for model in models_of(beside, 0))


def test_nothing_above_the_limits_is_shipped_and_nothing_that_was_not_trained(trained, tmp_path, monkeypatch):
    with pytest.raises(CorruptArtifact):
        ship([PUPIL], {"pupil": trained / "pupil"}, tmp_path)
    monkeypatch.setattr(module, "MODEL_BYTES", 100)
    with pytest.raises(InvalidInput, match="above the limit of 100. Make it smaller, or set size.half"):
        ship([ONE], {"one": trained / "one"}, tmp_path, n_problems=2)
    monkeypatch.undo()
    monkeypatch.setattr(module, "ALL_BYTES", 100)
    with pytest.raises(InvalidInput, match="above the limit of 100. Ship fewer organisms"):
        ship([ONE], {"one": trained / "one"}, tmp_path, n_problems=2)
    assert not (tmp_path / "one").exists()
