"""Hybrid: the base model decodes, a Router says WHEN, an Action says WHAT. With a trace of who said which token.

`Arms` decodes several hybrids of one pair in one go: under shared noise they have most of their prefixes in common, so a
whole sweep of thresholds costs little more than one arm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentreason.errors import InvalidInput
from latentreason.hybrid.actions import BASE, Action, swap
from latentreason.models.decoding import Batch, Decoded, Moment, decode, sampled
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.routing.base_only import entropy
from latentreason.routing.oracle import js
from latentreason.routing.router import Router, Score, Step

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Hybrid:
    """The base model with some tokens replaced.

    Attributes:
        pair: the two models.
        router: WHEN.
        action: WHAT, by default the RL model's token.
        name: of the arm in tables; by default the router's, with its budget where it was calibrated.

    Raises:
        InvalidInput: a router that is not a Router, such as a function that was not called.
    """

    pair: ModelPair
    router: Router
    action: Action = swap()
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.router, Router):
            raise InvalidInput(f"A Hybrid needs a Router, found {self.router!r}. Call the function that makes it, as in on_entropy().")

    @property
    def arms(self) -> tuple[str, ...]:
        """One arm."""
        calibration = self.router.params.get("calibration")
        return (self.name or (f"{self.router.name}@{calibration['budget']:.2f}" if calibration else self.router.name),)

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The pair's."""
        return self.pair.base.tokenizer

    @property
    def lms(self) -> tuple[LM, ...]:
        """The models that decode."""
        return (self.pair.base, self.pair.rl)

    @property
    def info(self) -> dict[str, dict[str, Any]]:
        """Facts that the table carries."""
        return {self.arms[0]: {"router": self.router.spec(), "action": self.action.spec(), "pair": self.pair.name, "weights": [self.pair.base.fingerprint, self.pair.rl.fingerprint]}}

    def decode(self, batch: Batch) -> Decoded:
        """Decode like an LM."""
        return Arms((self,)).decode(batch)


@dataclass(frozen=True)
class Arms:
    """Several hybrids of one pair, decoded together. `sample(Arms(hybrids), problems)` gives one table with all arms.

    Attributes:
        hybrids: the arms.
        watched: routers with a score, to be recorded at every token of every arm: columns `score:0`, `score:1` and so on.
    """

    hybrids: Sequence[Hybrid]
    watched: Sequence[Router] = ()

    def __post_init__(self) -> None:
        if not self.hybrids or any(h.pair is not self.hybrids[0].pair for h in self.hybrids):
            raise InvalidInput("Arms needs at least one hybrid, all of the same ModelPair object.")
        if len(set(self.arms)) < len(self.arms):
            raise InvalidInput(f"Arms have equal names {sorted(self.arms)}; give each Hybrid a name.")

    @property
    def arms(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(h.arms[0] for h in self.hybrids)

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The pair's."""
        return self.hybrids[0].tokenizer

    @property
    def lms(self) -> tuple[LM, ...]:
        """The models that decode."""
        return self.hybrids[0].lms

    @property
    def info(self) -> dict[str, dict[str, Any]]:
        """Facts of all arms."""
        return {name: facts for h in self.hybrids for name, facts in h.info.items()}

    def decode(self, batch: Batch) -> Decoded:
        """Rows of the batch for the first arm, then for the second, and so on."""
        n, size = len(self.hybrids), len(batch.problem)
        pair = self.hybrids[0].pair
        wide = replace(batch, problem=batch.problem.repeat(n), keys=batch.keys.repeat(n))
        return decode([pair.base, pair.rl], wide, lambda moment: self._choose(moment, wide.keys, size), self._sites())

    def _sites(self) -> list[tuple[int, int]]:
        """(model, layer) of each place that a router or an action reads.

        Raises:
            InvalidInput: a layer that the model does not have.
        """
        pair, found = self.hybrids[0].pair, set()
        for place in {p for r in [*(h.router.reads | h.action.reads for h in self.hybrids), *(w.reads for w in self.watched)] for p in r if ":" in p}:
            model, layer = place.split(":")
            lm = {"base": pair.base, "rl": pair.rl}[model]
            if int(layer) >= lm.n_layers:
                raise InvalidInput(f"A router or action reads {place!r}, but {lm.name!r} has {lm.n_layers} blocks. Was it fitted on another model?")
            found.add((("base", "rl").index(model), int(layer)))
        return sorted(found)

    def _choose(self, moment: Moment, keys: Tensor, size: int) -> dict[str, Tensor]:
        """One step of all arms. What depends on the prefix alone is computed by slot, then read by row."""
        base_logits, rl_logits = moment.logits
        n_slots = len(base_logits)
        resid = {f"{('base', 'rl')[model]}:{layer}": hidden for (model, layer), hidden in moment.decoder.resid.items()}
        prefix = Step(moment.t, base_logits, rl_logits, None, None, moment.prefix.new_zeros(n_slots, 0), keys.new_zeros(n_slots), resid)
        base_token, rl_token = sampled(base_logits, moment), sampled(rl_logits, moment)
        scores: dict[Score, Tensor] = {}
        routed = torch.zeros_like(base_token, dtype=torch.bool)
        token, source = base_token.clone(), torch.full_like(base_token, BASE, dtype=torch.uint8)
        bounds = torch.searchsorted(moment.row, torch.arange(len(self.hybrids) + 1, device=moment.row.device) * size).tolist()
        for hybrid, start, end in zip(self.hybrids, bounds, bounds[1:], strict=False):
            if start == end:
                continue
            router, rows = hybrid.router, slice(start, end)
            slot = moment.slot[rows]
            if router.score is not None:
                if router.score not in scores:
                    scores[router.score] = router.score(prefix)
                mask = scores[router.score][slot] > router.params["threshold"]
            else:
                reads_rl, reads_tokens = "rl" in router.reads, "sampled" in router.reads
                mask = router.decide(Step(
                    moment.t, base_logits[slot], rl_logits[slot] if reads_rl else None, base_token[rows] if reads_tokens else None,
                    rl_token[rows] if reads_tokens else None, moment.prefix[rows], keys[moment.row[rows]], {p: resid[p][slot] for p in router.reads if ":" in p},
                ))  # fmt: skip
            routed[rows] = mask
            where = mask.nonzero()[:, 0] + start
            if len(where):
                token[where] = rl_token[where] if hybrid.action.name == "swap" else hybrid.action.tokens(moment.rows(where))
                source[where] = hybrid.action.source
        watched = {f"score:{i}": (scores[r.score] if r.score in scores else r.score(prefix))[moment.slot] for i, r in enumerate(self.watched) if r.score is not None}
        js_, entropy_ = scores[js] if js in scores else js(prefix), entropy(prefix)
        return {
            "token_ids": token, "base_token_ids": base_token, "source": source, "routed": routed, "changed": token != base_token,
            "disagree": base_token != rl_token, "base_logprob": prefix.base_logprobs[moment.slot, token],
            "rl_logprob": prefix.rl_logprobs[moment.slot, token], "base_entropy": entropy_[moment.slot], "divergence": js_[moment.slot], **watched,
        }  # fmt: skip
