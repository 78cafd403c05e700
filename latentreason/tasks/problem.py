"""Problem, and the split that a problem belongs to.

The split is a function of the problem's own hash, so the four sets (train, fit, calibration, test) are disjoint by
construction: no seed can put a test problem into a training corpus.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

SPLITS = {"train": range(0, 70), "fit": range(70, 80), "calibration": range(80, 90), "test": range(90, 100)}
HALVES = {"seen": range(90, 95), "clean": range(95, 100)}
"""The halves of test: a contaminated corpus holds problems of the first, and none of the second."""


@dataclass(frozen=True)
class Problem:
    """One question with a verifiable answer.

    Attributes:
        id: hash of the problem's content; equal problems have equal ids.
        question: the prompt text that a model completes.
        answer: the reference answer, as text.
        task: name of the task, the key of `TASKS`.
        meta: what the task needs to check a trace (operations, start state, ...); `"grader"` names the grader where it is not that of the task (`"math"`: compared as mathematics).
    """

    id: str
    question: str
    answer: str
    task: str
    meta: dict[str, Any] = field(default_factory=dict, compare=False)


def content_hash(content: str) -> str:
    """First 16 hex digits of sha256, the id of a problem."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def split_of(problem_id: str) -> str:
    """The split that a problem id belongs to: 70% train, 10% each fit, calibration and test."""
    bucket = int(problem_id, 16) % 100
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def in_split(problem_id: str, split: str) -> bool:
    """Whether a problem belongs to a split, or to a half of test."""
    return int(problem_id, 16) % 100 in (SPLITS | HALVES)[split]
