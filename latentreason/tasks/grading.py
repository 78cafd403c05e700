"""Text of a completion -> Grade, strict (the wrapper that the task asks for) and flexible (any wrapper).

Model output is untrusted text: it is only ever split and compared, never evaluated.
"""

from dataclasses import dataclass
from typing import Literal

from latentreason.errors import unknown_name
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem

Status = Literal["correct", "wrong", "no_answer", "unparsed", "truncated"]


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
        problem: the problem that it answers.
        flexible: accept the last answer-like string in any wrapper.
        truncated: the completion hit the length limit.
    """
    if problem.task != "chain":
        raise unknown_name("task", problem.task, ["chain"])
    extracted = (chain.last_state if flexible else chain.final_answer)(text)
    if extracted is None:
        return Grade("truncated" if truncated else "no_answer")
    if extracted == "":
        return Grade("truncated" if truncated else "unparsed")
    return Grade("correct" if extracted == problem.answer else "wrong", extracted)
