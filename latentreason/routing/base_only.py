"""Routers that read the base model alone: can the timing be read off the model before RL?"""

from torch import Tensor

from latentreason.routing.router import Router, Step, by_threshold


def entropy(step: Step) -> Tensor:
    """Entropy of the base model's next-token distribution at temperature 1, in nats."""
    return -(step.base_logprobs.exp() * step.base_logprobs).sum(-1)


def on_entropy(threshold: float = 0.5) -> Router:
    """Route where the base model is uncertain: entropy above a threshold in nats. Never runs the RL model to decide."""
    return by_threshold("on_entropy", entropy, threshold, frozenset({"base"}))
