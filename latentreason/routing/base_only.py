"""Routers that read the base model alone: can the timing be read off the model before RL?"""

from torch import Tensor

from latentreason.routing.router import Router, Step, by_threshold


def entropy(step: Step) -> Tensor:
    """Entropy of the base model's next-token distribution at temperature 1, in nats."""
    return -(step.base_logprobs.exp() * step.base_logprobs).sum(-1)


def on_entropy(threshold: float = 0.5) -> Router:
    """Route where the base model is uncertain: entropy above a threshold in nats. Never runs the RL model to decide."""
    return by_threshold("on_entropy", entropy, threshold, frozenset({"base"}))


def margin(step: Step) -> Tensor:
    """1 minus the gap between the base model's two likeliest tokens, in probability: 1 where they tie."""
    top: Tensor = step.base_logprobs.topk(2).values.exp()
    return 1 - (top[:, 0] - top[:, 1])


def on_margin(threshold: float = 0.5) -> Router:
    """Route where the base model's two likeliest tokens are close: 1 minus their gap above a threshold (0 to 1)."""
    return by_threshold("on_margin", margin, threshold, frozenset({"base"}))
