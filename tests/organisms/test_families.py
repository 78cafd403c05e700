"""Organisms that are trained at once have no model in common, and are what they are when trained one after the other."""

from dataclasses import replace

import pytest
import torch

from latentreason import grow
from latentreason.errors import InvalidInput
from latentreason.organisms.families import families
from latentreason.organisms.recipe import RL, Pretrain, Size
from latentreason.organisms.train import needed
from latentreason.organisms.zoo import EXPERT, ORGANISMS
from latentreason.store import config_hash
from latentreason.tasks.chain import Draw


def test_families_share_no_model_and_leave_no_organism_out(tmp_path):
    groups = families(ORGANISMS.values(), 0, tmp_path)
    assert sorted(recipe.name for group in groups for recipe in group) == sorted(ORGANISMS)
    models = [{config_hash(m.config) for recipe in group for m in needed(recipe, 0)} for group in groups]
    assert sum(map(len, models)) == len(set().union(*models))
    together = {frozenset(recipe.name for recipe in group) for group in groups}
    assert frozenset({"activation", "activation-distilled", "activation-bias"}) in together  # by a base, and by a teacher
    assert frozenset({"collapsed", "explore"}) in together and frozenset({"sharpening"}) in together
    assert {recipe.name for recipe in groups[0]} >= {"activation"} and len(groups[-1]) == 1  # the longest first


def test_a_late_recipe_joins_two_families_into_one(tmp_path):
    a, b = ORGANISMS["sharpening"], ORGANISMS["format"]
    assert [len(g) for g in families([a, b], 0, tmp_path)] == [1, 1]
    taught = replace(b, name="taught", truth=None, stages=(ORGANISMS["activation-distilled"].training[0],))  # the base of one, the teacher of another
    assert [[r.name for r in g] for g in families([ORGANISMS["activation"], b, taught], 0, tmp_path)] == [["activation", "format", "taught"]]


@pytest.mark.slow
def test_two_processes_train_what_one_does_and_what_fails_holds_up_nobody(tmp_path, monkeypatch):
    size, steps = Size(d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_mlp=16), Pretrain(steps=3, batch=8)
    rl = RL(steps=1, prompts=2, group=4, updates=1, max_new_tokens=12)
    first = replace(ORGANISMS["sharpening"], name="first", size=size, pretrain=steps, stages=(rl,))
    other = replace(first, name="other", pretrain=replace(steps, steps=2))
    never = replace(first, name="never", stages=(replace(rl, problems=Draw(min_ops=1, max_ops=1, p_hard=0.0, p_rare=0.0, operators=EXPERT.operators), steps=10_000),))
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "two")
    done = {recipe.name: folder for recipe, folder in grow.grown_all([first, other, never], 0, jobs=2)}
    assert isinstance(done["never"], InvalidInput) and "different problems" in str(done["never"])
    monkeypatch.chdir(tmp_path / "one")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = {recipe.name: folder for recipe, folder in grow.grown_all([first, other], 0, progress=False)}
    finally:
        torch.set_num_threads(threads)
    for name, folder in alone.items():
        for model in ("base", "rl"):
            assert (folder / model / "model.safetensors").read_bytes() == (tmp_path / "two" / done[name] / model / "model.safetensors").read_bytes()
