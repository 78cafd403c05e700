"""The base model under many doses at once, and under watch: what a dose-and-response curve is measured with.

A dose works as `Hybrid(pair, always(), action=steer(...))` or `logit_bias(...)`: it is added at the last position only, and the caches
stay unsteered. `Doses` decodes many of them together: a step is one forward pass to extend the caches and one for all doses, and no RL
model runs, which is several times as fast as `Arms` (a pass a dose, and the RL model). Knows no strategies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentreason.activations.editing import BACKENDS
from latentreason.activations.hf import Change
from latentreason.activations.sites import Site
from latentreason.models.cache import seen
from latentreason.models.decoding import Batch, Decoded, Moment, PrefixDecoder, decode, sampled
from latentreason.models.inference import inference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from latentreason.models.language_model import LM


@dataclass(frozen=True, eq=False)
class Dose:
    """What is added at every position: a raw vector at a site, or `bias` nats to the logit of a token, or nothing."""

    name: str
    site: Site | None = None
    vector: Float[Tensor, "d_model"] | None = None
    token: int = 0
    bias: float = 0.0


@dataclass(frozen=True, eq=False)
class Doses:
    """A model under several doses; `sample(Doses(lm, doses), problems)` gives one table with an arm for each."""

    lm: "LM"
    doses: Sequence[Dose]

    @property
    def arms(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(dose.name for dose in self.doses)

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The model's."""
        return self.lm.tokenizer

    @property
    def lms(self) -> "tuple[LM, ...]":
        """The model."""
        return (self.lm,)

    def decode(self, batch: Batch) -> Decoded:
        """Rows of the batch for the first dose, then for the second, and so on. Doses share no prefix, so a slot has one dose."""
        n, size = len(self.doses), len(batch.problem)
        problem = torch.cat([batch.problem + i * len(batch.prompts) for i in range(n)])
        vectors = {dose.site: torch.zeros(n, self.lm.d_model) for dose in self.doses if dose.site is not None}
        biases = torch.zeros(n, self.lm.n_vocab, device=self.lm.device)
        for i, dose in enumerate(self.doses):
            biases[i, dose.token] = dose.bias
            if dose.site is not None and dose.vector is not None:
                vectors[dose.site][i] = dose.vector

        def choose(moment: Moment) -> dict[str, Tensor]:
            of_slot = torch.zeros(len(moment.logits[0]), dtype=torch.long, device=moment.row.device)  # a slot that nobody points at: any dose
            of_slot[moment.slot] = moment.row // size
            changes = [(site, _adding(table[of_slot])) for site, table in vectors.items()]
            logits = read_again(moment.decoder, changes) if changes else moment.logits[0]
            return {"token_ids": sampled(logits + biases[of_slot], moment)}

        return decode([self.lm], replace(batch, prompts=batch.prompts * n, problem=problem, keys=batch.keys.repeat(n)), choose)


@dataclass(frozen=True, eq=False)
class Watched:
    """A model that samples as it is, and records log-probabilities of some tokens at each step: columns `logprob:NAME`, in nats."""

    lm: "LM"
    tokens: dict[str, int]

    @property
    def arms(self) -> tuple[str, ...]:
        """The model's name."""
        return self.lm.arms

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The model's."""
        return self.lm.tokenizer

    @property
    def lms(self) -> "tuple[LM, ...]":
        """The model."""
        return (self.lm,)

    def decode(self, batch: Batch) -> Decoded:
        """Decode like the model."""

        def choose(moment: Moment) -> dict[str, Tensor]:
            logprobs = moment.logits[0].log_softmax(-1)
            watched = {f"logprob:{name}": logprobs[moment.slot, token] for name, token in self.tokens.items()}
            return {"token_ids": sampled(moment.logits[0], moment), **watched}

        return decode([self.lm], batch, choose)


@dataclass(frozen=True, eq=False)
class Points:
    """Prefixes that end at choice points, read once: what follows under any dose. `problem` is the index of each prefix's problem."""

    decoder: PrefixDecoder
    problem: Int[Tensor, "point"]

    @classmethod
    @inference()
    def of(cls, lm: "LM", prefixes: list[list[int]], problem: Int[Tensor, "point"]) -> "Points":
        """Read the prefixes."""
        return cls(PrefixDecoder([lm], prefixes), problem)

    def logits(self, site: Site | None = None, vector: Float[Tensor, "d_model"] | None = None) -> Float[Tensor, "point vocab"]:
        """Next-token logits with the vector added at the last position."""
        if site is None or vector is None:
            return self.decoder.logits[0]
        return read_again(self.decoder, [(site, _adding(vector[None]))])


@inference()
def read_again(decoder: PrefixDecoder, changes: Sequence[tuple[Site, Change]]) -> Float[Tensor, "slot vocab"]:
    """Logits of the last position of every slot once more, under changes; afterwards the caches are what they were.

    As `PrefixDecoder.again`, but no cache is copied: the last position is overwritten and put back.
    """
    reader = decoder.eager[0]
    lm, last = reader.lm, reader.length - 1
    kept = [(layer.keys[:, :, last].clone(), layer.values[:, :, last].clone()) for layer in reader.layers]
    for layer in reader.layers:
        layer.length = last
    try:
        with BACKENDS["hf"].edit(lm, changes):
            mask, places = seen(reader.length, reader.pad), (last - reader.pad)[:, None]
            result = lm.model(input_ids=reader.last[:, None], attention_mask=mask, position_ids=places, past_key_values=reader.cache, use_cache=True)
    finally:
        for layer, (keys, values) in zip(reader.layers, kept, strict=True):
            layer.length = last + 1
            layer.keys[:, :, last], layer.values[:, :, last] = keys, values
    logits: Tensor = result.logits[:, -1, : decoder.n_vocab].float()
    return logits


def logprob(logits: Float[Tensor, "point vocab"], token: int) -> Float[Tensor, "point"]:
    """Log-probability of one token, in nats."""
    return logits.log_softmax(-1)[:, token]


def logodds(logits: Float[Tensor, "point vocab"], token: int) -> Float[Tensor, "point"]:
    """log(p / (1 - p)) of one token: a bias of b nats on its logit adds b."""
    others = torch.cat([logits[:, :token], logits[:, token + 1 :]], dim=1)
    return logits[:, token] - others.logsumexp(-1)


def _adding(rows: Float[Tensor, "row d_model"]) -> Change:
    """A change that adds a vector to each row of the batch."""

    def change(hidden: Tensor, places: Any) -> Tensor:
        return hidden + rows[:, None].to(hidden.device, hidden.dtype)

    return change
