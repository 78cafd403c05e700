"""Router: WHEN the base model's token is replaced. A frozen value with one function from a Step to a mask.

A router sees only the Step. It knows no task, no text and no strategy (`at_strategy` and `first_token`, see `controls.py`, and
`on_opening` are the exceptions). A new router is one function that returns a Router::

    def on_margin(threshold: float) -> Router:
        def decide(step: Step) -> Tensor:
            top = step.base_logits.topk(2).values
            return top[:, 0] - top[:, 1] < threshold
        return Router("on_margin", {"threshold": threshold}, frozenset({"base"}), decide)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentreason.errors import InvalidInput


@dataclass(frozen=True)
class Step:
    """What a router sees at one step, for the whole batch.

    Attributes:
        t: index of the token to come, from 0 at the first token of the completion.
        base_logits: of the base model over the common vocabulary.
        rl_logits: of the RL model; None unless the router reads "rl".
        base_token, rl_token: what each model would emit here (same noise); None unless the router reads "sampled".
        tokens: the completions so far.
        keys: 64-bit key of each row, for routers that draw random numbers of their own.
        resid: residual stream that predicts the token to come, by place: "base:2" is the output of block 2 of the base model. Only the
            places that the router reads.
    """

    t: int
    base_logits: Float[Tensor, "batch vocab"]
    rl_logits: Float[Tensor, "batch vocab"] | None
    base_token: Int[Tensor, "batch"] | None
    rl_token: Int[Tensor, "batch"] | None
    tokens: Int[Tensor, "batch t"]
    keys: Int[Tensor, "batch"]
    resid: Mapping[str, Float[Tensor, "batch d_model"]] = field(default_factory=dict)

    @cached_property
    def base_logprobs(self) -> Float[Tensor, "batch vocab"]:
        """Log-probabilities of the base model, in nats."""
        return self.base_logits.log_softmax(-1)

    @cached_property
    def rl_logprobs(self) -> Float[Tensor, "batch vocab"]:
        """Log-probabilities of the RL model, in nats."""
        if self.rl_logits is None:
            raise InvalidInput("The RL model was not run here: a router that reads the RL model must say so, with reads={'base', 'rl'}.")
        return self.rl_logits.log_softmax(-1)


Decide = Callable[[Step], Bool[Tensor, "batch"]]
Score = Callable[[Step], Float[Tensor, "batch"]]


def _nowhere(step: Step) -> Tensor:
    return torch.zeros(len(step.keys), dtype=torch.bool, device=step.keys.device)


@dataclass(frozen=True)
class Router:
    """When to route.

    Attributes:
        name: of the function that made it.
        params: its arguments; part of the configuration of a run.
        reads: "base", "rl" (logits), "base:2", "rl:2" (residual stream after that block), "sampled" (tokens drawn at this step),
            "vocabulary" (the task's tokens).
        decide: Step -> mask of the rows to route.
        score: Step -> number that depends on the logits alone (so it is computed once a distinct prefix); the router
            routes where it exceeds `params["threshold"]`. None for routers without a threshold.
        search: where `calibrated` looks for a threshold, in the unit of the score: on a logarithmic scale where it is positive.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    reads: frozenset[str] = frozenset({"base"})
    decide: Decide = field(default=_nowhere, compare=False, repr=False)
    score: Score | None = field(default=None, compare=False, repr=False)
    search: tuple[float, float] = (1e-4, 20.0)

    def __and__(self, other: "Router") -> "Router":
        return self._combined(other, "&", torch.logical_and)

    def __or__(self, other: "Router") -> "Router":
        return self._combined(other, "|", torch.logical_or)

    def __invert__(self) -> "Router":
        return Router(f"~{self.name}", {"not": self.spec()}, self.reads, lambda step: ~self.decide(step))

    def _combined(self, other: "Router", sign: str, combine: Callable[[Tensor, Tensor], Tensor]) -> "Router":
        params = {"left": self.spec(), "right": other.spec()}
        return Router(f"({self.name} {sign} {other.name})", params, self.reads | other.reads, lambda step: combine(self.decide(step), other.decide(step)))

    def spec(self) -> dict[str, Any]:
        """Name, parameters and what it reads, as plain data."""
        return {"name": self.name, "params": dict(self.params), "reads": sorted(self.reads)}


def by_threshold(name: str, score: Score, threshold: float, reads: frozenset[str], search: tuple[float, float] = (1e-4, 20.0), **params: Any) -> Router:
    """A router that routes where a score exceeds a threshold; arguments as the attributes of Router.

    Raises:
        InvalidInput: a threshold that is not a number.
    """
    if threshold != threshold:
        raise InvalidInput(f"The threshold of {name} is NaN; give a number, or let `calibrated` choose it.")
    return Router(name, {**params, "threshold": threshold}, reads, lambda step: score(step) > threshold, score, search)


def read_at(step_resid: Mapping[Any, Tensor], place: Any, width: int, what: str) -> Tensor:
    """The residual stream at a place, for weights that were fitted on it.

    Raises:
        InvalidInput: it is of another width.
    """
    resid = step_resid[place]
    if resid.shape[-1] != width:
        raise InvalidInput(f"{what} was fitted on activations of width {width}, and those at {place!r} have {resid.shape[-1]}. Was it fitted on another model?")
    return resid


def with_threshold(router: Router, threshold: float) -> Router:
    """The same router with another threshold."""
    if router.score is None:
        raise InvalidInput(f"Router {router.name!r} has no threshold to choose; calibrate it as it is, or use a router with a score, such as on_divergence or on_entropy.")
    others = {k: v for k, v in router.params.items() if k not in ("threshold", "calibration")}  # rates of another threshold
    return by_threshold(router.name, router.score, threshold, router.reads, router.search, **others)
