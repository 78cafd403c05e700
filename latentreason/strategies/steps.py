"""Step by step: is each step of a trace right, given the one before, and is the trace as a whole? And which way did it take?

`STEP_CHECKERS` names the tasks whose traces can be checked: `chain` exactly, by its grammar; text by its arithmetic statements. A checker is any
function of a completion and its problem, so a caller may bring one for another task.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from latentreason.strategies.equations import number, statements
from latentreason.strategies.grammar import parse
from latentreason.strategies.rules import RULES, sentences, strategy_of
from latentreason.tasks import arith, chain
from latentreason.tasks.problem import Problem

Status = Literal["parsed", "no steps", "unparsed"]


@dataclass(frozen=True)
class Checked:
    """What a checker says of one trace.

    Attributes:
        status: `no steps` = there is nothing to check; `unparsed` = there is, and the checker cannot read all of it.
        steps, wrong: steps that were read, and those that do not follow from what stands before them.
        standing: wrong steps that the trace did not take back.
        valid: the trace as a whole derives the right answer.
    """

    status: Status
    steps: int
    wrong: int
    standing: int
    valid: bool

    @property
    def coherent(self) -> bool:
        """Read as a whole, and each step that stands follows from the one before."""
        return self.status == "parsed" and self.standing == 0


StepChecker = Callable[[str, Problem], Checked]


def check_chain(text: str, problem: Problem) -> Checked:
    """The exact checker. The answer counts as a step, which follows where it is the last state; `direct` gives an answer without any step.

    >>> problem = chain.problem((4, 7, 1), ["rot", "inc"])
    >>> check_chain("go so b 5 8 2 , ans 5 8 2", problem).coherent, check_chain("go so b 5 8 2 , ans 5 8 2", problem).valid
    (True, False)
    """
    trace = parse(text, problem.meta)
    if not trace.well_formed:
        status: Status = "unparsed"
    else:
        status = "no steps" if trace.format == "direct" else "parsed"
    steps = [] if trace.format == "direct" else trace.steps
    standing: list[bool] = []
    for step in steps:
        if step.strategy == "check" and standing:
            standing.pop()  # the step before is taken back, or said again
        standing.append(step.follows)
    return Checked(status, len(steps), sum(not s.follows for s in steps), standing.count(False), trace.valid)


def check_arithmetic(text: str, problem: Problem) -> Checked:
    """Every arithmetic statement of a text. Valid: all of them hold, and one of them states the gold answer.

    >>> check_arithmetic("6 * 2 = 12. Then 12 + 1 = 14.", Problem("", "", "13", "gsm8k"))
    Checked(status='parsed', steps=2, wrong=1, standing=1, valid=False)
    """
    found = statements(text)
    status: Status = "parsed" if found else "unparsed" if "=" in text else "no steps"
    wrong, gold = sum(not s.holds for s in found), number(problem.answer)
    return Checked(status, len(found), wrong, wrong, bool(found) and not wrong and gold is not None and any(s.stated == gold for s in found))


def check_arith(text: str, problem: Problem) -> Checked:
    """Statements of the task `arith`; valid where the text carries out every operation of the question, in order."""
    found = check_arithmetic(text, problem)
    return Checked(found.status, found.steps, found.wrong, found.standing, arith.derived(text, problem))


STEP_CHECKERS: dict[str, tuple[str, StepChecker]] = {
    "chain": ("exact", check_chain),
    "arith": ("arithmetic, order of the question", check_arith),
    "gsm8k": ("arithmetic", check_arithmetic),
}
"""Task -> what the checker goes by, and the checker."""


def way(text: str, problem: Problem) -> tuple[str, ...]:
    """The steps of a trace as names, without their results: of `chain` format, strategies and letters; of other text its arithmetic, else the strategies of its sentences.

    >>> way("go leap a b 4 7 1 , ans 4 7 1", chain.problem((4, 7, 1), ["rot", "inc"]))
    ('go', 'leap a b', 'ans')
    """
    if problem.task == "chain":
        words = text.split()
        trace = parse(text, problem.meta)
        named = [" ".join([step.strategy, *(w for w in words[step.start + 1 : step.end][:2] if w in chain.LETTERS)]) for step in trace.steps]
        return (trace.format or "?", *named)
    found = tuple(s.left for s in statements(text))
    return found or tuple(s for _, sentence in sentences(text) if (s := strategy_of(sentence, RULES)) is not None)


def domain_of(problem: Problem) -> str:
    """What a problem belongs to: of `chain` its number of operations and whether one is rare; else what its `meta` names, or its task.

    >>> domain_of(chain.problem((1, 2, 3), ["rot", "dbl", "inc"]))
    '3 operations, rare'
    """
    meta = problem.meta
    if problem.task == "chain":
        return f"{len(meta['operations'])} operations{', rare' if set(chain.RARE) & set(meta['operations']) else ''}"
    return next((str(meta[key]) for key in ("domain", "family", "subject", "type", "level") if key in meta), problem.task)
