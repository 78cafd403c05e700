"""How large the models of a pair are, and what is at hand of them, without loading a weight and without a network.

Example::

    at_hand("Qwen/Qwen2.5-0.5B,Open-Reasoner-Zero/Open-Reasoner-Zero-0.5B")     # None unless both are cached
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from latentreason.errors import CorruptArtifact, InvalidInput
from latentreason.files import read_json
from latentreason.models.adapters import is_adapter
from latentreason.models.pair import found_dir, organism_dir
from latentreason.models.smollm2 import fetched


@dataclass(frozen=True)
class PairSize:
    """Facts of a pair's architecture, which both models have in common.

    Attributes:
        parameters: of the base model.
        n_layers, n_kv_heads, head_dim: of the key-value cache.
        vocabulary: rows of the logits, padding included.
        rl_parameters: of the RL model; None where it has as many as the base.
        shared: how many of the RL model's parameters are the base's own, in memory once (a LoRA adapter that is not merged).
        context: largest number of positions, where the config names one.
        prompt_tokens: length of the longest prompt to reckon with where tokenizer or problems are not at hand.
    """

    parameters: int
    n_layers: int
    n_kv_heads: int
    head_dim: int
    vocabulary: int
    rl_parameters: int | None = None
    shared: int = 0
    context: int | None = None
    prompt_tokens: int = 1024

    @property
    def rl(self) -> int:
        """Parameters of the RL model."""
        return self.parameters if self.rl_parameters is None else self.rl_parameters

    def cache_bytes(self, itemsize: int) -> int:
        """Bytes of one position of one row in the key-value cache of one model."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * itemsize


@dataclass(frozen=True)
class Source:
    """Where one model comes from: a directory, a hub id, or the name of a model to fetch (then it is not `here`)."""

    path: str
    revision: str | None
    here: bool

    @property
    def command(self) -> str:
        """What gets it."""
        revision = f" --revision {self.revision}" if self.revision not in (None, "main") else ""
        return f"hf download {self.path}{revision}" if "/" in self.path else f"latentreason models {self.path}"


def sources(pair: str, revisions: tuple[str, str] | None = None) -> tuple[Source, Source]:
    """Base and RL model (or adapter) of what a command line calls a pair.

    Raises:
        UnknownName: no such organism.
    """
    base, comma, rl = pair.partition(",")
    if comma:
        both = zip((base, rl), revisions or (None, None), strict=True)
        first, second = (Source(path, revision, Path(path).is_dir() or _cached(path, revision)) for path, revision in both)
        return first, second
    folder = found_dir(pair) or organism_dir(pair)
    if not (folder / "adapter").is_dir():
        owner = folder if (folder / "base").is_dir() else organism_dir(str(read_json(folder / "base.json")["organism"]))
        return Source(str(owner / "base"), None, True), Source(str(folder / "rl"), None, True)
    adapter, name = Source(str(folder / "adapter"), None, True), str(read_json(folder / "base.json")["base"])
    try:
        return Source(str(fetched(name)), None, True), adapter
    except (InvalidInput, CorruptArtifact):
        return Source(name, None, False), adapter


def at_hand(pair: str, revisions: tuple[str, str] | None = None) -> tuple[PairSize, torch.dtype] | None:
    """Size and dtype of a pair whose files are on this machine; None where one is not."""
    if "," not in pair and found_dir(pair) is None:
        return None
    base, rl = sources(pair, revisions)
    if not (base.here and rl.here):
        return None
    config = _config(base)
    first = _skeleton(config)
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    parameters = _count(first)
    adapter = is_adapter(rl.path)
    merged = "," not in pair  # those of organisms
    rl_parameters = parameters + (0 if merged else _stored(Path(rl.path))) if adapter else _count(_skeleton(_config(rl)))
    size = PairSize(parameters, text.num_hidden_layers, heads, width, first.get_output_embeddings().weight.shape[0], rl_parameters,
                    parameters if adapter and not merged else 0, getattr(text, "max_position_embeddings", None))  # fmt: skip
    return size, config.dtype or torch.float32


def tokenizer_of(source: Source) -> Any:
    """The tokenizer of a source that is here."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source.path, revision=source.revision, local_files_only=True)


def _config(source: Source) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(source.path, revision=source.revision, local_files_only=True)


def _skeleton(config: Any) -> Any:
    """The model without its weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _count(model: Any) -> int:
    """Parameters; those that are tied count once."""
    return sum(p.numel() for p in model.parameters())


def _stored(adapter: Path) -> int:
    """Parameters in an adapter's file, read off its header."""
    from safetensors import safe_open

    with safe_open(str(adapter / "adapter_model.safetensors"), framework="pt") as file:
        return sum(int(torch.Size(file.get_slice(name).get_shape()).numel()) for name in file.keys())  # noqa: SIM118 (no mapping)


def _cached(hub_id: str, revision: str | None) -> bool:
    """Whether config and weights of a hub id lie in the cache of the hub."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config, *weights = (isinstance(try_to_load_from_cache(hub_id, name, revision=revision), str) for name in ("config.json", "model.safetensors", "model.safetensors.index.json"))
    except HFValidationError:
        return False
    return config and any(weights)
