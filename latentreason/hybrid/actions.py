"""Actions: WHAT happens at a routed token. An action is a function from a routed Moment to the tokens to emit there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentreason.activations.hf import edit
from latentreason.activations.places import width
from latentreason.activations.sites import Site, checked
from latentreason.errors import InvalidInput
from latentreason.models.decoding import Moment, PrefixDecoder, sampled

if TYPE_CHECKING:
    from latentreason.models.language_model import LM
    from latentreason.vectors.steering_vector import VectorSet

BASE, RL, STEERED = 0, 1, 2
"""Codes of the column `source`."""

TOGETHER = 64
"""Rows that are read again in one forward pass at most: their keys and values are copied for it."""

Added = Mapping[Site, Float[Tensor, "row width"]]


@dataclass(frozen=True)
class Action:
    """What is emitted at routed rows.

    Attributes:
        name, params: for tables and manifests.
        source: code that marks its tokens in the table.
        reads: "rl" (the RL model's logits), "again" (`moment.decoder.again`), and places of the residual stream such as "rl:2".
        tokens: (moment of the routed rows) -> token of each. `moment.logits` are [base, RL].
        adds: in place of `tokens`: what is added to the base model's activations at the last position of each row, a function of its prefix alone. The rows
            of all arms that add are read again together.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    source: int = RL
    reads: frozenset[str] = frozenset({"rl"})
    tokens: Callable[[Moment], Int[Tensor, "row"]] = field(default=lambda moment: sampled(moment.logits[1], moment), compare=False, repr=False)
    adds: Callable[[Moment], Added] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.adds is not None:  # asked by itself, it reads its own rows again
            object.__setattr__(self, "tokens", lambda moment: steered([(self, moment)])[0])

    def spec(self) -> dict[str, Any]:
        """Name and parameters as plain data."""
        return {"name": self.name, "params": dict(self.params)}


def swap() -> Action:
    """Emit the RL model's token, drawn with the same noise."""
    return Action("swap")


def rerank(k: int = 5) -> Action:
    """Emit the RL model's favourite (with the same noise) among the base model's k likeliest tokens: information without steering.

    Raises:
        InvalidInput: k below 1.
    """
    if k < 1:
        raise InvalidInput(f"rerank needs at least one candidate, got k={k}.")

    def tokens(moment: Moment) -> Tensor:
        base, rl = moment.logits
        kept = base.topk(min(k, base.shape[1])).indices
        return sampled(torch.full_like(rl, -torch.inf).scatter(1, kept, rl.gather(1, kept)), moment)

    return Action("rerank", {"k": k}, tokens=tokens)


def logit_delta(strength: float = 1.0) -> Action:
    """Emit from base + strength * (RL - base) logits; at 1 it is the RL model, above 1 it goes beyond (proxy tuning, arXiv 2401.08565; RAST, 2506.15710).

    Raises:
        InvalidInput: a strength that is not finite.
    """
    if not abs(strength) < float("inf"):
        raise InvalidInput(f"strength={strength} is not finite; 0 is the base model, 1 the RL model.")
    return Action("logit_delta", {"strength": strength}, tokens=lambda moment: sampled(moment.logits[0] + strength * (moment.logits[1] - moment.logits[0]), moment))


def steer(vectors: "VectorSet", *, label: str | None = None, strength: float = 1.0) -> Action:
    """Emit the base model's token with steering vectors added at the last position only; the cache stays unsteered.

    Args:
        vectors: one vector a layer is used at once, of the category `label`.
        label: which strategy; None where the set has one label, or to push along the mean of all.
        strength: in units of each vector's `scale`.
    """
    from latentreason.activations.editing import additions

    added = {change.site: change.tensor for change in additions(vectors.for_label(label), strength)}

    def adds(moment: Moment) -> Added:
        check_fit(moment.decoder.lms[0], added)
        return {site: vector.expand(len(moment.slot), -1) for site, vector in added.items()}

    return Action("steer", {"label": label, "strength": strength, "vectors": vectors.card()}, STEERED, frozenset({"again"}), adds=adds)


def steer_persistent(vectors: "VectorSet", *, label: str | None = None, strength: float = 1.0, window: int = 16) -> Action:
    """Emit the base model's token with steering vectors added to the last `window` tokens of the completion together: these are read again, each steered
    and seeing the steered ones before it. The cache stays unsteered, so the next token starts from the unsteered text again (the windows of the
    reference's first generation, but for the prompt, which is never steered).

    Args:
        vectors, label, strength: as `steer`.
        window: tokens; 1 is `steer`. Where the completion is shorter, all of it.

    Raises:
        InvalidInput: a window below 1.
    """
    from latentreason.activations.editing import additions, editing

    if window < 1:
        raise InvalidInput(f"window={window} steers nothing; 1 is the last position alone.")
    chosen = vectors.for_label(label)
    edits = additions(chosen, strength)

    def tokens(moment: Moment) -> Tensor:
        with editing(moment.decoder.lms[0], edits):
            logits, place = moment.decoder.again(0, moment.slot, tokens=moment.prefix[:, -window:] if moment.t else None)
        return sampled(logits, replace(moment, slot=place))

    return Action("steer_persistent", {"label": label, "strength": strength, "window": window, "vectors": vectors.card()}, STEERED, frozenset({"again"}), tokens)


def logit_bias(token_id: int, bias: float) -> Action:
    """Emit the base model's token with `bias` nats added to one token's logit: the plainest way to make a strategy likelier.

    Args:
        token_id: the token that opens the strategy.
        bias: in nats at temperature 1; added before the temperature and the nucleus.

    Raises:
        InvalidInput: a bias that is not finite, or (while decoding) a token that the models do not have.
    """
    if not abs(bias) < float("inf"):
        raise InvalidInput(f"bias={bias} is not finite; give nats, 1.0 multiplies the token's odds by e.")

    def tokens(moment: Moment) -> Tensor:
        logits = moment.logits[0]
        if not 0 <= token_id < logits.shape[1]:
            raise InvalidInput(f"There is no token {token_id} to bias: the models share tokens 0 to {logits.shape[1] - 1}.")
        biased = logits.clone()
        biased[:, token_id] += bias
        return sampled(biased, moment)

    return Action("logit_bias", {"token_id": token_id, "bias": bias}, STEERED, frozenset(), tokens)


def steered(asked: Sequence[tuple[Action, Moment]]) -> list[Int[Tensor, "row"]]:
    """The tokens of actions that add to activations, each at its own rows: however many actions there are, the base model reads them again together."""
    parts = []
    for action, moment in asked:
        slot, place = torch.unique(moment.slot, return_inverse=True)
        some = torch.empty_like(slot).index_copy_(0, place, torch.arange(len(place), device=place.device))  # a row of each slot, whichever
        assert action.adds is not None
        parts.append((slot, place, action.adds(moment.rows(some))))
    slots, sites = torch.cat([slot for slot, *_ in parts]), sorted({site for *_, added in parts for site in added})
    ends = torch.tensor([len(slot) for slot, *_ in parts]).cumsum(0).tolist()
    decoder = asked[0][1].decoder
    tables = {site: torch.zeros(len(slots), width(decoder.lms[0], site), device=decoder.lms[0].device) for site in sites}
    for (slot, _, added), end in zip(parts, ends, strict=True):
        for site, rows in added.items():
            tables[site][end - len(slot) : end] = rows
    logits = asked[0][1].logits[0].new_empty(len(slots), decoder.n_vocab)
    for i in range(0, len(slots), TOGETHER):
        logits[i : i + TOGETHER] = _read_again(decoder, slots[i : i + TOGETHER], {site: table[i : i + TOGETHER] for site, table in tables.items()})
    return [sampled(logits[end - len(slot) : end], replace(moment, slot=place)) for (_, moment), (slot, place, _), end in zip(asked, parts, ends, strict=True)]


def _read_again(decoder: PrefixDecoder, slot: Int[Tensor, "row"], added: Added) -> Float[Tensor, "row vocab"]:
    changes = [(site, lambda hidden, _, rows=rows: hidden + rows[:, None].to(hidden)) for site, rows in added.items()]
    with edit(decoder.lms[0], changes):
        return decoder.again(0, slot, each=True)[0]


def check_fit(lm: "LM", vectors: Mapping[Site, Float[Tensor, "*label width"]]) -> None:
    """Raises InvalidInput for vectors at a block that the model does not have, or of another width."""
    checked(list(vectors), lm.n_layers, lm.name)
    for site, found in vectors.items():
        if found.shape[-1] != (wide := width(lm, site)):
            raise InvalidInput(f"The vectors at {site} have width {found.shape[-1]}, {lm.name!r} has {'d_model' if site.kind != 'z' else 'n_heads * d_head ='} {wide}. Were they fitted on another model?")
