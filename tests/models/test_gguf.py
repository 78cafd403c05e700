"""GGUF files: read as what their blocks say, usable and savable like any model, and one that is cut short is named."""

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from transformers import LlamaConfig, LlamaForCausalLM

from latentreason.errors import CorruptArtifact, InvalidInput, MissingDependency
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair

VOCABULARY, HEADS, LAYERS, WIDTH = 40, 4, 2, 32
Q4 = gguf.GGMLQuantizationType.Q4_1
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """What llama.cpp calls a weight of a Llama."""
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}[name]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, LlamaForCausalLM]:
    """A GGUF file with matrices in Q4_1, and the model that its blocks stand for by gguf's own arithmetic."""
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=2,
                         max_position_embeddings=64, initializer_range=0.3, bos_token_id=0, eos_token_id=1, pad_token_id=1, tie_word_embeddings=False, rope_theta=10_000.0)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", *(chr(ord("A") + i) for i in range(VOCABULARY - 3)), "AB"])
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (VOCABULARY - 2))
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = weight.numpy()
            if weight.ndim == 2:
                weight.copy_(torch.from_numpy(dequantize(quantize(values, Q4), Q4)))
                heads = HEADS if "q_proj" in name else 2
                if "q_proj" in name or "k_proj" in name:  # llama.cpp keeps the two halves of a rotary head interleaved
                    values = values.reshape(heads, 2, values.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
                writer.add_tensor(gguf_name(name), quantize(values, Q4), raw_dtype=Q4)
            else:
                writer.add_tensor(gguf_name(name), values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file, model


IDS = torch.tensor([[0, 5, 9, 39, 12]])


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model(IDS).logits


def test_a_gguf_file_gives_the_model_that_its_blocks_stand_for(made):
    file, truth = made
    for lm in (LM.from_pretrained(file), LM.from_pretrained(file.parent, gguf_file="tiny.gguf")):
        torch.testing.assert_close(logits(lm.model), logits(truth), atol=1e-5, rtol=0)
        assert lm.model.dtype == torch.float32 and lm.n_vocab == lm.n_rows == VOCABULARY
        assert lm.tokenizer("ABC")["input_ids"] == [39, 4]


def test_a_gguf_model_can_be_saved_and_comes_back_to_the_bit(made, tmp_path):
    lm = LM.from_pretrained(made[0])
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    again = LM.from_pretrained(tmp_path)
    assert torch.equal(logits(again.model), logits(lm.model)) and again.fingerprint == lm.fingerprint
    assert not hasattr(again.model.config, "quantization_config")
    pair = ModelPair.from_pretrained(made[0].parent, tmp_path, gguf_file=("tiny.gguf", None), verbose=False)
    assert pair.name == f"{made[0].parent.name}-{tmp_path.name}" and pair.base.fingerprint == pair.rl.fingerprint


@pytest.mark.parametrize("share", [0.5, 0.01])  # within the weights, within the header
def test_a_gguf_file_cut_short_is_named(made, tmp_path, share):
    whole = made[0].read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CorruptArtifact, match=r"cut\.gguf' are cut short or damaged \(.*\): fetch or copy them again"):
        LM.from_pretrained(tmp_path / "cut.gguf")


def test_a_gguf_file_that_is_not_there_is_asked_for(made):
    with pytest.raises(InvalidInput, match="No model at"):
        LM.from_pretrained(made[0].parent, gguf_file="other.gguf")


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_without_the_packages_that_gguf_needs_the_extra_is_named(made, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"A GGUF file needs the package {package}\. Install it: pip install 'latentreason\[gguf\]'"):
        LM.from_pretrained(made[0])
