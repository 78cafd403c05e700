"""Problem -> token ids: exactly one BOS whatever the tokenizer does, templates, chats, and what of a completion is graded."""

from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from latentreason.errors import InvalidInput, UnknownName
from latentreason.models.prompts import Prompt, facts, in_thought, render, reply
from latentreason.organisms.tokenizer import chain_tokenizer
from latentreason.tasks import chain, styles
from latentreason.tasks.grading import grade
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import TASKS, load_task

BARE_CHAT = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
BOS_CHAT = "{{ bos_token }}" + BARE_CHAT
MARKED_CHAT = "{% for m in messages %}{{ bos_token }}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}{{ bos_token }}assistant: {% endif %}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + BOS_CHAT
THINKS = BOS_CHAT + "{% if add_generation_prompt %}<think>\n{% endif %}"

PROBLEM = Problem("x", "What is {6 + 7}? %s {question} {{ bos_token }}", "13", "mine", {"grader": "math"})


def bytes_tokenizer(*, bos="<s>", automatic=False, template=None) -> PreTrainedTokenizerFast:
    """Every byte is a token; `<s>` and `</s>` are special. `automatic` adds the BOS itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    words = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if automatic:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token="</s>", chat_template=template, clean_up_tokenization_spaces=False)


def test_the_prompt_of_the_task_chain_is_the_question_word_for_word():
    problem = chain.problem((4, 7, 1), ["rot", "mix"], "B")
    words = ["<bos>", "B", "4", "7", "1", ":", "a", "rot", "b", "mix", "="]
    for prompt in (Prompt(), Prompt("plain")):
        assert [chain.VOCABULARY[i] for i in render(problem, chain_tokenizer(), prompt)] == words


@pytest.mark.parametrize("automatic", [False, True])
@pytest.mark.parametrize("template", [BARE_CHAT, BOS_CHAT])
@pytest.mark.parametrize("prompt", [Prompt(), Prompt("boxed"), Prompt(chat=True), Prompt("boxed", chat=True, system="Be brief.")])
def test_exactly_one_bos(automatic, template, prompt):
    tokenizer = bytes_tokenizer(automatic=automatic, template=template)
    assert (tokenizer("w")["input_ids"][0] == 0) is automatic
    ids = render(PROBLEM, tokenizer, prompt)
    assert ids[0] == tokenizer.bos_token_id == 0 and ids.count(0) == 1
    text = styles.DEFAULT[prompt.style or "plain"].replace("{question}", PROBLEM.question)
    if prompt.chat:
        system = "<|system|>Be brief.\n" if prompt.system else ""
        text = f"{system}<|user|>{text}\n<|assistant|>"
    assert tokenizer.decode(ids) == "<s>" + text  # braces, percent signs and template words of a question are left as they are


def test_a_tokenizer_without_bos_gets_none():
    for prompt in (Prompt(), Prompt(chat=True)):
        ids = render(PROBLEM, bytes_tokenizer(bos=None, template=BARE_CHAT), prompt)
        assert not {0, 1} & {*ids} and (ids[0] != ids[1])


def test_a_bos_that_also_marks_messages_stays_where_the_template_puts_it():
    tokenizer = bytes_tokenizer(template=MARKED_CHAT)
    assert tokenizer.decode(render(replace(PROBLEM, question="2 + 2?"), tokenizer, Prompt(chat=True))) == "<s>user: 2 + 2?\n<s>assistant: "


def test_a_tokenizer_whose_unknown_word_is_its_bos_is_fine():
    tokenizer = bytes_tokenizer()
    tokenizer.unk_token = "<s>"  # as in GPT-2
    assert tokenizer.unk_token_id == tokenizer.bos_token_id == 0
    assert render(PROBLEM, tokenizer)[0] == 0


def test_a_question_with_a_bos_or_with_words_of_another_task_is_refused():
    with pytest.raises(InvalidInput, match="Problem x holds a BOS token in its question; remove it"):
        render(Problem("x", "<bos> 1 2 3", "", "chain"), chain_tokenizer())
    with pytest.raises(InvalidInput, match="Problem x holds a BOS token"):
        render(replace(PROBLEM, question="2 <s>+ 2?"), bytes_tokenizer(template=BOS_CHAT), Prompt(chat=True))
    with pytest.raises(InvalidInput, match="Problem y of task 'gsm8k' has words that this model's tokenizer does not know"):
        render(Problem("y", "Anna has 3 apples", "", "gsm8k"), chain_tokenizer())


def test_what_cannot_be_prompted_says_the_fix():
    with pytest.raises(InvalidInput, match=r"no chat template: use Prompt\(chat=False\)"):
        render(PROBLEM, bytes_tokenizer(), Prompt(chat=True))
    with pytest.raises(UnknownName, match=r"Unknown style of task mine 'boxd'\. Did you mean 'boxed'\? Known: boxed, plain\."):
        render(PROBLEM, bytes_tokenizer(), Prompt("boxd"))
    with pytest.raises(UnknownName, match=r"Unknown style of task chain 'boxed'\. Known: plain"):
        render(chain.problem((1, 2, 3), ["rot"]), chain_tokenizer(), Prompt("boxed"))
    with pytest.raises(InvalidInput, match=r"Only a chat has a system message: use Prompt\(chat=True"):
        Prompt(system="Be brief.")
    with pytest.raises(InvalidInput, match=r"refuses the message \(System role not supported\).* leave it out"):
        render(PROBLEM, bytes_tokenizer(template=NO_SYSTEM), Prompt(chat=True, system="Be brief."))
    assert render(PROBLEM, bytes_tokenizer(template=NO_SYSTEM), Prompt(chat=True))[0] == 0


def test_every_style_of_every_task_holds_the_question_once_and_the_first_is_the_default():
    for name, task in TASKS.items():
        assert all(template.count("{question}") == 1 for template in task.styles.values()), name
    own = {"chain": "plain", "arith": "few_shot"}
    assert all(next(iter(task.styles)) == own.get(name, "boxed") for name, task in TASKS.items()) and list(TASKS["chain"].styles) == ["plain"]
    problem = load_task("countdown", limit=1)[0]
    tokenizer = bytes_tokenizer()
    assert render(problem, tokenizer) == render(problem, tokenizer, Prompt("boxed")) != render(problem, tokenizer, Prompt("plain"))
    assert tokenizer.decode(render(problem, tokenizer, Prompt("few_shot"))).endswith(f"\n\nProblem: {problem.question}\nSolution:")


@pytest.mark.parametrize(("examples", "answers"), [(styles.GRADE_SCHOOL, ["89", "13", "45", "20"]), (styles.COMPETITION, ["7", "5/18", r"36\pi", "2"])])
def test_the_worked_examples_are_right(examples, answers):
    """By a second way: 6*14+5; (50-24)/2; 45/(180/60/60); 32*5/8; Vieta; 10 of 36; 36 pi; pow(3, 20, 7) = 2."""
    assert pow(3, 20, 7) == 2 and sum(abs(a - b) == 1 for a in range(6) for b in range(6)) == 10 and 32 * 5 // 8 == 20
    for (question, solution), answer in zip(examples, answers, strict=True):
        assert grade(solution, Problem("0", question, answer, "mine", {"grader": "math"})).correct


# --- what the manifest says --------------------------------------------------------------------------------------------


def test_facts_tell_templates_apart():
    problems, tokenizer = [PROBLEM], bytes_tokenizer(template=BOS_CHAT)
    plain, boxed, chat = (facts(problems, tokenizer, p) for p in (Prompt(), Prompt("boxed"), Prompt(chat=True, system="Be brief.")))
    assert (plain["style"], plain["chat"], plain["system"], plain["chat_template"]) == ("plain", False, None, None)
    assert boxed["style"] == "boxed" and boxed["template"] != plain["template"] and len(boxed["template"]) == 16
    assert chat["template"] == plain["template"] and chat["system"] == "Be brief."
    other = facts(problems, bytes_tokenizer(template=BARE_CHAT), Prompt(chat=True, system="Be brief."))
    assert other["chat_template"] != chat["chat_template"] and other == chat | {"chat_template": other["chat_template"]}
    assert facts([PROBLEM, chain.problem((1, 2, 3), ["rot"])], tokenizer)["style"] == "plain"


# --- what is graded ----------------------------------------------------------------------------------------------------

SHOT = Problem("x", "2 + 2?", "4", "gsm8k", {"grader": "math"})
RAMBLES = " 2 + 2 = 4. The answer is \\boxed{4}.\n\nProblem: 3 + 3?\nSolution: The answer is \\boxed{6}."


def test_what_follows_the_next_question_of_a_few_shot_prompt_is_not_graded():
    assert grade(RAMBLES, SHOT).status == "wrong"
    assert reply(RAMBLES, SHOT, Prompt("few_shot")) == " 2 + 2 = 4. The answer is \\boxed{4}.\n\n"
    assert grade(reply(RAMBLES, SHOT, Prompt("few_shot")), SHOT).correct
    for prompt in (Prompt(), Prompt("plain")):  # no such line is expected of these
        assert reply(RAMBLES, SHOT, prompt) == RAMBLES
    assert reply("The Problem: is hard. \\boxed{4}", SHOT, Prompt("few_shot")) == "The Problem: is hard. \\boxed{4}"


@pytest.mark.parametrize(
    ("text", "status"),
    [("So 4.</think>It is \\boxed{4}.", "correct"), ("So \\boxed{4}", "no_answer"), ("So \\boxed{4}</think>", "no_answer"), ("\\boxed{5}</think>\\boxed{4}", "correct")],
)
def test_a_think_block_that_the_prompt_opened_has_to_be_closed(text, status):
    tokenizer = bytes_tokenizer(template=THINKS)
    thinking = in_thought(render(SHOT, tokenizer, Prompt(chat=True)), tokenizer)
    assert thinking and not in_thought(render(SHOT, tokenizer), tokenizer)
    assert grade(reply(text, SHOT, thinking=thinking), SHOT).status == status


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
