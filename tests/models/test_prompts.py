"""Problem -> token ids."""

import pytest
from transformers import PreTrainedTokenizerFast

from latentreason.errors import InvalidInput
from latentreason.models.prompts import Prompt, in_thought, render, reply
from latentreason.organisms.tokenizer import chain_tokenizer
from latentreason.tasks import chain
from latentreason.tasks.grading import grade
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import TASKS


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


def byte_tokenizer(template=None):
    """A tokenizer that reads bytes, so that any text comes back as it was."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={"<eos>": 0, **{letter: i + 1 for i, letter in enumerate(letters)}}, merges=[]))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", pad_token="<eos>", chat_template=template)


SUM = Problem("x", "What is {1} + 1?", "2", "math500", {"grader": "math"})


def test_published_prompts_are_what_was_published():
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{{ '<|im_start|>assistant\n' }}"
    asked = {
        "qwen-boxed": (Prompt("boxed", True, "You are a helpful assistant."), (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is {1} + 1?\n"
            "Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n<|im_start|>assistant\n")),
        "abel": (Prompt("abel"), "Question:\nWhat is {1} + 1?\nAnswer:\nLet's think step by step.\n"),
        "qa": (Prompt("qa"), "Answer the following question:\nQ: What is {1} + 1?\nA:"),
    }  # fmt: skip
    tokenizer = byte_tokenizer(chatml)
    for prompt, text in asked.values():
        assert tokenizer.decode(render(SUM, tokenizer, prompt)) == text


def test_the_prompt_of_orz_opens_the_thought_that_a_completion_must_close():
    tokenizer, prompt = byte_tokenizer(), Prompt("orz")
    ids = render(SUM, tokenizer, prompt)
    assert tokenizer.decode(ids).endswith("This is the problem:\nWhat is {1} + 1?\nAssistant: <think>") and in_thought(ids, tokenizer)
    for text, status in (("So 2.</think> <answer>\\boxed{2}</answer>", "correct"), ("So \\boxed{2}.", "no_answer")):
        assert grade(reply(text, SUM, prompt, thinking=True), SUM).status == status
    assert set(TASKS["gsm8k"].styles) == {"boxed", "plain", "few_shot", "abel", "orz", "qa"}
