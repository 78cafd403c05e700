"""What was fitted on activations belongs to the weights that gave them: vectors, categories and probes of another model are refused."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from latentreason.errors import InvalidInput

if TYPE_CHECKING:
    from latentreason.hybrid.actions import Action
    from latentreason.models.pair import ModelPair
    from latentreason.routing.router import Router


def check_origin(what: "Action | Router", pair: "ModelPair") -> None:
    """See that all that an action or a router was fitted on are weights of this pair. What does not say its origin passes.

    Raises:
        InvalidInput: vectors of neither model; a category or a probe of other weights than those of the model that it reads.
    """
    for part, place, weights, free in _fitted(what.params):
        lms = [lm for name, lm in (("base", pair.base), ("rl", pair.rl)) if place in ("", name)]
        if weights not in {lm.fingerprint for lm in lms}:
            names = " nor of ".join(repr(lm.name) for lm in lms)
            raise InvalidInput(f"The {part} of {what.name!r} {'were' if part == 'vectors' else 'was'} fitted on the weights {weights}, which are {'neither ' if len(lms) > 1 else 'not '}those of {names} here "
                               f"(another dtype counts as other weights). Fit on a model of this pair; to try another model's on purpose, drop the origin: dataclasses.replace({free}).")  # fmt: skip


def _fitted(params: Any) -> Iterator[tuple[str, str, str, str]]:
    """(what, which model or "" for either, fingerprint, how to drop it) of all that the parameters name, those of routers within routers too."""
    if not isinstance(params, Mapping):
        return
    if isinstance(vectors := params.get("vectors"), Mapping) and vectors.get("weights"):
        yield "vectors", "", vectors["weights"], "vectors, info={}"
    if params.get("category_fitted_on"):
        yield "category", params["category"].split(":")[0], params["category_fitted_on"], 'category, fitted_on=""'
    for name in ("probe", "value", "cost"):
        if isinstance(card := params.get(name), Mapping):
            said = card.get("fitted_on") or {}
            if not isinstance(said, Mapping):  # of one model: that which all places are of
                said = {place.split(":")[0]: said for place in card.get("places", [])}
            for model, weights in said.items():
                yield f"probe {card.get('label', name)!r}", model, weights, "probe, info={}"
    for value in params.values():
        yield from _fitted(value)
