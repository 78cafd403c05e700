"""Routers that read the base model alone: can the timing be read off the model before RL?"""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentreason.errors import InvalidInput
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


def on_opening(token_ids: Sequence[int], threshold: float = 0.0) -> Router:
    """Route where the base model itself expects a strategy to open: log-odds (nats) of the tokens that open one above a threshold. It reads the base alone, but is told
    the task's vocabulary, so it is no headline.

    Args:
        token_ids: the tokens, such as the values of `Language.tokens`.
        threshold: 0 is a probability of one half. Odds, since where a grammar leaves no other token, probabilities of all choices are next to 1.

    Raises:
        InvalidInput: no tokens; while decoding, one that the models do not have.
    """
    ids = sorted(set(map(int, token_ids)))
    if not ids:
        raise InvalidInput("on_opening needs the tokens that open strategies, and got none: this task has no token of its own for a strategy.")

    def score(step: Step) -> Tensor:
        if not 0 <= ids[0] <= ids[-1] < step.base_logits.shape[1]:
            raise InvalidInput(f"on_opening reads tokens {ids}, and the models share tokens 0 to {step.base_logits.shape[1] - 1}.")
        others = torch.ones(step.base_logits.shape[1], dtype=torch.bool, device=step.base_logits.device)
        others[ids] = False
        found: Tensor = step.base_logits[:, ids].logsumexp(-1) - step.base_logits[:, others].logsumexp(-1)
        return found

    return by_threshold("on_opening", score, threshold, frozenset({"base", "vocabulary"}), (-20.0, 20.0), token_ids=ids)
