"""LM: a thin handle on one causal language model and its tokenizer. It knows nothing about pairs, routes or tables."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from latentreason.errors import CorruptArtifact, InvalidInput, NonFinite
from latentreason.models.decoding import Batch, Decoded, decode, sampled

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
    """

    model: "PreTrainedModel" = field(repr=False)
    tokenizer: "PreTrainedTokenizerBase" = field(repr=False)
    name: str
    revision: str | None = None
    n_vocab: int = 0

    def __post_init__(self) -> None:
        rows = self.model.get_output_embeddings().weight.shape[0]
        object.__setattr__(self, "n_vocab", self.n_vocab or min(rows, len(self.tokenizer)))

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, dtype: torch.dtype | str = "auto",
                        device_map: Any = None, name: str | None = None) -> "LM":  # fmt: skip
        """Load a hub id or a local directory.

        Raises:
            InvalidInput: the source is neither a directory nor a model that can be found.
            CorruptArtifact: a weight file is cut short.
            NonFinite: a weight is NaN or Inf.
        """
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = Path(source)
        if not path.exists() and "/" in str(source) and (len(path.parts) != 2 or path.parent.is_dir()):  # a hub id is one word, or OWNER/NAME
            raise InvalidInput(f"No model at {str(source)!r}: give a local directory with config.json, or a hub id. There is no such directory.")
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
            model = AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=dtype, device_map=device_map)
        except (OSError, ValueError) as error:  # ValueError: a directory without a tokenizer, or an unknown architecture
            raise InvalidInput(f"No model at {str(source)!r}: give a local directory with config.json, or a hub id that is cached. ({error})") from error
        except SafetensorError as error:
            raise CorruptArtifact(f"The weights at {str(source)!r} are cut short or damaged ({error}): fetch or copy them again.") from error
        lm = cls(model.eval(), tokenizer, name or str(source), revision)
        lm.check_finite()
        return lm

    def check_finite(self) -> None:
        """Raises NonFinite, naming the first weight with a NaN or Inf."""
        for name, weight in self.model.named_parameters():
            if not torch.isfinite(weight).all():
                raise NonFinite(f"Weight {name!r} of {self.name!r} holds NaN or Inf. Use a checkpoint from before the divergence, or a wider dtype.")

    @property
    def device(self) -> torch.device:
        """Where the embeddings live; inputs go there."""
        return torch.device(self.model.device)

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

    def decode(self, batch: Batch) -> Decoded:
        """Sample completions of a batch: this is all that `sample` asks of a model."""
        return decode([self], batch, lambda step: ({"token_ids": sampled(step.logits[0], step)}))

    @property
    def arms(self) -> tuple[str, ...]:
        """A model alone is one arm, under its own name."""
        return (self.name,)
