"""Artifacts: directories whose `manifest.json` is written last, so one without a manifest does not exist.

This file knows nothing about models or about what a table means; it never imports torch and nothing is pickled. Example::

    with writing("runs/demo", kind="rollouts", name="demo", config={"temperature": 0.6}, seed=0) as folder:
        write_table(folder / "rollouts.parquet", table)     # folder: a hidden sibling of runs/demo until all is well
    manifest = open_artifact("runs/demo")                   # verifies every hash, and says which file differs
    parts = Parts("runs/long", config)                      # a job that may be killed at any moment: write(i, table), done()

A process that is killed (not one that fails) leaves `.NAME.partial-*` beside the artifact: nothing reads it, delete it at will.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from latentreason.errors import ArtifactConflict, CorruptArtifact, InvalidInput
from latentreason.files import DISK, FIX, hidden, plain, read_arrow, read_json, replace, reported, write_json, write_table

SCHEMA = 1

_MANIFEST, _PARTS = "manifest.json", "config.json"  # what makes a directory an artifact, or a Parts directory
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "gguf", "peft", "trl", "transformer-lens", "nnsight")
_PART = re.compile(r"part-(\d{5,})\.parquet")


@dataclass(frozen=True)
class Manifest:
    """What an artifact is and where it comes from; every field is plain JSON."""

    kind: str  # what the directory holds: rollouts, vectors, result, ...
    name: str
    config: dict[str, Any]  # everything that can change a number
    config_hash: str
    runtime: dict[str, Any]  # what must not change a number, such as batch size and device: not hashed
    inputs: list[dict[str, Any]]  # kind, name, hash of each artifact that was read: `Manifest.as_input()`
    files: dict[str, dict[str, Any]]  # relative path -> sha256 (hex), bytes
    models: list[dict[str, Any]]  # id, revision, dtype, tokenizer and template hash
    data: dict[str, Any]  # id, split, ids_hash of the problems
    seed: int | None
    code: dict[str, Any]  # `code_version()`
    env: dict[str, Any]  # python, platform, versions of the packages that compute
    seconds: float  # wall time inside `writing`
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """The manifest as nested plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Any) -> "Manifest":
        """The manifest of nested plain values.

        Raises:
            CorruptArtifact: from a newer schema, without some field, or edited.
            InvalidInput: its config is not plain data.
        """
        facts = facts if isinstance(facts, Mapping) else {}
        if isinstance(schema := facts.get("schema"), int) and schema > SCHEMA:
            raise CorruptArtifact(f"The manifest has schema {schema}, this version reads up to {SCHEMA}. Fix: upgrade latentreason.")
        if missing := [f.name for f in fields(cls) if f.name not in facts]:
            raise CorruptArtifact(f"The manifest lacks {', '.join(missing)}. {FIX}")
        files, entry = facts["files"], {"sha256", "bytes"}
        if not (isinstance(files, dict) and all(isinstance(each, dict) and entry <= each.keys() for each in files.values())):
            raise CorruptArtifact(f"The manifest has damaged 'files'. {FIX}")
        if (found := config_hash(facts["config"])) != facts["config_hash"]:
            raise CorruptArtifact(f"The config in the manifest was edited: expected hash {facts['config_hash']}, found {found}. {FIX}")
        return cls(**{f.name: facts[f.name] for f in fields(cls)})

    def as_input(self) -> dict[str, str]:
        """This artifact as one of the `inputs` of another; the hash is that of the contents of its files."""
        return {"kind": self.kind, "name": self.name, "hash": config_hash(self.files)}


def config_hash(config: Any) -> str:
    """Sha256 (hex) of the canonical JSON of a mapping or dataclass: keys sorted, and 1.0 written as 1, so that equal configs hash equal.

    Raises:
        InvalidInput: not a mapping, or it holds NaN or something that is not plain data; names the key.
    """
    values = plain(config, "config")
    if not isinstance(values, dict):
        raise InvalidInput(f"A config is a mapping or a dataclass, found {config!r}.")
    values = json.loads(json.dumps(values), parse_float=lambda text: int(f) if (f := float(text)).is_integer() else f)
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def writing(
    path: str | Path, *, kind: str, name: str, config: Any, runtime: Any = None,
    inputs: Sequence[Any] = (), models: Sequence[Any] = (), data: Any = None, seed: int | None = None,
) -> Iterator[Path]:
    """A hidden directory to fill. On a clean exit it gets its manifest and takes the place of `path`, at once and whole.

    On an exception it is removed and `path` stays as it was. Replaces an artifact of the same kind and config, or `Parts` of that config.

    Raises:
        ArtifactConflict: `path` holds something else: known before the body runs, and looked at again after it.
        ArtifactWriteError: the disk is full or refuses the write.
        InvalidInput: an argument holds NaN or something that is not plain data; or the body wrote a `manifest.json`.
    """
    target, started = Path(path).resolve(), time.perf_counter()
    env = environment()
    facts = {"kind": kind, "name": name, "config": config, "config_hash": config_hash(config), "runtime": runtime or {}, "inputs": inputs}
    facts |= {"models": models, "data": data or {}, "seed": seed, "code": code_version(), "env": env}
    facts = plain(facts, "")  # what JSON cannot hold is refused now, not after hours
    _refuse_other(target, facts)
    partial = hidden(target, "partial")
    with reported(target):
        partial.mkdir(parents=True)
    try:
        with reported(target, only=DISK):
            yield partial
        if (partial / _MANIFEST).exists():
            raise InvalidInput(f"{_MANIFEST} is written by the store. Fix: give that file of {target} another name.")
        with reported(target):
            paths = {p.relative_to(partial).as_posix(): p for p in sorted(partial.rglob("*")) if p.is_file()}
            files = {key: {"sha256": sha256(p), "bytes": p.stat().st_size} for key, p in paths.items()}
            write_json(partial / _MANIFEST, Manifest(**facts, files=files, seconds=time.perf_counter() - started).to_dict())
            _refuse_other(target, facts)
            replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_artifact(path: str | Path, *, verify: bool = True) -> Manifest:
    """The manifest of the artifact at `path`. `verify` reads every file that it lists and compares hashes; other files are ignored.

    Raises:
        CorruptArtifact: no manifest, one that is damaged or of a newer schema, or a file that is missing or differs.
    """
    path = Path(path)
    if not (path / _MANIFEST).is_file():
        raise CorruptArtifact(f"{path} has no manifest: unfinished or not an artifact; fix: check the path, or run the step that makes it.")
    try:
        manifest = Manifest.from_dict(read_json(path / _MANIFEST))
    except (CorruptArtifact, InvalidInput) as error:
        raise CorruptArtifact(f"{path}: {error}") from error
    for key, expected in manifest.files.items() if verify else ():
        if not (path / key).is_file():
            raise CorruptArtifact(f"{path}: file {key} is missing. {FIX}")
        if (found := sha256(path / key)) != expected["sha256"]:
            raise CorruptArtifact(f"{path}: file {key} differs: expected sha256 {expected['sha256']}, found {found}. {FIX}")
    return manifest


class Parts:
    """The resumable half of a long job: a directory of numbered tables, each there wholly or not at all. One writer at a time.

    Raises:
        ArtifactConflict: `path` belongs to another config, is a finished artifact, or is something else.
    """

    def __init__(self, path: str | Path, config: Any) -> None:
        self.path = Path(path).resolve()
        facts = {"config": plain(config, "config"), "config_hash": config_hash(config)}
        _refuse_other(self.path, {"kind": "parts", **facts})
        if not (self.path / _PARTS).is_file():
            write_json(self.path / _PARTS, facts)
        for left in self.path.glob(".*.partial-*"):  # of a killed run
            left.unlink(missing_ok=True)

    def file(self, index: int) -> Path:
        """Where part `index` is or will be. Raises InvalidInput for a negative index."""
        if index < 0:
            raise InvalidInput(f"Parts are numbered from 0, found {index}.")
        return self.path / f"part-{index:05d}.parquet"

    def done(self) -> list[int]:
        """Indices of the parts that are there, in order. A part that was cut short (no parquet footer) is not."""
        matches = [_PART.fullmatch(p.name) for p in self.path.iterdir()]
        return sorted(int(m[1]) for m in matches if m and _has_footer(self.path / m[0]))

    def write(self, index: int, table: pd.DataFrame | pa.Table) -> None:
        """Add part `index`, in any order.

        Raises:
            ArtifactConflict: that part is already there.
            InvalidInput: a negative index.
            ArtifactWriteError: the disk is full or refuses the write.
        """
        if _has_footer(self.file(index)):
            raise ArtifactConflict(f"{self.file(index)} is already written. Fix: skip the indices in done().")
        write_table(self.file(index), table)

    def read(self) -> Iterator[pa.Table]:
        """The parts that are there, in order of their index.

        Raises:
            CorruptArtifact: a part whose inside is damaged.
        """
        return (read_arrow(self.file(index)) for index in self.done())


def code_version() -> dict[str, Any]:
    """Version, commit and dirty (uncommitted changes in the package); the last two None where it is not a git checkout."""
    # a wheel in a venv inside someone's repository must not report that repository's commit: is this very file tracked?
    commit = _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", Path(__file__).name) else None
    changes = _git("status", "--porcelain", "--", ".") if commit else None
    return {"version": _version("latentreason") or "0+unknown", "commit": commit, "dirty": None if changes is None else changes != ""}


def environment() -> dict[str, str]:
    """Python, platform, and versions of the packages that compute."""
    return {"python": platform.python_version(), "platform": platform.platform()} | {p: v for p in _PACKAGES if (v := _version(p))}


@cache
def _git(*arguments: str) -> str | None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}  # in a git hook they name another repository
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).resolve().parent), *arguments]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=5, env=environment, check=False)
    except (OSError, subprocess.SubprocessError):  # no git, or a dead network disk
        return None
    return run.stdout.strip() if run.returncode == 0 else None


@cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _refuse_other(target: Path, new: dict[str, Any]) -> None:
    """Raises ArtifactConflict unless `target` is free, or holds the same kind (or parts) and config as `new`."""
    entries = [p.name for p in target.iterdir()] if target.is_dir() else [target.name] if target.exists() else []
    if all(".partial-" in entry for entry in entries):  # empty, or what a kill left
        return
    record = next((target / entry for entry in (_MANIFEST, _PARTS) if entry in entries), None)
    old = read_json(record) if record else None
    if not (isinstance(old, dict) and "config_hash" in old and isinstance(old.get("config"), dict)):
        raise ArtifactConflict(f"{target} exists and is not an artifact. Fix: choose another path, or move it away.")
    kind = old.get("kind", new["kind"])  # Parts say no kind: the artifact that is made of them takes their place
    if (kind, old["config_hash"]) == (new["kind"], new["config_hash"]):
        return
    before, now = old["config"], new["config"]
    differ = ", ".join(sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))) or "kind"
    raise ArtifactConflict(
        f"{target} holds {kind} with config {old['config_hash']}; this run makes {new['kind']} with config {new['config_hash']}. "
        f"They differ in: {differ}. Fix: choose another path, or delete that directory."
    )


def _has_footer(path: Path) -> bool:
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return True


def sha256(path: Path) -> str:
    """Hash (hex) of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
