"""Scores of given text against one forward pass a row, on three families: padding changes nothing."""

import pytest
import torch

from latentreason.errors import ContextTooLong, InvalidInput
from latentreason.models.language_model import LM
from latentreason.models.scoring import token_logprobs


def test_a_padded_batch_equals_single_rows(tiny_model, tiny_tokenizer) -> None:
    lm = LM(tiny_model, tiny_tokenizer, "tiny")
    rows = [([1, 5], [7, 8, 9]), ([1], [4]), ([1, 6, 6, 6, 20], [30, 31]), ([3], [])]
    found = token_logprobs(lm, rows, max_rows=3)
    for (prompt, rest), numbers in zip(rows, found, strict=True):
        with torch.no_grad():
            logits = lm.model(torch.tensor([prompt + rest])).logits[0].double().log_softmax(-1)
        expected = [float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(rest)]
        assert numbers.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_text_without_a_prompt_or_beyond_the_context_is_refused(make_tiny, tiny_tokenizer) -> None:
    lm = LM(make_tiny("llama"), tiny_tokenizer, "tiny")
    with pytest.raises(InvalidInput, match="at least one token"):
        token_logprobs(lm, [([], [3])])
    with pytest.raises(ContextTooLong, match="200 tokens"):
        token_logprobs(lm, [([1], [3] * 199)])
