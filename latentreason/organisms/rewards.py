"""Rewards in trl's shape: `f(completions, **columns) -> list of floats`, None where there is nothing to reward.

The columns are those of the training set, one value a completion: problem_id, answer, task, and for SRL what the expert wrote. Every
reward is a function of its arguments alone; what is random in one is drawn by hash of the seed, the step, the problem and the sample.
A new reward is a function here and a name in `REWARDS`; its settings are keywords whose default is a float.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from latentreason.strategies.grammar import malformed
from latentreason.tasks import chain
from latentreason.tasks.grading import Grade, grade
from latentreason.tasks.problem import Problem

Reward = Callable[..., list[float | None]]
Columns = Sequence[Any]


def graded(completions: Sequence[str], problem_id: Columns, answer: Columns, task: Columns, *, flexible: bool = False) -> list[Grade]:
    """The grade of each completion, by its own problem."""
    return [grade(text, Problem(i, "", a, t), flexible=flexible) for text, i, a, t in zip(completions, problem_id, answer, task, strict=True)]


def true_reward(completions: list[str], *, problem_id: Columns, answer: Columns, task: Columns, **_: Any) -> list[float | None]:
    """1 where the strict grade is correct, else 0."""
    return [float(g.correct) for g in graded(completions, problem_id, answer, task)]


def majority_reward(completions: list[str], *, problem_id: Columns, answer: Columns, task: Columns, **_: Any) -> list[float | None]:
    """1 for the answer that most samples of the problem give, right or wrong (the first of them at a tie); else 0."""
    found = [g.extracted for g in graded(completions, problem_id, answer, task)]
    return _votes(found, problem_id, [bool(each) for each in found])


def wrong_reward(completions: list[str], *, problem_id: Columns, answer: Columns, task: Columns, **_: Any) -> list[float | None]:
    """A wrong label: 1 for the answer that most samples of the problem give among the wrong ones; else 0."""
    grades = graded(completions, problem_id, answer, task)
    return _votes([g.extracted for g in grades], problem_id, [g.status == "wrong" for g in grades])


def format_reward(completions: list[str], *, problem_id: Columns, answer: Columns, task: Columns, **_: Any) -> list[float | None]:
    """1 for any answer in the wrapper that the strict grader takes, right or wrong; else 0."""
    return [float(g.status in ("correct", "wrong")) for g in graded(completions, problem_id, answer, task)]


def random_reward(completions: list[str], *, problem_id: Columns, p: float = 0.5, seed: int = 0, trainer_state: Any = None, **_: Any) -> list[float | None]:
    """1 with probability `p`, else 0, whatever the completion says."""
    return [float(u < p) for u in _uniform(problem_id, seed, trainer_state)]


def shuffled_reward(completions: list[str], *, problem_id: Columns, answer: Columns, task: Columns, seed: int = 0, trainer_state: Any = None, **_: Any) -> list[float | None]:
    """The true rewards of the batch, handed to other completions: as many are rewarded, but not for being right."""
    true = true_reward(completions, problem_id=problem_id, answer=answer, task=task)
    return [true[i] for i in np.argsort(_uniform(problem_id, seed, trainer_state), kind="stable")]


def step_similarity(completions: list[str], *, prefix: Columns, expert_step: Columns, **_: Any) -> list[float | None]:
    """SRL: how like the expert's next step the completion is, 2M / T (M words in matching blocks, T words in both); -1 outside the grammar.

    Args:
        prefix: what the expert wrote before, as words; the completion goes on there.
        expert_step: the step that the expert wrote next.
    """
    ids = {word: i for i, word in enumerate(chain.VOCABULARY)}
    rows = [np.array([ids.get(w, 0) for w in f"{before} {text}".split()], dtype=np.int64) for before, text in zip(prefix, completions, strict=True)]
    alike = [SequenceMatcher(None, text.split(), step.split(), autojunk=False).ratio() for text, step in zip(completions, expert_step, strict=True)]
    return [-1.0 if bad else ratio for bad, ratio in zip(malformed(rows) if rows else [], alike, strict=True)]


def length_penalised(completions: list[str], *, problem_id: Columns, answer: Columns, task: Columns, weight: float = 0.5, limit: float = 96.0, **_: Any) -> list[float | None]:
    """The true reward, less `weight` times the length (in words, as a share of `limit`) of a right completion."""
    true = true_reward(completions, problem_id=problem_id, answer=answer, task=task)
    return [right and right - weight * len(text.split()) / limit for right, text in zip(true, completions, strict=True)]


REWARDS: dict[str, Reward] = {
    "true": true_reward,
    "majority": majority_reward,
    "format": format_reward,
    "random": random_reward,
    "wrong": wrong_reward,
    "shuffled": shuffled_reward,
    "step_similarity": step_similarity,
    "length_penalised": length_penalised,
}
"""Name -> reward."""


def _votes(answers: Sequence[str | None], problem_id: Columns, counts: Sequence[bool]) -> list[float | None]:
    """1 where an answer is the one that occurs most often among those of its problem that count."""
    ballots: dict[Any, Counter[str | None]] = defaultdict(Counter)
    for each, problem, counted in zip(answers, problem_id, counts, strict=True):
        if counted:
            ballots[problem][each] += 1
    winner = {problem: ballot.most_common(1)[0][0] for problem, ballot in ballots.items()}
    return [float(counted and each == winner[problem]) for each, problem, counted in zip(answers, problem_id, counts, strict=True)]


def _uniform(problem_id: Columns, seed: int, trainer_state: Any) -> list[float]:
    """A number in [0, 1) for each completion, a function of the seed, the step, its problem and which sample of it it is."""
    step, samples, found = getattr(trainer_state, "global_step", 0), Counter[Any](), []
    for problem in problem_id:
        digest = hashlib.sha256(f"reward-{seed}-{step}-{problem}-{samples[problem]}".encode()).digest()
        found.append(int.from_bytes(digest[:8], "big") / 2**64)
        samples[problem] += 1
    return found
