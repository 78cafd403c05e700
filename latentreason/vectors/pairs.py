"""Vectors from pairs of prompts, such as the packages steering-vectors and repeng take: the same text with and without something.

    pairs = [("I feel great. I say", "I feel awful. I say"), ...]      # (with, without)
    vectors = lr.contrast_prompts(lm, pairs, label="joy")

What is read is the activation at the last token of each prompt: the one that predicts the token after it. A pair of a model's own
traces says more about its strategies than a pair of prompts does; for those see `fit_vectors`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from latentreason.activations.capture import capture_prompts
from latentreason.errors import InvalidInput, unknown_name
from latentreason.vectors.contrast import METHODS, fit_label, halves_of, layer_sites, model_info
from latentreason.vectors.steering_vector import VectorSet

if TYPE_CHECKING:
    from latentreason.models.language_model import LM

Prompt = str | Sequence[int]


def contrast_prompts(
    lm: "LM", pairs: Sequence[tuple[Prompt, Prompt]], *, layers: str | int | Sequence[int] = "all", method: str = "diff_means",
    position: int = -1, label: str = "prompts", control: bool = True, seed: int = 0, backend: str = "hf", batch_tokens: int | None = None,
) -> VectorSet:  # fmt: skip
    """One steering vector a layer from pairs (prompt with, prompt without).

    Args:
        lm: the model whose activations are used.
        pairs: texts, which get the special tokens that the tokenizer adds by itself, or token ids, which get none.
        layers: one number or several of blocks, or "all".
        method: a key of `METHODS`. With "diff_means" the raw vector is the mean over pairs of with minus without.
        position: the token of each prompt that is read: from its first token (0, 1, ...) or from its last (-1, -2, ...).
        label: of the vectors.
        control: as for `fit_vectors`; the halves are of pairs.
        seed: of the halves and the control.
        backend: of `capture`.
        batch_tokens: tokens of a batch, padding included; changes memory and speed. None: 512 on a CPU, where prompts of one length
            in small batches are fastest, and 16,384 elsewhere.

    Raises:
        UnknownName: no such method.
        InvalidInput: no pairs, a prompt that is empty, too short for `position` or opens with two BOS; or both sides read the same.
        ContextTooLong: a prompt has more tokens than the model has positions.
    """
    if method not in METHODS:  # before the model runs
        raise unknown_name("method", method, METHODS)
    prompts = _token_ids(lm, pairs)
    if batch_tokens is None:
        batch_tokens = 512 if lm.device.type == "cpu" else 16_384
    values = capture_prompts(lm, prompts, layer_sites(lm, layers), position=position, backend=backend, batch_tokens=batch_tokens)
    number = np.arange(len(prompts))
    vectors, flat = fit_label(
        {site: read.numpy() for site, read in values.items()}, number % 2 == 0, number >= 0, label,
        method=method, first_half=halves_of(number // 2, seed) if control else None, seed=seed, groups=number // 2,
    )  # fmt: skip
    if flat:
        why = f"Both sides of the pairs read the same at {', '.join(flat)}."
        raise InvalidInput(f"{why} Give pairs whose texts differ, and a position at or after the first token that differs.")
    return VectorSet(tuple(vectors), {"method": method, "against": "pairs", "position": position, **model_info(lm)})


def _token_ids(lm: "LM", pairs: Sequence[tuple[Prompt, Prompt]]) -> list[np.ndarray]:
    """With, without, with, without, ..."""
    if not len(pairs) or any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise InvalidInput("Pairs are a list of (prompt with, prompt without), at least one; each prompt is a text or a list of token ids.")
    prompts = [prompt for pair in pairs for prompt in pair]
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    tokenised = iter(lm.tokenizer(texts)["input_ids"] if texts else [])
    ids = [np.asarray(next(tokenised) if isinstance(prompt, str) else prompt, dtype=np.int64) for prompt in prompts]
    bos = lm.tokenizer.bos_token_id
    if bos is not None and any((i[:2] == bos).sum() == 2 for i in ids):
        raise InvalidInput(
            "A prompt opens with two BOS: its text holds one (of a chat template?) and the tokenizer adds another. Pass token ids."
        )
    return ids
