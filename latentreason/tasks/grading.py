"""Text of a completion -> Grade, strict (the wrapper that the task asks for) and flexible (any wrapper).

Model output is untrusted text: here it is only ever split and compared. Mathematics is read by math-verify in a process of its
own, with limits (`math_worker.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

from latentreason.errors import unknown_name
from latentreason.tasks import answers, arith, chain, countdown
from latentreason.tasks.math_worker import WORKER
from latentreason.tasks.problem import Problem

Status = Literal["correct", "wrong", "no_answer", "unparsed", "truncated"]

MAX_ANSWER = 10_000
"""Characters of an answer that is still read: nobody's answer is longer, and parsers take more than linear time."""

CACHED = 4096
"""Verdicts kept, so that the same answer in many samples is compared once: some 80 MB if all of them were of the longest."""


@dataclass(frozen=True)
class Grade:
    """What became of one completion.

    Attributes:
        status: `no_answer` = ended without one; `unparsed` = an answer that cannot be read; `truncated` = hit the length limit before an answer.
        extracted: the answer as found, for audits of the grader; None where there is none.
    """

    status: Status
    extracted: str | None = None

    @property
    def correct(self) -> bool:
        """True only for the status `correct`."""
        return self.status == "correct"


@dataclass(frozen=True)
class Grader:
    """How a kind of answer is found and judged.

    Attributes:
        strict, flexible: text -> the answer, in the wrapper that the task asks for and in any; None without one, "" where it cannot be told.
        judge: answer and problem -> correct, wrong or unparsed.
    """

    strict: Callable[[str], str | None]
    flexible: Callable[[str], str | None]
    judge: Callable[[str, Problem], Status]


def grade(text: str, problem: Problem, *, flexible: bool = False, truncated: bool = False) -> Grade:
    """Grade one completion.

    Args:
        text: the completion, without special tokens.
        problem: the problem that it answers; `meta["grader"]` (of a problem of `chain`, the task) is a key of `GRADERS`.
        flexible: accept the last answer-like string in any wrapper.
        truncated: the completion hit the length limit.

    Raises:
        UnknownName: a task or grader that does not exist.
        MissingDependency: the answer is mathematical and math-verify cannot be imported.
    """
    name = str(problem.meta.get("grader", problem.task))
    if name not in GRADERS:
        raise unknown_name("grader", name, GRADERS) if "grader" in problem.meta else unknown_name("task", name, ["arith", "chain"])
    grader = GRADERS[name]
    extracted = (grader.flexible if flexible else grader.strict)(text)
    if extracted is None:
        return Grade("truncated" if truncated else "no_answer")
    if extracted == "":
        return Grade("truncated" if truncated else "unparsed")
    return Grade(grader.judge(extracted, problem) if len(extracted) <= MAX_ANSWER else "unparsed", extracted)


def _concluded(find: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """`find` in what follows the think block."""

    def found(text: str) -> str | None:
        after = answers.conclusion(text)
        return None if after is None else find(after)

    return found


def _same_text(extracted: str, problem: Problem) -> Status:
    return "correct" if answers.bare(extracted) == answers.bare(problem.answer) else "wrong"


@lru_cache(CACHED)
def _same_mathematics(extracted: str, gold: str) -> Status:
    """Equal as text, as words, or by value; words are never taken for a product of letters."""
    answer, expected = answers.plain(extracted), answers.plain(gold)
    if answer == expected:
        return "correct"
    said, meant = answers.words(answer), answers.words(expected)
    if meant:
        return "correct" if said == meant else "wrong"
    if said:
        return "unparsed"
    return cast(Status, WORKER.ask(answer, expected))


GRADERS = {
    "chain": Grader(chain.final_answer, chain.last_state, lambda extracted, problem: "correct" if extracted == problem.answer else "wrong"),
    "arith": Grader(arith.final_answer, arith.stated, lambda extracted, problem: "correct" if extracted == problem.answer else "wrong"),
    "math": Grader(_concluded(answers.boxed), _concluded(answers.last_answer), lambda extracted, problem: _same_mathematics(extracted, problem.answer)),
    "text": Grader(_concluded(answers.boxed), _concluded(answers.last_line), _same_text),
    "countdown": Grader(_concluded(answers.boxed), _concluded(countdown.last_expression), countdown.judge),
}
"""Name -> grader."""
