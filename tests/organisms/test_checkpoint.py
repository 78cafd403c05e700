"""Which checkpoints of a trainer a run can go on from: those that transformers' own Trainer has written to the end."""

import copy
import json
import shutil

import pytest
import torch
from transformers import Trainer, TrainingArguments

from latentreason.organisms.trainers.checkpoint import newest_whole


@pytest.fixture(scope="module")
def real(tmp_path_factory, make_tiny):
    """A folder with checkpoint-1 and checkpoint-2, as transformers writes them."""
    out = tmp_path_factory.mktemp("trainer")
    rows = [{"input_ids": torch.tensor([3, 4, 5]), "labels": torch.tensor([3, 4, 5])}] * 2
    how = TrainingArguments(output_dir=str(out), max_steps=2, save_steps=1, per_device_train_batch_size=1, report_to="none", disable_tqdm=True, use_cpu=True)
    Trainer(model=copy.deepcopy(make_tiny("llama")).requires_grad_(True), args=how, train_dataset=rows).train()
    return out


@pytest.fixture
def two(real, tmp_path):
    shutil.copytree(real, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_checkpoint_is_that_of_the_most_steps(two):
    assert newest_whole(two) == str(two / "checkpoint-2")
    shutil.copytree(two / "checkpoint-1", two / "checkpoint-10")
    (two / "checkpoint-10" / "trainer_state.json").write_text(json.dumps({"global_step": 10}))
    assert newest_whole(two) == str(two / "checkpoint-10") and names(two) == ["checkpoint-1", "checkpoint-10", "checkpoint-2"]


FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("share", [None, 0.0, 0.5])
def test_a_checkpoint_without_a_file_or_with_one_cut_short_is_removed_and_the_one_before_is_taken(two, file, share):
    broken = two / "checkpoint-2" / file
    if share is None:
        broken.unlink()
    else:
        whole = broken.read_bytes()
        broken.write_bytes(whole[: int(share * len(whole))])
    assert newest_whole(two) == str(two / "checkpoint-1") and names(two) == ["checkpoint-1"]


def test_what_is_left_of_an_older_checkpoint_or_of_an_empty_one_is_removed(two):
    (two / "checkpoint-1" / "optimizer.pt").unlink()
    (two / "checkpoint-3").mkdir()
    (two / "notes").mkdir()
    assert newest_whole(two) == str(two / "checkpoint-2") and names(two) == ["checkpoint-2", "notes"]


def test_without_a_whole_checkpoint_a_run_begins_anew(two, tmp_path):
    for folder in list(two.iterdir()):
        (folder / "scheduler.pt").unlink()
    assert newest_whole(two) is None and names(two) == []
    assert newest_whole(tmp_path / "nowhere") is None
