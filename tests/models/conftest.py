"""Tiny random models as LMs, and a decoder without any cache to compare with."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from latentreason.models.language_model import LM


@pytest.fixture(scope="session")
def make_lm(make_tiny, tiny_tokenizer) -> "Callable[..., LM]":
    """make_lm(family, seed=0, name="base"): a tiny random model with its tokenizer."""
    from latentreason.models.language_model import LM

    return lambda family, seed=0, name="base": LM(make_tiny(family, seed), tiny_tokenizer, name)


@pytest.fixture(scope="session", params=[("llama", 0), ("qwen2", 0), ("gpt2", 3)], ids=lambda param: param[0])
def lm(request, make_lm) -> "LM":
    """Each of the three families in turn, with seeds whose completions end at many different times."""
    return make_lm(*request.param)


@pytest.fixture(scope="session")
def brute_force() -> Callable[..., list[list[int]]]:
    """Completions of one prompt by a full forward a token: no cache, no padding, no slots, nothing shared between rows."""
    import torch

    from latentreason.models.decoding import Batch
    from latentreason.sampling.noise import gumbel

    @torch.inference_mode()
    def complete(lm: "LM", prompt: list[int], keys: list[int], batch: Batch) -> list[list[int]]:
        rows = [list(prompt) for _ in keys]
        open_rows = list(range(len(keys)))
        for position in range(len(prompt), len(prompt) + batch.max_new_tokens):
            logits = lm.model(input_ids=torch.tensor([rows[i] for i in open_rows]), use_cache=False).logits[:, -1]
            if batch.temperature:
                here = torch.full((len(open_rows),), position)
                logits = logits / batch.temperature + gumbel(torch.tensor([keys[i] for i in open_rows]), here, logits.shape[-1])
            for i, token in zip(open_rows, logits.argmax(-1).tolist(), strict=True):
                rows[i].append(token)
            open_rows = [i for i in open_rows if rows[i][-1] != lm.tokenizer.eos_token_id]
            if not open_rows:
                break
        return [row[len(prompt) :] for row in rows]

    return complete
