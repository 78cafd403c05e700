"""GGUF files: read as what their blocks say, usable and savable like any model, and one that is cut short is named."""

import sys

import pytest
import torch

from latentreason.errors import CorruptArtifact, InvalidInput, MissingDependency
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair

IDS = torch.tensor([[0, 5, 9, 39, 12]])


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model(IDS).logits


def test_a_gguf_file_gives_the_model_that_its_blocks_stand_for(tiny_gguf):
    file, truth = tiny_gguf
    for lm in (LM.from_pretrained(file), LM.from_pretrained(file.parent, gguf_file="tiny.gguf")):
        torch.testing.assert_close(logits(lm.model), logits(truth), atol=1e-5, rtol=0)
        assert lm.model.dtype == torch.float32 and lm.n_vocab == lm.n_rows == 40
        assert lm.tokenizer("ABC")["input_ids"] == [39, 4]


def test_a_gguf_model_can_be_saved_and_comes_back_to_the_bit(tiny_gguf, tmp_path):
    lm = LM.from_pretrained(tiny_gguf[0])
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    again = LM.from_pretrained(tmp_path)
    assert torch.equal(logits(again.model), logits(lm.model)) and again.fingerprint == lm.fingerprint
    assert not hasattr(again.model.config, "quantization_config")
    pair = ModelPair.from_pretrained(tiny_gguf[0].parent, tmp_path, gguf_file=("tiny.gguf", None), verbose=False)
    assert pair.name == f"{tiny_gguf[0].parent.name}-{tmp_path.name}" and pair.base.fingerprint == pair.rl.fingerprint


@pytest.mark.parametrize("share", [0.5, 0.01])  # within the weights, within the header
def test_a_gguf_file_cut_short_is_named(tiny_gguf, tmp_path, share):
    whole = tiny_gguf[0].read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CorruptArtifact, match=r"cut\.gguf' are cut short or damaged \(.*\): fetch or copy them again"):
        LM.from_pretrained(tmp_path / "cut.gguf")


def test_a_gguf_file_that_is_not_there_is_asked_for(tiny_gguf):
    with pytest.raises(InvalidInput, match="No model at"):
        LM.from_pretrained(tiny_gguf[0].parent, gguf_file="other.gguf")


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_without_the_packages_that_gguf_needs_the_extra_is_named(tiny_gguf, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"A GGUF file needs the package {package}\. Install it: pip install 'latentreason\[gguf\]'"):
        LM.from_pretrained(tiny_gguf[0])
