"""Problem -> token ids."""

import pytest
from transformers import PreTrainedTokenizerFast

from latentreason.errors import InvalidInput
from latentreason.models.prompts import render
from latentreason.organisms.tokenizer import chain_tokenizer
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem


def test_one_bos_and_the_question_word_for_word():
    problem = chain.problem((4, 7, 1), ["rot", "mix"], "B")
    ids = render(problem, chain_tokenizer())
    assert [chain.VOCABULARY[i] for i in ids] == ["<bos>", "B", "4", "7", "1", ":", "a", "rot", "b", "mix", "="]


def test_a_tokenizer_that_adds_a_bos_itself_still_gives_one(tiny_tokenizer):
    from tokenizers.processors import TemplateProcessing

    inner = type(tiny_tokenizer._tokenizer).from_str(tiny_tokenizer._tokenizer.to_str())
    inner.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    adds = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    assert adds("w3 w4")["input_ids"] == [1, 3, 4]
    assert render(Problem("x", "w3 w4", "", "t"), adds) == [1, 3, 4]


def test_a_tokenizer_without_bos_gets_none(tiny_tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer._tokenizer, pad_token="<pad>", eos_token="<eos>")
    assert render(Problem("x", "w3 w4", "", "t"), bare) == [3, 4]


def test_a_question_with_a_bos_or_with_words_of_another_task_is_refused():
    with pytest.raises(InvalidInput, match="Problem x holds a BOS token in its question; remove it"):
        render(Problem("x", "<bos> 1 2 3", "", "chain"), chain_tokenizer())
    with pytest.raises(InvalidInput, match="Problem y of task 'gsm8k' has words that this model's tokenizer does not know"):
        render(Problem("y", "Anna has 3 apples", "", "gsm8k"), chain_tokenizer())
