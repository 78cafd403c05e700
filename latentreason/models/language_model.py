"""LM: a thin handle on one causal language model and its tokenizer. It knows nothing about pairs, routes or tables."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from latentreason.errors import NonFinite
from latentreason.models.decoding import Batch, Decoded, decode, sampled
from latentreason.models.loading import adopted, check_generates, commit, load

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LM:
    """One language model.

    Attributes:
        model: a Hugging Face causal LM, in eval mode. Never changed by this package.
        tokenizer: its tokenizer. Never changed either (not even its padding side).
        name: what tables and messages call the model.
        revision: commit or hash of the weights, where known.
        n_vocab: number of real tokens; rows of the logits beyond it are padding and are cut off.
        shared: what writes the prompts in place of `tokenizer`: a `ModelPair` gives its RL model the base's, so that both see the same ones.
    """

    model: "PreTrainedModel" = field(repr=False)
    tokenizer: "PreTrainedTokenizerBase" = field(repr=False)
    name: str
    revision: str | None = None
    n_vocab: int = 0
    shared: "PreTrainedTokenizerBase | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_generates(self.model, self.name)
        real = 1 + max(self.tokenizer.get_vocab().values())  # not its length: ids may have gaps
        object.__setattr__(self, "n_vocab", self.n_vocab or min(self.n_rows, real))

    @classmethod
    def from_pretrained(cls, source: Any, *, revision: str | None = None, dtype: torch.dtype | str = "auto", device_map: Any = None,
                        gguf_file: str | None = None, trust_remote_code: bool = False, tokenizer: Any = None, name: str | None = None) -> "LM":  # fmt: skip
        """Load a hub id, a local directory or a GGUF file, or take a model that is loaded already.

        Args:
            source: the id or path; or a `PreTrainedModel`, which is never changed and needs its `tokenizer`.
            revision: branch, tag or commit of a hub id.
            dtype: "auto" is that of the checkpoint; of a GGUF file, float32.
            device_map: as in transformers; needs accelerate.
            gguf_file: name of a GGUF file in the source, which is unpacked (a path that ends in .gguf does without).
            trust_remote_code: run Python code that comes with the model. Never by default.
            tokenizer: in place of the source's own.
            name: what tables and messages call the model; by default the source.

        Raises:
            InvalidInput: nothing usable at the source; the message says why, and the fix.
            CorruptArtifact: a weight file is cut short.
            NonFinite: a weight is NaN or Inf.
            MissingDependency: GGUF or `device_map` without the packages that they need.
        """
        if isinstance(source, str | Path):
            model, tokenizer = load(source, revision=revision, dtype=dtype, device_map=device_map, gguf_file=gguf_file, trust_remote_code=trust_remote_code, tokenizer=tokenizer)
            name, revision = name or str(source), commit(source, revision) or revision
        else:
            model = adopted(source, tokenizer, dtype, device_map, gguf_file)
        lm = cls(model, tokenizer, name or model.name_or_path or type(model).__name__, getattr(model.config, "_commit_hash", None) or revision)
        lm.check_finite()
        return lm

    def check_finite(self) -> None:
        """Raises NonFinite, naming the first weight with a NaN or Inf. Weights that are offloaded are not read."""
        for name, weight in self.model.named_parameters():
            if not weight.is_meta and not torch.isfinite(weight).all():
                raise NonFinite(f"Weight {name!r} of {self.name!r} holds NaN or Inf. Use a checkpoint from before the divergence, or a wider dtype.")

    @property
    def device(self) -> torch.device:
        """Where the embeddings live; inputs go there."""
        return torch.device(self.model.device)

    @property
    def n_rows(self) -> int:
        """Rows of the logits: the real tokens, and what padding stands behind them."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def context(self) -> int | None:
        """Largest number of positions, None where the config names none."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def cache_bytes(self) -> int:
        """Bytes that one position of one row takes in the key-value cache."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * self.n_layers * heads * width * self.model.dtype.itemsize)

    @property
    def writer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer that writes its prompts: its own, but for the RL model of a pair."""
        return self.tokenizer if self.shared is None else self.shared

    @property
    def lms(self) -> "tuple[LM, ...]":
        """The models that decode: this one."""
        return (self,)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a completion."""
        ids = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = ids if isinstance(ids, list) else [ids]
        return frozenset(int(i) for i in [*ids, self.tokenizer.eos_token_id] if i is not None)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of a sample of every weight: tells two checkpoints apart without reading all of a large one."""
        digest = hashlib.sha256()
        for name, weight in self.model.state_dict().items():
            some = weight.detach().flatten()[:: max(1, weight.numel() // 256)]
            digest.update(name.encode() + some.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def info(self) -> dict[str, dict[str, Any]]:
        """Facts that the table carries."""
        return {self.name: {"weights": self.fingerprint, "revision": self.revision}}

    @property
    def summary(self) -> str:
        """Name, parameters, dtype and device."""
        weights = list(self.model.parameters())
        dtypes, devices = ("+".join(sorted({str(kind).removeprefix("torch.") for kind in kinds})) for kinds in ({w.dtype for w in weights}, {w.device for w in weights}))
        return f"{self.name} {shown(sum(w.numel() for w in weights))} parameters, {dtypes}, {devices}"

    def decode(self, batch: Batch) -> Decoded:
        """Sample completions of a batch: this is all that `sample` asks of a model."""
        return decode([self], batch, lambda step: ({"token_ids": sampled(step.logits[0], step)}))

    @property
    def arms(self) -> tuple[str, ...]:
        """A model alone is one arm, under its own name."""
        return (self.name,)


def shown(count: int) -> str:
    """A count of parameters as people write it.

    >>> shown(134515008), shown(1_234), shown(7_600_000_000)
    ('134.5M', '1.2K', '7.6B')
    """
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)
