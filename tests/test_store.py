"""Artifacts are there wholly or not at all, and what is wrong with one is said exactly."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from latentreason import files, store
from latentreason.errors import ArtifactConflict, ArtifactWriteError, CorruptArtifact, InvalidInput
from latentreason.files import plain, read_table, write_json, write_table
from latentreason.store import Manifest, Parts, code_version, config_hash, open_artifact, writing

TOKENS = [np.array([1, 2], dtype=np.int32), np.array([], dtype=np.int32)]
FRAME = pd.DataFrame({"problem": ["a", "b"], "tokens": TOKENS, "p": [0.5, np.nan]})


def make(path, config=None, text="one", then=lambda folder: None, **more):
    """An artifact of two files; `then` is what the body does last."""
    with writing(path, **{"kind": "rollouts", "name": "demo", "config": config or {"seed": 0}} | more) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text(text)
        write_table(folder / "t.parquet", FRAME)
        then(folder)
    return Path(path)


def edit(path, **changes):
    """Change the manifest of an artifact behind the store's back."""
    facts = json.loads((path / "manifest.json").read_text()) | changes
    (path / "manifest.json").write_text(json.dumps({k: v for k, v in facts.items() if v is not ...}))


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


# --- config_hash -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    layers: tuple[int, ...] = (1, 2)
    path: Path = Path("a/b")
    rate: float = 1.0


def test_config_hash_is_sha256_of_canonical_json():
    assert config_hash({"b": [1.5, None], "a": True}) == hashlib.sha256(b'{"a":true,"b":[1.5,null]}').hexdigest()
    assert config_hash(Config()) == config_hash({"rate": 1, "path": "a/b", "layers": [1, 2]})
    assert config_hash({"x": np.float64(0.5), "n": np.int64(3), "v": np.arange(2)}) == config_hash({"x": 0.5, "n": 3, "v": [0, 1]})
    assert config_hash({"x": True}) != config_hash({"x": 1}) != config_hash({"x": "1"})
    assert config_hash({"x": float("inf")}) != config_hash({"x": -float("inf")})


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.integers() | st.floats(allow_nan=False), max_size=4))
def test_equal_configs_hash_equal_and_survive_json(config):
    same = {k: float(v) if abs(v) < 2**53 else v for k, v in reversed(config.items())}
    assert config_hash(same) == config_hash(config) == config_hash(json.loads(json.dumps(plain(config, ""))))


def test_config_hash_refuses_what_it_cannot_compare():
    with pytest.raises(InvalidInput) as caught:
        config_hash({"a": {"b": [1.0, np.float32("nan")]}})
    assert str(caught.value) == "config.a.b[1] is NaN, which is not equal to itself, so no two runs could match. Fix: use None."
    with pytest.raises(InvalidInput, match=r"^config\.a is a set, which JSON cannot hold\. Fix: use str, int, .*, list or dict\.$"):
        config_hash({"a": {1}})
    with pytest.raises(InvalidInput, match=r"^A config is a mapping or a dataclass, found \[1\]\.$"):
        config_hash([1])


# --- writing and opening -----------------------------------------------------------------------------------------------


def test_an_artifact_says_what_it_is_and_where_it_comes_from(tmp_path):
    source = open_artifact(make(tmp_path / "source"))
    more = {"runtime": {"device": "cpu"}, "inputs": [source.as_input()], "models": [{"id": "m"}], "data": {"id": "chain"}, "seed": 7}
    path = make(tmp_path / "deep" / "demo", Config(), **more)
    manifest = open_artifact(path)
    assert (manifest.schema, manifest.kind, manifest.name, manifest.seed) == (1, "rollouts", "demo", 7)
    assert manifest.config == {"layers": [1, 2], "path": "a/b", "rate": 1.0}
    assert manifest.config_hash == config_hash(Config())
    assert manifest.files["sub/a.txt"] == {"sha256": hashlib.sha256(b"one").hexdigest(), "bytes": 3}
    assert set(manifest.files) == {"sub/a.txt", "t.parquet"}
    assert (manifest.runtime, manifest.models, manifest.data) == ({"device": "cpu"}, [{"id": "m"}], {"id": "chain"})
    assert manifest.inputs == [{"kind": "rollouts", "name": "demo", "hash": config_hash(source.files)}]
    assert manifest.code == code_version()
    assert manifest.env["pyarrow"] == pa.__version__ and {"python", "platform", "torch", "transformers"} <= manifest.env.keys()
    assert 0 < manifest.seconds < 60
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest
    assert names(tmp_path / "deep") == ["demo"]


def test_the_manifest_is_written_last_and_the_place_is_empty_until_then(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(store, "write_json", lambda path, obj: seen.append((names(path.parent), names(tmp_path))) or write_json(path, obj))
    with writing(tmp_path / "demo", kind="k", name="n", config={}) as folder:
        assert folder.parent == tmp_path and folder.name.startswith(".demo.partial-")
        (folder / "a").write_text("x")
    assert seen == [(["a"], [folder.name])]
    assert names(tmp_path / "demo") == ["a", "manifest.json"]


def test_an_exception_leaves_nothing_and_keeps_the_old(tmp_path):
    def stop(folder):
        raise KeyboardInterrupt

    for old in (None, "one"):
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "demo", text="half", then=stop)
        assert names(tmp_path) == (["demo"] if old else [])
        path = make(tmp_path / "demo")
    assert open_artifact(path).files["sub/a.txt"]["bytes"] == 3


def test_a_killed_process_leaves_no_artifact_and_the_next_run_is_not_disturbed(tmp_path):
    code = """if True:
        import os, sys
        from latentreason.store import writing
        with writing(sys.argv[1], kind="rollouts", name="n", config={"seed": 0}) as folder:
            (folder / "a.txt").write_text("half")
            os._exit(9)
    """
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "demo"], check=False).returncode == 9
    with pytest.raises(CorruptArtifact):
        open_artifact(tmp_path / "demo")
    left = names(tmp_path)
    assert len(left) == 1 and left[0].startswith(".demo.partial-")
    with pytest.raises(CorruptArtifact, match="has no manifest"):
        open_artifact(tmp_path / left[0])
    open_artifact(make(tmp_path / "demo"))


def test_the_same_config_replaces_and_another_is_refused_before_any_work(tmp_path):
    path = make(tmp_path / "demo", {"seed": 0, "n": 1})
    make(path, {"n": 1.0, "seed": 0}, text="two")
    assert (path / "sub" / "a.txt").read_text() == "two"
    assert names(tmp_path) == ["demo"]
    with pytest.raises(ArtifactConflict) as caught:
        make(path, {"seed": 1, "n": 1}, then=lambda folder: pytest.fail("the body must not run"))
    old, new = config_hash({"seed": 0, "n": 1}), config_hash({"seed": 1, "n": 1})
    assert str(caught.value) == (
        f"{path} holds rollouts with config {old}; this run makes rollouts with config {new}. "
        "They differ in: seed. Fix: choose another path, or delete that directory."
    )
    with pytest.raises(ArtifactConflict, match=r"holds rollouts .* this run makes vectors .* differ in: kind\."):
        make(path, {"seed": 0, "n": 1}, kind="vectors")
    assert (path / "sub" / "a.txt").read_text() == "two"


def test_what_is_not_an_artifact_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    make(tmp_path / "mine")  # an empty directory is free
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "file").write_text("x")
    for name in ("theirs", "file"):
        with pytest.raises(ArtifactConflict) as caught:
            make(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name} exists and is not an artifact. Fix: choose another path, or move it away."


def test_a_conflict_that_comes_while_the_body_runs_is_seen(tmp_path):
    with pytest.raises(ArtifactConflict):
        make(tmp_path / "demo", {"seed": 1}, then=lambda folder: make(tmp_path / "demo"))
    assert open_artifact(tmp_path / "demo").config == {"seed": 0}
    assert names(tmp_path) == ["demo"]


def test_a_replacement_that_fails_puts_the_old_one_back(tmp_path, monkeypatch):
    path, rename = make(tmp_path / "demo"), Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: full_disk() if ".partial-" in self.name else rename(self, to))
    with pytest.raises(ArtifactWriteError):
        make(path, text="two")
    monkeypatch.undo()
    assert open_artifact(path) and (path / "sub" / "a.txt").read_text() == "one"
    assert names(tmp_path) == ["demo"]


def test_a_manifest_of_ones_own_and_facts_that_are_not_plain_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"^manifest\.json is written by the store\. Fix: give that file of "):
        make(tmp_path / "d", then=lambda folder: (folder / "manifest.json").write_text("{}"))
    with pytest.raises(InvalidInput, match=r"^runtime\.device is a object, which"):
        make(tmp_path / "d", runtime={"device": object()})
    assert names(tmp_path) == []


@pytest.mark.parametrize("where", ["mkdir", "body", "manifest"])
def test_a_full_disk_is_named_and_keeps_the_old(tmp_path, monkeypatch, where):
    path = make(tmp_path / "demo")
    expected = f"Cannot write {path}: No space left on device. What stood there is untouched. Fix: free the disk, or choose another path."
    if where == "mkdir":
        monkeypatch.setattr(Path, "mkdir", full_disk)
    if where == "manifest":
        expected = "/manifest.json: No space left on device. What"
    then = full_disk if where == "body" else lambda folder: monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ArtifactWriteError) as caught:
        make(path, text="two", then=then)
    monkeypatch.undo()
    assert expected in str(caught.value) and isinstance(caught.value, OSError) and caught.value.__cause__.errno == errno.ENOSPC
    assert open_artifact(path) and (path / "sub" / "a.txt").read_text() == "one" and names(tmp_path) == ["demo"]


def test_other_os_errors_of_the_body_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        make(tmp_path / "demo", then=lambda folder: (tmp_path / "no input").read_text())
    with pytest.raises(CorruptArtifact):
        make(tmp_path / "demo", then=lambda folder: open_artifact(tmp_path / "no artifact"))
    assert names(tmp_path) == []


def test_what_is_wrong_with_an_artifact_is_said_exactly(tmp_path):
    path = make(tmp_path / "demo")
    good, fix = (path / "manifest.json").read_text(), "Fix: check the path; what is damaged must be restored, or deleted and made again."
    one, two = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"two").hexdigest()

    def complaint():
        with pytest.raises(CorruptArtifact) as caught:
            open_artifact(path)
        return str(caught.value).removeprefix(f"{path}: ")

    (path / "extra").write_text("ignored")
    open_artifact(path)
    (path / "sub" / "a.txt").write_text("two")
    assert complaint() == f"file sub/a.txt differs: expected sha256 {one}, found {two}. {fix}"
    open_artifact(path, verify=False)
    (path / "sub" / "a.txt").unlink()
    assert complaint() == f"file sub/a.txt is missing. {fix}"
    edit(path, schema=2, seconds=...)
    assert complaint() == "The manifest has schema 2, this version reads up to 1. Fix: upgrade latentreason."
    edit(path, schema=1)
    assert complaint() == f"The manifest lacks seconds. {fix}"
    edit(path, seconds=1.0, config={"seed": 1})
    zero, seed = config_hash({"seed": 0}), config_hash({"seed": 1})
    assert complaint() == f"The config in the manifest was edited: expected hash {zero}, found {seed}. {fix}"
    edit(path, config=[float("nan")])
    assert complaint().startswith("config[0] is NaN")
    for damaged in ([], {"a": 1}, {"a": {"bytes": 1}}):
        edit(path, files=damaged)
        assert complaint() == f"The manifest has damaged 'files'. {fix}"
    (path / "manifest.json").write_text("[]")
    assert complaint().startswith("The manifest lacks kind, name,")
    (path / "manifest.json").write_text(good[:40])
    assert complaint().startswith(f"Cannot read JSON {path / 'manifest.json'}: ") and complaint().endswith(fix)
    (path / "manifest.json").unlink()
    assert complaint() == f"{path} has no manifest: unfinished or not an artifact; fix: check the path, or run the step that makes it."


# --- parts -------------------------------------------------------------------------------------------------------------


def test_parts_are_resumed_in_any_order_and_read_in_order(tmp_path):
    parts = Parts(tmp_path / "run", {"seed": 0})
    assert parts.done() == []
    for index in (12, 3, 100_000):
        parts.write(index, pd.DataFrame({"i": [index]}) if index % 2 else pa.table({"i": [index]}))
    again = Parts(str(tmp_path / "run"), {"seed": 0.0})
    assert again.done() == [3, 12, 100_000]
    assert [table["i"].to_pylist() for table in again.read()] == [[3], [12], [100_000]]
    assert names(tmp_path / "run") == ["config.json", "part-00003.parquet", "part-00012.parquet", "part-100000.parquet"]
    assert read_table(again.file(12))["i"].tolist() == [12]
    with pytest.raises(ArtifactConflict, match=r"part-00012\.parquet is already written\. Fix: skip the indices in done\(\)\.$"):
        again.write(12, FRAME)
    with pytest.raises(InvalidInput, match=r"^Parts are numbered from 0, found -1\.$"):
        again.write(-1, FRAME)


def test_parts_of_another_config_or_kind_are_refused(tmp_path):
    Parts(tmp_path / "run", {"seed": 0})
    with pytest.raises(ArtifactConflict) as caught:
        Parts(tmp_path / "run", {"seed": 1})
    for word in (config_hash({"seed": 0}), config_hash({"seed": 1}), "differ in: seed."):
        assert word in str(caught.value)
    with pytest.raises(ArtifactConflict, match=r"holds rollouts .* this run makes parts"):
        Parts(make(tmp_path / "done"), {"seed": 0})
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ArtifactConflict, match="is not an artifact"):
        Parts(tmp_path, {"seed": 0})


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"garbage that is long enough", "half", "footer"])
def test_a_part_cut_short_is_not_done_and_is_written_again(tmp_path, damage):
    parts = Parts(tmp_path / "run", {})
    parts.write(0, FRAME)
    parts.write(1, FRAME)
    whole = parts.file(1).read_bytes()
    parts.file(1).write_bytes({"half": whole[: len(whole) // 2], "footer": whole[:-1]}.get(damage, damage))
    parts = Parts(tmp_path / "run", {})
    assert parts.done() == [0] and len(list(parts.read())) == 1
    parts.write(1, FRAME)
    assert parts.done() == [0, 1] and parts.file(1).read_bytes() == whole


def test_a_part_with_a_damaged_inside_is_named_when_read(tmp_path):
    parts = Parts(tmp_path / "run", {})
    parts.write(0, pd.DataFrame({"x": np.random.default_rng(0).random(1000)}))
    content = bytearray(parts.file(0).read_bytes())
    content[4:2000] = bytes(1996)
    parts.file(0).write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"Cannot read table .*part-00000\.parquet: .* Fix: check the path;"):
        list(parts.read())


def test_a_kill_in_mid_write_costs_one_part_and_its_leftovers_are_removed(tmp_path):
    code = """if True:
        import os, sys, pandas as pd
        from latentreason.store import Parts
        parts = Parts(sys.argv[1], {"seed": 0})
        parts.write(0, pd.DataFrame({"i": [0]}))
        os.fsync = lambda descriptor: os._exit(9)
        parts.write(1, pd.DataFrame({"i": [1]}))
    """
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "run"], check=False).returncode == 9
    assert len(names(tmp_path / "run")) == 3 and names(tmp_path / "run")[0].startswith(".part-00001.parquet.partial-")
    parts = Parts(tmp_path / "run", {"seed": 0})
    assert parts.done() == [0]
    assert names(tmp_path / "run") == ["config.json", "part-00000.parquet"]


def test_a_kill_before_the_first_part_does_not_block_the_directory(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.partial-0123abcd").write_text('{"conf')
    assert Parts(tmp_path / "run", {}).done() == []
    assert names(tmp_path / "run") == ["config.json"]


def test_a_finished_artifact_takes_the_place_of_its_parts(tmp_path):
    parts = Parts(tmp_path / "run", {"seed": 0})
    parts.write(0, FRAME)
    with writing(tmp_path / "run", kind="rollouts", name="run", config={"seed": 0}) as folder:
        write_table(folder / "all.parquet", pa.concat_tables(parts.read()))
    assert names(tmp_path / "run") == ["all.parquet", "manifest.json"]


# --- version -----------------------------------------------------------------------------------------------------------


def test_code_version_is_silent_about_a_repository_that_only_surrounds_the_package(tmp_path, monkeypatch):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}  # in a hook, git would write to the real repository

    def git(*arguments):
        command = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false", *arguments]
        subprocess.run(command, check=True, capture_output=True, env=clean)

    monkeypatch.setattr(store, "__file__", str(tmp_path / "store.py"))
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a git hook

    def facts():
        store._git.cache_clear()
        return code_version()["commit"], code_version()["dirty"]

    (tmp_path / "store.py").write_text("")
    assert facts() == (None, None)
    git("init")
    git("commit", "--allow-empty", "-m", "m")
    assert facts() == (None, None)  # there is a commit, but this file is not in it
    git("add", "store.py")
    git("commit", "-m", "m")
    commit, dirty = facts()
    assert len(commit) == 40 and dirty is False
    (tmp_path / "store.py").write_text("edited")
    assert facts() == (commit, True)
    monkeypatch.setenv("PATH", "")
    assert facts() == (None, None)
    store._git.cache_clear()
    assert isinstance(code_version()["version"], str)


def test_store_and_files_import_no_torch_and_no_pickle():
    code = "import sys; import latentreason.store, latentreason.config; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    for module in (files, store):
        source = Path(module.__file__).read_text()
        assert "import pickle" not in source and "import torch" not in source
