"""Organisms that are trained at once have no model in common, and are what they are when trained one after the other."""

import operator
import os
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest
import torch

from latentreason import grow
from latentreason.errors import InvalidInput
from latentreason.organisms.families import families, in_processes
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


def test_commands_leave_what_is_there_and_say_what_is_not(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from latentreason.cli import app

    monkeypatch.chdir(tmp_path)

    def said(line):
        result = CliRunner().invoke(app, line.split())
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return " ".join(result.output.split())

    monkeypatch.setattr(grow, "trained", lambda recipe, seed: tmp_path if (recipe.name, seed) == ("activation", 0) else None)
    planned = said("organisms train activation sharpening --dry-run --jobs 2")
    assert "There already, trained or shipped: activation" in planned and "1 organisms, about" in planned and "free core, " in planned
    assert "There already" not in said("organisms train activation activation --dry-run")  # by its name it is trained again
    assert said("organisms train activation sharpening --seed 1 --dry-run").count("There already") == 0
    assert "Not trained with seed 5 by the recipe of today: sharpening" in said(f"organisms ship sharpening --seed 5 --out {tmp_path / 'shipped'}")
    with pytest.raises(InvalidInput, match="smollm2-arith is an adapter on a model of its own"):
        said("organisms train activation smollm2-arith")
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.slow
def test_a_process_that_dies_is_replaced_and_takes_one_of_its_family_with_it():
    done = [(call.__name__, result) for call, result in in_processes(operator.call, [[abs], [os._exit, float], [complex]], 0, 1)]
    assert [(name, result) for name, result in done if name != "_exit"] == [("abs", 0), ("float", 0.0), ("complex", 0j)]
    assert isinstance(dict(done)["_exit"], BrokenProcessPool)


@pytest.mark.slow
def test_workers_do_not_outlive_a_run_that_is_killed(tmp_path):
    """A worker that went on would train in the folders of the run that resumes."""
    script = tmp_path / "run.py"
    script.write_text(f"""
import operator, os, time
from functools import partial
from latentreason.organisms.families import in_processes

if __name__ == "__main__":
    list(in_processes(operator.call, [[partial(os.mkdir, {str(tmp_path)!r} + "/" + name), time.sleep] for name in "ab"], 300, 2))
""")
    run = subprocess.Popen([sys.executable, str(script)])
    try:
        _until(lambda: all((tmp_path / name).is_dir() for name in "ab") or None, 120)  # both have begun, and sleep
        workers = _children(run.pid)
        assert len(workers) >= 2 and all(map(_alive, workers))
        run.kill()
        run.wait()
        assert _until(lambda: not any(map(_alive, workers)) or None, 20)
    finally:
        run.kill()


def _children(pid):
    """Processes that were spawned for it; the resource tracker is one, too."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [int(each) for each in found]


def _alive(pid):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
    return bool(state) and not state.startswith("Z")


def _until(asked, seconds):
    for _ in range(int(seconds * 4)):
        if (answer := asked()) is not None:
            return answer
        time.sleep(0.25)
    raise AssertionError("not in time")
