"""Shared fixtures: tiny random models of three families, made at first use; and an environment without network or display.

A session fixture is shared by all tests: read it, never change it. Example::

    def test_batch_equals_single(tiny_model): ...            # runs three times: Llama, Qwen2, GPT-2
    def test_two_models_differ(make_tiny): make_tiny("llama", seed=1)
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# before anything imports torch, transformers or matplotlib; child processes of tests inherit it
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", WANDB_MODE="disabled")
os.environ.update(MPLBACKEND="Agg", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: a second thread only waits
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FAMILIES = ("llama", "qwen2", "gpt2")  # rotary, rotary with biases, absolute positions
VOCABULARY, D_MODEL, N_LAYERS, CONTEXT = 64, 32, 3, 128
PAD, BOS, EOS = 0, 1, 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with most slow tests first: of two processes, neither is left alone with a long file at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@cache
def _make_tiny(family: str, seed: int) -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

    # 0.2, not 0.02: at this width the default gives all but uniform logits, whose argmax hangs on rounding
    common = {
        "vocab_size": VOCABULARY, "initializer_range": 0.2, "tie_word_embeddings": False, "attn_implementation": "eager",
        "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
    }  # fmt: skip
    if family == "gpt2":
        config = GPT2Config(n_embd=D_MODEL, n_layer=N_LAYERS, n_head=4, n_positions=CONTEXT, **common)
    else:
        config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[family](
            hidden_size=D_MODEL, intermediate_size=2 * D_MODEL, num_hidden_layers=N_LAYERS, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=CONTEXT, **common,
        )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        if family == "qwen2":  # its biases start at zero, where a bias that is lost would not show
            for name, parameter in model.named_parameters():
                if name.endswith(".bias"):
                    torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False)


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., "PreTrainedModel"]:
    """make_tiny(family, seed=0): a random model of vocabulary 64, d_model 32, 3 layers, in fp32 and eval mode."""
    return lambda family, seed=0: _make_tiny(family, seed)


@pytest.fixture(scope="session")
def tiny_llama(make_tiny: Callable[..., "PreTrainedModel"]) -> "PreTrainedModel":
    return make_tiny("llama")


@pytest.fixture(scope="session")
def tiny_qwen2(make_tiny: Callable[..., "PreTrainedModel"]) -> "PreTrainedModel":
    return make_tiny("qwen2")


@pytest.fixture(scope="session")
def tiny_gpt2(make_tiny: Callable[..., "PreTrainedModel"]) -> "PreTrainedModel":
    return make_tiny("gpt2")


@pytest.fixture(scope="session", params=FAMILIES)
def tiny_model(request: pytest.FixtureRequest, make_tiny: Callable[..., "PreTrainedModel"]) -> "PreTrainedModel":
    """Each of the three families in turn."""
    return make_tiny(request.param)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> "PreTrainedTokenizerBase":
    """The words <pad> <bos> <eos> w3 ... w63, split at spaces; adds no BOS of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", *(f"w{i}" for i in range(3, VOCABULARY))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


@pytest.fixture(scope="session")
def byte_tokenizer() -> "PreTrainedTokenizerBase":
    """Reads any text, a token a byte; 257 tokens, <eos> is 0; no BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    plain = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", pad_token="<eos>")


@pytest.fixture(scope="session")
def save_byte_llamas(byte_tokenizer: "PreTrainedTokenizerBase") -> Callable[[Path, Sequence[str]], None]:
    """Writes random Llamas that read bytes, each a little further from the first, to the folders of these names."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                         max_position_embeddings=512, eos_token_id=0, pad_token_id=0, initializer_range=0.3)  # fmt: skip

    def save(root: Path, names: Sequence[str]) -> None:
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for name in names:
            model.save_pretrained(root / name)
            byte_tokenizer.save_pretrained(root / name)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(0.05 * torch.randn_like(weight))

    return save


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Our own refusal of a wrong type or shape, as outside tests, where jaxtyping does not stand before it."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _no_figure_stays_open() -> Iterator[None]:
    """Pyplot keeps every figure until it is closed, and warns of more than twenty."""
    yield
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close("all")
