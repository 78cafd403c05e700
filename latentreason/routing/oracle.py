"""Routers that read both models at every token: an upper bound on what timing can give, not a cheap method."""

from torch import Tensor
from torch.nn import functional as F

from latentreason.errors import unknown_name
from latentreason.routing.base_only import entropy
from latentreason.routing.router import Router, Score, Step, by_threshold


def kl(step: Step) -> Tensor:
    """KL(RL || base) of the next-token distributions at temperature 1, in nats."""
    return F.kl_div(step.base_logprobs, step.rl_logprobs, reduction="none", log_target=True).sum(-1)


def js(step: Step) -> Tensor:
    """Jensen-Shannon divergence, in nats (at most log 2)."""
    middle = (step.base_logprobs.exp() + step.rl_logprobs.exp()).div(2).clamp_min(1e-30).log()
    halves = [F.kl_div(middle, p, reduction="none", log_target=True).sum(-1) for p in (step.base_logprobs, step.rl_logprobs)]
    return (halves[0] + halves[1]) / 2


def tv(step: Step) -> Tensor:
    """Total variation distance: 1 minus the chance that a token drafted by the base is accepted for the RL model."""
    return (step.base_logprobs.exp() - step.rl_logprobs.exp()).abs().sum(-1) / 2


def entropy_drop(step: Step) -> Tensor:
    """By how many nats the RL model is surer of its next token than the base model, at temperature 1."""
    drop: Tensor = entropy(step) - (-(step.rl_logprobs.exp() * step.rl_logprobs).sum(-1))
    return drop


def likelihood_gain(step: Step) -> Tensor:
    """Log-probability of the RL model's likeliest token under RL minus under base, in nats."""
    best, token = step.rl_logprobs.max(-1)
    gain: Tensor = best - step.base_logprobs.gather(1, token[:, None])[:, 0]
    return gain


DIVERGENCES: dict[str, Score] = {"kl": kl, "js": js, "tv": tv}


def on_divergence(measure: str = "js", threshold: float = 0.05) -> Router:
    """Route where the two models' next-token distributions differ by more than a threshold.

    Args:
        measure: "kl" (RL || base) or "js" in nats, or "tv".
        threshold: in the measure's unit; `calibrated` chooses it for a budget of changed tokens.
    """
    if measure not in DIVERGENCES:
        raise unknown_name("divergence", measure, DIVERGENCES)
    return by_threshold(f"on_divergence({measure})", DIVERGENCES[measure], threshold, frozenset({"base", "rl"}), measure=measure)


def on_entropy_drop(threshold: float = 0.1) -> Router:
    """Route where RL made the choice surer: base entropy minus RL entropy above a threshold, in nats."""
    return by_threshold("on_entropy_drop", entropy_drop, threshold, frozenset({"base", "rl"}))


def on_likelihood_gain(threshold: float = 0.5) -> Router:
    """Route where the RL model's likeliest token gained more than a threshold, in nats."""
    return by_threshold("on_likelihood_gain", likelihood_gain, threshold, frozenset({"base", "rl"}))


def _differ(step: Step) -> Tensor:
    assert step.base_token is not None
    assert step.rl_token is not None
    return step.base_token.ne(step.rl_token)


def on_disagreement() -> Router:
    """Route where the two models' tokens differ under the shared noise (greedy: where their top tokens differ).

    With `swap` this IS the RL model, by identity: the end of every recovery curve and never a result.
    """
    return Router("on_disagreement", {}, frozenset({"base", "rl", "sampled"}), _differ)
