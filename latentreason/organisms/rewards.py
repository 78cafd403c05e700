"""Verifiable rewards in trl's shape: `f(completions, **columns) -> list of floats`."""

from typing import Any

from latentreason.tasks.grading import grade
from latentreason.tasks.problem import Problem


def true_reward(completions: list[str], *, problem_id: list[str], answer: list[str], task: list[str], **_: Any) -> list[float | None]:
    """1 where the strict grade is correct, else 0."""
    return [
        float(grade(text, Problem(i, "", a, t)).correct)
        for text, i, a, t in zip(completions, problem_id, answer, task, strict=True)
    ]
