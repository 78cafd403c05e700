"""Tiny random models as LMs and as a GGUF file, and a decoder without any cache to compare with."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from latentreason.models.language_model import LM

LLAMA_CPP = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


@pytest.fixture(scope="session")
def make_lm(make_tiny, tiny_tokenizer) -> "Callable[..., LM]":
    """make_lm(family, seed=0, name="base"): a tiny random model with its tokenizer."""
    from latentreason.models.language_model import LM

    return lambda family, seed=0, name="base": LM(make_tiny(family, seed), tiny_tokenizer, name)


@pytest.fixture(scope="session", params=[("llama", 0), ("qwen2", 0), ("gpt2", 3)], ids=lambda param: param[0])
def lm(request, make_lm) -> "LM":
    """Each of the three families in turn, with seeds whose completions end at many different times."""
    return make_lm(*request.param)


@pytest.fixture(scope="session")
def brute_force() -> Callable[..., list[list[int]]]:
    """Completions of one prompt by a full forward a token: no cache, no padding, no slots, nothing shared between rows."""
    import torch

    from latentreason.models.decoding import Batch
    from latentreason.sampling.noise import gumbel

    @torch.inference_mode()
    def complete(lm: "LM", prompt: list[int], keys: list[int], batch: Batch) -> list[list[int]]:
        rows = [list(prompt) for _ in keys]
        open_rows = list(range(len(keys)))
        for position in range(len(prompt), len(prompt) + batch.max_new_tokens):
            logits = lm.model(input_ids=torch.tensor([rows[i] for i in open_rows]), use_cache=False).logits[:, -1]
            if batch.temperature:
                here = torch.full((len(open_rows),), position)
                logits = logits / batch.temperature + gumbel(torch.tensor([keys[i] for i in open_rows]), here, logits.shape[-1])
            for i, token in zip(open_rows, logits.argmax(-1).tolist(), strict=True):
                rows[i].append(token)
            open_rows = [i for i in open_rows if rows[i][-1] != lm.tokenizer.eos_token_id]
            if not open_rows:
                break
        return [row[len(prompt) :] for row in rows]

    return complete


def gguf_name(name: str) -> str:
    """What llama.cpp calls a weight of a Llama."""
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        return f"blk.{layer}.{LLAMA_CPP[rest.removesuffix('.weight')]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}[name]


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> "tuple[Path, LlamaForCausalLM]":
    """A GGUF file with matrices in Q4_1, and the model that its blocks stand for by gguf's own arithmetic (vocabulary 40)."""
    import gguf
    import numpy as np
    import torch
    from gguf.quants import dequantize, quantize
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary, heads, layers, width, q4 = 40, 4, 2, 32, gguf.GGMLQuantizationType.Q4_1
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=2,
                         max_position_embeddings=64, initializer_range=0.3, bos_token_id=0, eos_token_id=1, pad_token_id=1, tie_word_embeddings=False, rope_theta=10_000.0)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", *(chr(ord("A") + i) for i in range(vocabulary - 3)), "AB"])
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (vocabulary - 2))
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = weight.numpy()
            if weight.ndim == 2:
                weight.copy_(torch.from_numpy(dequantize(quantize(values, q4), q4)))
                if "q_proj" in name or "k_proj" in name:  # llama.cpp keeps the two halves of a rotary head interleaved
                    values = values.reshape(-1, 2, width // heads // 2, width).swapaxes(1, 2).reshape(values.shape)
                writer.add_tensor(gguf_name(name), quantize(values, q4), raw_dtype=q4)
            else:
                writer.add_tensor(gguf_name(name), values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file, model
