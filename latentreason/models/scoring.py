"""Log-probabilities that a model gives to a text that is there already, token by token. It knows token ids only."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from latentreason.errors import ContextTooLong, InvalidInput
from latentreason.models.inference import inference

if TYPE_CHECKING:
    from latentreason.models.language_model import LM


@inference()
def token_logprobs(lm: "LM", rows: Sequence[tuple[list[int], list[int]]], *, max_rows: int = 64) -> list[np.ndarray]:
    """Log-probability (nats, fp32, temperature 1) of each token of a continuation after its prompt.

    Args:
        lm: the model.
        rows: (token ids of the prompt, at least one; token ids of the continuation).
        max_rows: at once.

    Returns:
        For each row, one number a token of the continuation.

    Raises:
        InvalidInput: an empty prompt: nothing predicts the first token of a text.
        ContextTooLong: a row is longer than the model's context.
    """
    if not all(prompt for prompt, _ in rows):
        raise InvalidInput("A continuation is scored after a prompt of at least one token; take a BOS, or leave the first token out.")
    longest = max((len(prompt) + len(rest) for prompt, rest in rows), default=0)
    if lm.context is not None and longest > lm.context:
        raise ContextTooLong(f"A text of {longest} tokens exceeds the {lm.context} positions of {lm.name!r}. Shorten it.")
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    out: list[np.ndarray] = [np.empty(0)] * len(rows)
    for first in range(0, len(order), max_rows):
        some = order[first : first + max_rows]
        ids = pad_sequence([torch.tensor(rows[i][0] + rows[i][1]) for i in some], batch_first=True).to(lm.device)
        mask = torch.zeros_like(ids)
        for line, i in zip(mask, some, strict=True):
            line[: len(rows[i][0]) + len(rows[i][1])] = 1
        # right padding: causal attention never looks at it, and positions count from the first token
        logits = lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :, : lm.n_vocab]
        found = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].cpu().numpy()
        for line, i in zip(found, some, strict=True):
            begin = len(rows[i][0]) - 1
            out[i] = line[begin : begin + len(rows[i][1])].astype(np.float64)
    return out
