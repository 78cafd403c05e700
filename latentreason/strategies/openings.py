"""Timing positions of natural text: where the token to come opens a sentence, and so may open a strategy.

On text nobody knows from the prefix alone what the next token is for. A position is timing when the token that the base or the RL model would put
there opens a sentence: it holds the first character after the start of the completion, after a line break, or after . ! ? and white space.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from latentreason.strategies.rules import sentences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TAIL = 8
"""Tokens before a position that decide whether a sentence has ended there."""

Opens = Callable[[Int[Tensor, "row t"], Int[Tensor, "row"]], Bool[Tensor, "row"]]


def opens_sentence(tokenizer: "PreTrainedTokenizerBase") -> Opens:
    """A function of (completions so far, token to come) that says which tokens open a sentence.

    >>> from transformers import AutoTokenizer  # doctest: +SKIP
    >>> opens_sentence(tokenizer)(ids_of("6 + 7 = 13."), ids_of(" Then"))  # doctest: +SKIP
    tensor([True])
    """
    special = frozenset(tokenizer.all_special_ids)

    @lru_cache(1 << 16)
    def opens(tail: tuple[int, ...], token: int) -> bool:
        if token in special:
            return False
        before, whole = str(tokenizer.decode([*tail])), str(tokenizer.decode([*tail, token]))
        return any(start >= len(before) for start, _ in sentences(whole))

    def mask(tokens: Tensor, token: Tensor) -> Tensor:
        tails = tokens[:, -TAIL:].tolist() if tokens.shape[1] else [[]] * len(token)
        return torch.tensor([opens(tuple(tail), t) for tail, t in zip(tails, token.tolist(), strict=True)], dtype=torch.bool, device=token.device)

    return mask
