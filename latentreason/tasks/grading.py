"""Text of a completion -> Grade, strict (the wrapper that the task asks for) and flexible (any wrapper).

Model output is untrusted text: here it is only ever split and compared. Mathematics is read by math-verify in a process of its
own, with limits (`math_worker.py`).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

from latentreason.errors import unknown_name
from latentreason.tasks import answers, arith, chain
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


def grade(text: str, problem: Problem, *, flexible: bool = False, truncated: bool = False) -> Grade:
    """Grade one completion.

    Args:
        text: the completion, without special tokens.
        problem: the problem that it answers; one with `meta["grader"] == "math"` is graded as mathematics, by value.
        flexible: accept the last answer-like string in any wrapper.
        truncated: the completion hit the length limit.

    Raises:
        UnknownName: a task or grader that does not exist.
        MissingDependency: the answer is mathematical and math-verify cannot be imported.
    """
    if problem.task == "chain":
        extracted = (chain.last_state if flexible else chain.final_answer)(text)
    elif problem.task == "arith":
        extracted = (arith.last_number if flexible else arith.final_answer)(text)
    elif "grader" not in problem.meta:
        raise unknown_name("task", problem.task, ["arith", "chain"])
    elif problem.meta["grader"] == "math":
        conclusion = answers.conclusion(text)
        extracted = None if conclusion is None else (answers.last_answer if flexible else answers.boxed)(conclusion)
    else:
        raise unknown_name("grader", str(problem.meta["grader"]), ["math"])
    if extracted is None:
        return Grade("truncated" if truncated else "no_answer")
    if extracted == "":
        return Grade("truncated" if truncated else "unparsed")
    if problem.task in ("chain", "arith"):
        return Grade("correct" if extracted == problem.answer else "wrong", extracted)
    return Grade(_same_mathematics(extracted, problem.answer) if len(extracted) <= MAX_ANSWER else "unparsed", extracted)


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
