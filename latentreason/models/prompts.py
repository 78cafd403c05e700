"""Problem -> token ids: which template, in the model's chat template or raw, and exactly one BOS.

One prompt serves both models of a pair unless you ask for two: what a study compares is then models, not prompts. Example::

    lr.sample(pair.base, problems, lr.Sampling(prompt=lr.Prompt("few_shot")))
    lr.sample(pair.rl, problems, lr.Sampling(rl_prompt=lr.Prompt("boxed", chat=True)))   # the prompt as a factor, in the RL model's own template
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import dropwhile
from typing import TYPE_CHECKING, Any

from latentreason.errors import InvalidInput, unknown_name
from latentreason.tasks import answers, styles
from latentreason.tasks.problem import Problem, content_hash
from latentreason.tasks.registry import styles_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """How a problem is put to a model.

    Attributes:
        style: a key of the task's styles, such as `plain`, `boxed` or `few_shot`; None for the task's own.
        chat: wrap it as the message of a user in the chat template of the model's tokenizer.
        system: the system message of a chat.

    Raises:
        InvalidInput: a system message without a chat.
    """

    style: str | None = None
    chat: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        if self.system is not None and not self.chat:
            raise InvalidInput("Only a chat has a system message: use Prompt(chat=True, system=...), or leave it out.")


def render(problem: Problem, tokenizer: "PreTrainedTokenizerBase", prompt: Prompt = Prompt()) -> list[int]:
    """Token ids of the prompt, with exactly one BOS in front where the tokenizer has one.

    Raises:
        UnknownName: a style that the task does not have.
        InvalidInput: a chat without a chat template; a question that holds a BOS, or a word that the tokenizer does not know.
    """
    _, template = _style(problem.task, prompt)
    text = template.replace(styles.QUESTION, problem.question)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos, unknown = tokenizer.bos_token_id, tokenizer.unk_token_id
    if bos is not None and bos in ids:
        raise InvalidInput(f"Problem {problem.id} holds a BOS token in its question; remove it, one is added here.")
    if prompt.chat:  # in a chat, templates may use the BOS again as a mark of each message: only the first place is ours
        ids = tokenizer(_in_chat(text, tokenizer, prompt), add_special_tokens=False)["input_ids"]
    if unknown is not None and unknown != bos and unknown in ids:
        raise InvalidInput(f"Problem {problem.id} of task {problem.task!r} has words that this model's tokenizer does not know: is it the right task for the model?")
    return ids if bos is None else [bos, *dropwhile(lambda i: i == bos, ids)]


def facts(problems: Sequence[Problem], tokenizer: "PreTrainedTokenizerBase", prompt: Prompt = Prompt()) -> dict[str, Any]:
    """What the manifest says of a prompt: style, chat, system, and hashes of the task's template and of the chat template (None without a chat)."""
    used = sorted({_style(task, prompt) for task in {p.task for p in problems}})
    return {
        "style": " + ".join(sorted({style for style, _ in used})), "chat": prompt.chat, "system": prompt.system,
        "template": content_hash("\n\n".join(template for _, template in used)),
        "chat_template": content_hash(_chat_template(tokenizer)) if prompt.chat else None,
    }  # fmt: skip


def in_thought(ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Does this prompt end with `<think>`, so that the completion begins inside a think block?"""
    return answers.opens_thought(str(tokenizer.decode(list(ids[-16:]))))


def reply(text: str, problem: Problem, prompt: Prompt = Prompt(), *, thinking: bool = False) -> str:
    """What is graded of a completion.

    After a few-shot prompt a model that only continues text goes on to ask itself further questions: what follows the first
    of them is left out. A think block that the prompt opened is opened again here, so that the grader knows of it.
    """
    opener = styles.opener(_style(problem.task, prompt)[1])
    next_question = re.search(rf"^[ \t]*{re.escape(opener)}", text, re.MULTILINE) if opener else None
    kept = text[: next_question.start()] if next_question else text
    return f"<think>{kept}" if thinking else kept


def _style(task: str, prompt: Prompt) -> tuple[str, str]:
    """Name and template of the style of a task."""
    known = styles_of(task)
    style = prompt.style or next(iter(known))
    if style not in known:
        raise unknown_name(f"style of task {task}", style, known)
    return style, known[style]


def _chat_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    if not tokenizer.chat_template:
        raise InvalidInput("This model's tokenizer has no chat template: use Prompt(chat=False), as for any base model; an RL model that has one gets it with Sampling(rl_prompt=...).")
    return str(tokenizer.get_chat_template())


def _in_chat(text: str, tokenizer: "PreTrainedTokenizerBase", prompt: Prompt) -> str:
    """The text as one user message, up to where the assistant begins."""
    from jinja2 import TemplateError

    _chat_template(tokenizer)
    system = [{"role": "system", "content": prompt.system}] if prompt.system is not None else []
    try:
        chat = tokenizer.apply_chat_template([*system, {"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise InvalidInput(f"The chat template of this model refuses the message ({error}). Some know no system message: leave it out.") from error
    return str(chat)


@lru_cache(8)
def tokens_with(tokenizer: "PreTrainedTokenizerBase", text: str) -> frozenset[int]:
    """The tokens whose text holds `text`: those that end a completion where it is to stop there."""
    words = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return frozenset(i for i, word in enumerate(words) if text in word)
