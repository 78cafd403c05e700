"""Problem -> token ids. One prompt for both models of a pair, exactly one BOS."""

from functools import lru_cache
from typing import TYPE_CHECKING

from latentreason.errors import InvalidInput
from latentreason.tasks.problem import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(problem: Problem, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids of the prompt, with one BOS in front where the tokenizer has one.

    Raises:
        InvalidInput: the question itself holds a BOS, or a word that the tokenizer does not know.
    """
    ids: list[int] = tokenizer(problem.question, add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token_id is not None:
        if tokenizer.bos_token_id in ids:
            raise InvalidInput(f"Problem {problem.id} holds a BOS token in its question; remove it, one is added here.")
        ids = [tokenizer.bos_token_id, *ids]
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise InvalidInput(f"Problem {problem.id} of task {problem.task!r} has words that this model's tokenizer does not know: is it the right task for the model?")
    return ids


@lru_cache(8)
def tokens_with(tokenizer: "PreTrainedTokenizerBase", text: str) -> frozenset[int]:
    """The tokens whose text holds `text`: those that end a completion where it is to stop there."""
    words = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return frozenset(i for i, word in enumerate(words) if text in word)
