"""Ends of the scale, matched controls, and the two routers that know a task's vocabulary (never a headline)."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentreason.errors import InvalidInput
from latentreason.routing.router import Router, Step, by_threshold
from latentreason.strategies.grammar import timing_positions
from latentreason.strategies.language import Language

if TYPE_CHECKING:
    from latentreason.tables import Rollouts

_RANDOM_SALT = 0x5DEECE66D
_MASK_53 = (1 << 53) - 1


def never() -> Router:
    """The base model, token for token."""
    return Router("never")


def always() -> Router:
    """The RL model, token for token; the fraction that it changes is D."""
    return Router("always", {}, frozenset({"base"}), lambda step: torch.ones(len(step.keys), dtype=torch.bool, device=step.keys.device))


def first_token() -> Router:
    """Only the first token of the completion."""
    return Router("first_token", {}, frozenset({"vocabulary"}), lambda step: torch.full((len(step.keys),), step.t == 0, device=step.keys.device))


def at_strategy(language: Language | None = None) -> Router:
    """Where the next token chooses a strategy.

    Args:
        language: of the task, from `strategies.language`; None for `chain`, whose grammar knows it from the prefix alone. On text it is where
            the base or the RL model's token (same noise) opens a sentence.
    """
    if language is None or language.exact:
        return Router("at_strategy", {}, frozenset({"vocabulary"}), lambda step: timing_positions(step.tokens))

    def decide(step: Step) -> Tensor:
        assert step.base_token is not None and step.rl_token is not None  # "sampled" is declared
        return language.timing(step.tokens, step.base_token, step.rl_token)

    return Router("at_strategy", {}, frozenset({"base", "rl", "sampled", "vocabulary"}), decide)


def opposite(router: Router) -> Router:
    """Route the other way round: where a router's score is lowest first. A control for the order that the score gives.

    The score turned round is 1 / score, beyond 1e6 for scores below 0; -score for a router whose thresholds are searched on a linear scale.

    Raises:
        InvalidInput: the router has no score.
    """
    score = router.score
    if score is None:
        raise InvalidInput(f"Router {router.name!r} has no score to turn round; use ~router for the places that it leaves out.")
    low, high = router.search
    turned, search = (_inverse, (0.01, 1e8)) if low > 0 else (torch.neg, (-high, -low))
    return by_threshold(f"opposite({router.name})", lambda step: turned(score(step)), 1.0 if low > 0 else -(low + high) / 2, router.reads, search, opposite=router.spec())


def _inverse(score: Tensor) -> Tensor:
    """Falls as the score rises, for negative scores, too."""
    return 1 / score.clamp_min(1e-6) + 1e6 * (-score).clamp_min(0.0)


def matched_random(hybrid: "Rollouts | Router", *, seed: int = 0) -> Router:
    """Route as often as the calibrated router, stratum by stratum of position, at random places.

    Args:
        hybrid: rollouts of a hybrid whose router was `calibrated`, or that router.
        seed: of the choice of places.

    Raises:
        InvalidInput: the router was not calibrated, so there is no rate measured off the test split.
    """
    name, calibration = _calibration(hybrid)
    return random_places("matched_random", calibration["edges"], calibration["routed_rate"], seed=seed, of=name, budget=calibration["budget"])


def matched_disagreement(hybrid: "Rollouts | Router", *, seed: int = 0) -> Router:
    """Change as many tokens as the calibrated router, stratum by stratum, at random places where the models' tokens differ.

    It asks whether WHICH disagreements are swapped matters. At 1.0 D it is the RL model. Arguments as `matched_random`.
    """
    name, calibration = _calibration(hybrid)
    return random_places("matched_disagreement", calibration["edges"], calibration["swap_rate"], seed=seed, disagreements=True, of=name, budget=calibration["budget"])


def matched_position(hybrid: "Rollouts | Router", *, seed: int = 0) -> Router:
    """Route at random, but at each exact position of the completion as often as the calibrated router: all that a clock without a model can know.

    `matched_random` has one rate for each of a few strata (the first token, then fifths), so it spreads its places evenly within one. Here
    every position has a rate of its own: where the router always routes the seventh token and never the eighth, so does this control. What the router
    recovers beyond it is not in the position. Like `matched_random` it matches the routed rate, looks at no model, and routes where the two models'
    tokens agree as well; so it may change fewer tokens than the router, or more, and has a place of its own on the x axis: compare areas.

    Raises:
        InvalidInput: as `matched_random`; or the calibration is older than this control and has no rates by position.
    """
    name, calibration = _calibration(hybrid)
    if "routed_at" not in calibration:
        raise InvalidInput(f"The calibration of {name!r} has no rates by position: calibrate the router again.")
    runs = [(position, rate) for rate, group in groupby(enumerate([*calibration["routed_at"], 0.0]), key=lambda at: at[1]) for position, _ in [next(group)]]
    edges, rates = zip(*runs, strict=True)
    return random_places("matched_position", edges, rates, seed=seed, of=name, budget=calibration["budget"])


def random_places(name: str, edges: Sequence[int], rates: Sequence[float], *, seed: int = 0, disagreements: bool = False, **facts: Any) -> Router:
    """Route at random with a rate for each stratum of position; `edges[i]` is the first position of stratum i.

    Strata go by the position in the completion, the first token alone in the first: the final length is not known while
    decoding. `facts` are kept in the router's params.
    """
    if len(edges) != len(rates) or not all(0 <= r <= 1 for r in rates) or [*edges] != sorted({0, *edges}):
        raise InvalidInput("Give one rate in [0, 1] for each stratum, and edges that rise from 0.")

    def decide(step: Step) -> Tensor:
        mask = uniform(step.keys, step.t, seed) < rates[bisect_right(edges, step.t) - 1]
        return mask & (step.base_token != step.rl_token) if disagreements else mask

    reads = frozenset({"base", "rl", "sampled"}) if disagreements else frozenset({"base"})
    return Router(name, {"edges": list(edges), "rates": list(rates), "seed": seed, **facts}, reads, decide)


def uniform(keys: Tensor, t: int, seed: int) -> Tensor:
    """Uniform numbers in [0, 1) as a function of row, position and seed; independent of the sampling noise."""
    z = keys ^ (_RANDOM_SALT * (seed + 1) & 0x7FFFFFFFFFFFFFFF)
    for constant in (t + 1, 0x2545F491):
        z = (z + constant * 0x9E3779B1) * -4658895280553007687
        z = z ^ ((z >> 29) & 0x7FFFFFFFF)
    return (z & _MASK_53).double() / float(1 << 53)


def _calibration(hybrid: "Rollouts | Router") -> tuple[str, Mapping[str, Any]]:
    routers = [hybrid.spec()] if isinstance(hybrid, Router) else [facts["router"] for facts in hybrid.info.values() if "router" in facts]
    if len(routers) != 1 or "calibration" not in routers[0]["params"]:
        raise InvalidInput("A matched control needs rates that were measured off the test split: make the router with `calibrated(router, pair, problems)` first, and pass rollouts of one arm.")
    calibration: Mapping[str, Any] = routers[0]["params"]["calibration"]
    return routers[0]["name"], calibration
