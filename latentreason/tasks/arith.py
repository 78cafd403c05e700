"""Task `arith`: sums, differences and products of small numbers, for a small pretrained language model.

The few-shot prompt shows two ways of answering: at once, or step by step. Which one a completion takes is the model's choice, at its
start and again after every step. One example::

    Q: 6 + 7 - 8
    A: First, 6 + 7 = 13. Then, 13 - 8 = 5. The answer is 5.
"""

import operator
import random
import re
from collections.abc import Callable
from typing import Any

from latentreason.tasks.problem import Problem, content_hash, split_of

SHOTS = (("7 + 8 + 4", 19), ("3 * 6 + 5", 23), ("9 + 6 - 7", 8), ("6 + 2 + 7 + 8", 23))
"""Worked questions of the prompt and their answers; no drawn problem repeats one."""

STOP = "\n"
"""A completion ends with its line: a few-shot prompt would go on to the next question."""

OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
FAMILIES: dict[str, tuple[str, ...]] = {
    "sum of 3": ("+", "+"),
    "sum of 4": ("+", "+", "+"),
    "difference of 3": ("+", "-"),
    "difference of 4": ("+", "-", "+"),
    "product of 3": ("*", "+"),
}
"""Family -> its operations, carried out from left to right; drawn with equal chance."""

_EQUATION = re.compile(r"(-?\d+) ([-+*]) (\d+) = (-?\d+)")
_ANSWER = re.compile(r"answer is (-?\d+)\.")
_NUMBER = re.compile(r"-?\d+")


def worked(question: str, *, steps: bool) -> str:
    """The answer as the prompt writes it, step by step or at once.

    >>> worked("6 + 7 - 8", steps=True)
    'First, 6 + 7 = 13. Then, 13 - 8 = 5. The answer is 5.'
    """
    first, *rest = question.split()
    value, said = int(first), list[str]()
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        result = OPERATIONS[sign](value, int(number))
        said.append(f"{'Then' if said else 'First'}, {value} {sign} {number} = {result}.")
        value = result
    return " ".join([*(said if steps else []), f"The answer is {value}."])


def _prompt(ways: tuple[bool, ...]) -> str:
    shots = [f"Q: {question}\nA: {worked(question, steps=steps)}\n\n" for (question, _), steps in zip(SHOTS, ways, strict=True)]
    return "".join(shots) + "Q: {question}\nA:"


STYLES: dict[str, str] = {
    "few_shot": _prompt((False, True, False, True)),
    "few_shot_steps": _prompt((True, True, True, True)),
    "few_shot_at_once": _prompt((False, False, False, False)),
}
"""Prompts: both ways of answering in turn (the task's own), or only one of them."""


def draw(rng: random.Random) -> Problem:
    """A problem of a random family; values along the way stay between 0 and 99."""
    family = rng.choice(list(FAMILIES))
    while True:
        numbers = [rng.randint(2 if FAMILIES[family][0] == "*" and i < 2 else 1, 9) for i in range(len(FAMILIES[family]) + 1)]
        value, low = numbers[0], numbers[0]
        for sign, number in zip(FAMILIES[family], numbers[1:], strict=True):
            value = OPERATIONS[sign](value, number)
            low = min(low, value)
        question = " ".join([str(numbers[0]), *(f"{sign} {number}" for sign, number in zip(FAMILIES[family], numbers[1:], strict=True))])
        if low >= 0 and question not in dict(SHOTS):
            return Problem(content_hash(f"arith:{question}"), question, str(value), "arith", {"family": family})


def load(*, split: str, limit: int, seed: int) -> list[Problem]:
    """Problems of a split, each once; `seed` says which."""
    rng, problems = random.Random(f"arith-{split}-{seed}"), dict[str, Problem]()
    for _ in range(1000 * limit + 100_000):
        problem = draw(rng)
        if split_of(problem.id) == split:
            problems.setdefault(problem.id, problem)
        if len(problems) == limit:
            break
    return list(problems.values())


def final_answer(text: str) -> str | None:
    """The number in the last "answer is N.", None where there is none."""
    found = _ANSWER.findall(text)
    return found[-1] if found else None


def stated(text: str) -> str | None:
    """The number in the last "answer is N.", and where there is none the last number of the text: what is right strictly is right flexibly."""
    if (said := final_answer(text)) is not None:
        return said
    found = _NUMBER.findall(text)
    return found[-1] if found else None


def derived(text: str, problem: Problem) -> bool:
    """Whether the text carries out every operation of the question in order, each rightly, and answers with the result.

    >>> problem = Problem("", "6 + 7 - 8", "5", "arith")
    >>> derived(worked("6 + 7 - 8", steps=True), problem), derived("The answer is 5.", problem)
    (True, False)
    """
    expected = _EQUATION.findall(worked(problem.question, steps=True))
    return _EQUATION.findall(text) == expected and final_answer(text) == problem.answer


def steps_said(text: str) -> int:
    """Number of equations in a text: 0 where it answers at once."""
    return len(_EQUATION.findall(text))


def check(text: str) -> list[dict[str, Any]]:
    """Every equation of a text with whether it holds: columns left, sign, right, result, holds."""
    rows = [(int(a), sign, int(b), int(c)) for a, sign, b, c in _EQUATION.findall(text)]
    return [{"left": a, "sign": sign, "right": b, "result": c, "holds": OPERATIONS[sign](a, b) == c} for a, sign, b, c in rows]
