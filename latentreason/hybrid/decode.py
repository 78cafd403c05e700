"""Hybrid: the base model decodes, a Router says WHEN, an Action says WHAT. With a trace of who said which token.

`Arms` decodes several hybrids of one pair in one go: under shared noise they have most of their prefixes in common, so a
whole sweep of thresholds costs little more than one arm.

The tokens do not depend on the mode, which says how the RL model runs: "lockstep" reads every token when it is emitted, "lazy" reads when
a router asks, "speculative" reads blocks that the base model drafted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentreason.errors import InvalidInput, unknown_name
from latentreason.hybrid.actions import BASE, Action, steered, swap
from latentreason.hybrid.origin import check_origin
from latentreason.hybrid.speculative import speculate
from latentreason.models.decoding import Batch, Decoded, Moment, decode, sampled
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.routing.base_only import entropy
from latentreason.routing.oracle import js
from latentreason.routing.router import Router, Score, Step

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODES: dict[str, Callable[[str], bool]] = {
    "lockstep": lambda read: False,
    "lazy": lambda read: read in ("rl", "sampled") or read.startswith("rl:"),
    "speculative": lambda read: read == "again" or ":" in read,
}
"""How the RL model runs -> whether a router or an action that reads this is ruled out (swaps and the like may read "rl" anywhere)."""

WHY = {
    "lazy": "They need the RL model at every token: use mode='lockstep', or 'speculative'.",
    "speculative": "The base model has read ahead by then: use mode='lockstep'.",
}


@dataclass(frozen=True)
class Hybrid:
    """The base model with some tokens replaced.

    Attributes:
        pair: the two models.
        router: WHEN.
        action: WHAT, by default the RL model's token.
        name: of the arm in tables; by default the router's with its budget where it was calibrated, of a matched control also whose control it is.
        mode: "lockstep"; "lazy", for routers that read the base model alone (then `rl_logprob` and `divergence` are NaN where the RL model
            was not asked, and there is no `disagree`); or "speculative", for few rows at a time and routers that read logits and tokens.
        tempering: what the sampling's temperature is multiplied by, for the base model's tokens and for the action's; the noise is the same, and
            greedy stays greedy. What the base would have said (`base_token_ids`, `changed`) is at its own temperature, log-probabilities are at 1.

    Raises:
        InvalidInput: a router that is not a Router, such as a function that was not called; a mode that the router or the action rules out; vectors that were
            fitted on a model of another pair; or a tempering that is not above 0, or in the mode speculative.
    """

    pair: ModelPair
    router: Router
    action: Action = swap()
    name: str = ""
    mode: str = "lockstep"
    tempering: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if not isinstance(self.router, Router):
            raise InvalidInput(f"A Hybrid needs a Router, found {self.router!r}. Call the function that makes it, as in on_entropy().")
        if self.mode not in MODES:
            raise unknown_name("mode", self.mode, MODES)
        if barred := sorted(read for read in self.router.reads | (self.action.reads - {"rl"}) if MODES[self.mode](read)):
            raise InvalidInput(f"Hybrid(mode={self.mode!r}) cannot run {self.router.name!r} with {self.action.name!r}, which read {', '.join(map(repr, barred))}. {WHY[self.mode]}")
        for what in (self.action, self.router):
            check_origin(what, self.pair)
        if not all(0.0 < factor < float("inf") for factor in self.tempering):
            raise InvalidInput(f"tempering={self.tempering} must be two factors above 0, for the base's tokens and the action's: (1, 1) leaves the temperature as it is.")
        if self.mode == "speculative" and self.tempering != (1.0, 1.0):
            raise InvalidInput("A hybrid with tempering runs in mode='lockstep' or 'lazy': a speculative draft is drawn at one temperature.")

    @property
    def arms(self) -> tuple[str, ...]:
        """One arm."""
        params, called = self.router.params, self.router.name
        if "of" in params:  # a matched control is one of many: each router at each budget has its own
            called = f"{called}({params['of']})"
        budget = params.get("calibration", params).get("budget")
        return (self.name or (called if budget is None else f"{called}@{budget:.2f}"),)

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
        facts: dict[str, Any] = {"router": self.router.spec(), "action": self.action.spec(), "pair": self.pair.name, "weights": [self.pair.base.fingerprint, self.pair.rl.fingerprint]}
        facts |= {} if self.tempering == (1.0, 1.0) else {"tempering": list(self.tempering)}
        return {self.arms[0]: facts if self.mode == "lockstep" else {**facts, "mode": self.mode}}

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
        if len({h.mode for h in self.hybrids}) > 1:
            raise InvalidInput("Arms are decoded together, so all must have one mode; give each mode an Arms of its own.")

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
        lms, mode = [pair.base, pair.rl], self.hybrids[0].mode

        def choose(moment: Moment) -> dict[str, Tensor]:
            return self._choose(moment, wide.keys, size)

        return speculate(lms, wide, choose) if mode == "speculative" else decode(lms, wide, choose, self._sites(), lazy=(1,) if mode == "lazy" else ())

    def _sites(self) -> list[tuple[int, int]]:
        """(model, layer) of each place that a router or an action reads.

        Raises:
            InvalidInput: a model that is not in the pair, or a layer that it does not have.
        """
        pair, found = self.hybrids[0].pair, set()
        for place in {p for r in [*(h.router.reads | h.action.reads for h in self.hybrids), *(w.reads for w in self.watched)] for p in r if ":" in p}:
            model, layer = place.split(":")
            if model not in ("base", "rl"):
                raise InvalidInput(f"A router or action reads {place!r}, but a pair has the models 'base' and 'rl' alone.")
            lm = {"base": pair.base, "rl": pair.rl}[model]
            if int(layer) >= lm.n_layers:
                raise InvalidInput(f"A router or action reads {place!r}, but {lm.name!r} has {lm.n_layers} blocks. Was it fitted on another model?")
            found.add((("base", "rl").index(model), int(layer)))
        return sorted(found)

    def _choose(self, moment: Moment, keys: Tensor, size: int) -> dict[str, Tensor]:
        """One step of all arms. What depends on the prefix alone is computed by slot, then read by row."""
        base_logits, rl_logits = moment.logits[0], moment.logits[1] if len(moment.logits) > 1 else None
        bounds = torch.searchsorted(moment.row, torch.arange(len(self.hybrids) + 1, device=moment.row.device) * size).tolist()
        arms = [(hybrid, slice(start, end)) for hybrid, start, end in zip(self.hybrids, bounds, bounds[1:], strict=False) if start < end]
        base_token, rl_token = _drawn(0, base_logits, moment, arms), None if rl_logits is None else _drawn(1, rl_logits, moment, arms)
        resid = {f"{('base', 'rl')[model]}:{layer}": hidden for (model, layer), hidden in moment.decoder.resid.items()}
        prefix, scores = _by_slot(moment, base_logits, rl_logits, resid), dict[Score, Tensor]()
        routed = torch.zeros_like(base_token, dtype=torch.bool)
        token, source, asking = base_token.clone(), torch.full_like(base_token, BASE, dtype=torch.uint8), routed.clone()
        for hybrid, rows in arms:
            router, slot = hybrid.router, moment.slot[rows]
            if router.score is not None:
                if router.score not in scores:
                    scores[router.score] = router.score(prefix)
                routed[rows] = scores[router.score][slot] > router.params["threshold"]
            else:
                sees_tokens = "sampled" in router.reads
                routed[rows] = router.decide(Step(
                    moment.t, base_logits[slot], rl_logits[slot] if rl_logits is not None and "rl" in router.reads else None, base_token[rows] if sees_tokens else None,
                    rl_token[rows] if rl_token is not None and sees_tokens else None, moment.prefix[rows], keys[moment.row[rows]], {p: resid[p][slot] for p in router.reads if ":" in p},
                ))  # fmt: skip
            if "rl" in hybrid.action.reads:
                asking[rows] = routed[rows]
        asked: Tensor | None = None
        if rl_logits is None:
            rl_logits, asked = _ask(moment, asking)
            moment = replace(moment, logits=[base_logits, rl_logits])
        adding = list[tuple[Tensor, Action, Moment]]()
        for hybrid, rows in arms:
            where, action = routed[rows].nonzero()[:, 0] + rows.start, hybrid.action
            if len(where) and action.adds is not None:
                adding.append((where, action, moment.rows(where).tempered(hybrid.tempering[1])))
            elif len(where):
                token[where] = rl_token[where] if action.name == "swap" and rl_token is not None else action.tokens(moment.rows(where).tempered(hybrid.tempering[1]))
            source[where] = action.source
        if adding:
            for (where, *_), found in zip(adding, steered([(action, at) for _, action, at in adding]), strict=True):
                token[where] = found
        record = {
            "token_ids": token, "base_token_ids": base_token, "source": source, "routed": routed, "changed": token != base_token,
            "base_logprob": prefix.base_logprobs[moment.slot, token], "base_entropy": (scores[entropy] if entropy in scores else entropy(prefix))[moment.slot],
        }  # fmt: skip
        if rl_token is not None:
            divergence = scores[js] if js in scores else js(prefix)
            record |= {f"score:{i}": (scores[r.score] if r.score in scores else r.score(prefix))[moment.slot] for i, r in enumerate(self.watched) if r.score is not None}
            return {**record, "disagree": base_token != rl_token, "rl_logprob": prefix.rl_logprobs[moment.slot, token], "divergence": divergence[moment.slot]}
        rl_logprob, divergence = rl_logits.new_full(token.shape, torch.nan), rl_logits.new_full((len(base_logits),), torch.nan)
        if asked is not None:
            some = _by_slot(moment, base_logits[asked], rl_logits[asked], {})
            divergence[asked] = js(some)
            row, place = (moment.slot[:, None] == asked).nonzero(as_tuple=True)
            rl_logprob[row] = some.rl_logprobs[place, token[row]]
        return {**record, "rl_logprob": rl_logprob, "divergence": divergence[moment.slot]}


def _drawn(model: int, logits: Tensor, moment: Moment, arms: list[tuple[Hybrid, slice]]) -> Tensor:
    """The token of each row by one of the two models, at the temperature of its arm."""
    token = sampled(logits, moment)
    for hybrid, rows in arms:
        if hybrid.tempering[model] != 1.0:
            token[rows] = sampled(logits, moment.rows(torch.arange(rows.start, rows.stop, device=token.device)).tempered(hybrid.tempering[model]))
    return token


def _by_slot(moment: Moment, base_logits: Tensor, rl_logits: Tensor | None, resid: dict[str, Tensor]) -> Step:
    """What scores see: slots, without what belongs to a row."""
    nothing = moment.prefix.new_zeros(len(base_logits), 0)
    return Step(moment.t, base_logits, rl_logits, None, None, nothing, nothing.sum(1), resid)


def _ask(moment: Moment, asking: Tensor) -> tuple[Tensor, Tensor | None]:
    """The RL model's logits by slot, NaN where it was not asked; and the slots where it was."""
    logits = torch.full_like(moment.logits[0], torch.nan)
    if not asking.any():
        return logits, None
    found, asked, _ = moment.decoder.lazy[1].ask(moment.slot[asking])
    logits[asked] = found[:, 0]
    return logits, asked
