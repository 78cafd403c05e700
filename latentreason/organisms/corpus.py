"""The pretraining corpus of an organism: authors who choose formats and strategies, some of them badly.

An error comes from a bad CHOICE: a leap (two operations at once) or a hard operation in one go mostly gives the author's
systematic misconception; the same operations in single steps or split into parts are always right. So a model that learns
WHEN to split, to step and to check is right without any new skill. Only where a corpus asks for `slip` are there random errors.
"""

import random
from dataclasses import dataclass, field
from functools import lru_cache
from math import isclose
from typing import Any

from latentreason.errors import InvalidInput
from latentreason.tasks import chain
from latentreason.tasks.chain import State
from latentreason.tasks.problem import Problem

CORE = (1.0, 0.0, 0.0)
"""Wrappers of authors who know only the one that the strict grader takes."""


def added(default: Any) -> Any:
    """A field that is younger than the organisms that are shipped: at its default it is left out of configs, so that theirs stay as they were."""
    return field(default=default, metadata={"added": True})


@dataclass(frozen=True)
class Habits:
    """How an author behaves inside one format; all probabilities.

    Attributes:
        leap: do two operations at once, where two are left.
        split: write a hard operation out in its parts.
        check_wrong: after a step that went wrong by a bad choice, go back and do it with care.
        check_right: the same after a right step.
    """

    leap: float = 0.0
    split: float = 0.0
    check_wrong: float = 0.0
    check_right: float = 0.0


@dataclass(frozen=True)
class Corpus:
    """The mixture that authors are drawn from; all probabilities.

    Attributes:
        formats: cue ("" for none) -> probability of direct, go, think, code.
        habits: format -> Habits.
        right_leap: a leap is right; otherwise its first operation is forgotten.
        right_hard: a hard operation in one go is right; otherwise its second part is forgotten.
        right_rare: a rare operation is right outside `code` (inside it always is).
        separators: which separator closes a step: style, with no bearing on the answer. RL may drift in it; such a
            disagreement between the models is one that does not matter.
        min_ops, max_ops, p_hard, p_rare, p_cue: distribution of problems, see `chain.Draw`.
        operators, any_letter: the same.
        wrappers: which of `chain.WRAPPERS` stands before the digits of an answer; the strict grader takes the first.
        slip: an easy operation in a single step gets one digit wrong, at random. No choice of strategy avoids it.
        n_seen: problems of the half `seen` of test that the corpus holds.
        p_seen: share of the traces that are about them.
        p_recall: of these, how many give the right answer at once (format direct); the others are written as any trace.
    """

    formats: dict[str, tuple[float, float, float, float]]
    habits: dict[str, Habits]
    right_leap: float = 0.05
    right_hard: float = 0.05
    right_rare: float = 0.02
    separators: tuple[float, float] = (0.8, 0.2)
    min_ops: int = 3
    max_ops: int = 6
    p_hard: float = 0.3
    p_rare: float = 0.02
    p_cue: float = 0.5
    operators: tuple[str, ...] = added(chain.OPERATIONS)
    any_letter: bool = added(False)
    wrappers: tuple[float, float, float] = added(CORE)
    slip: float = added(0.0)
    n_seen: int = added(0)
    p_seen: float = added(0.0)
    p_recall: float = added(0.0)

    def __post_init__(self) -> None:
        """Raises:
        InvalidInput: a mixture that does not sum to 1, habits or a mixture that are missing, a probability outside [0, 1], or an operator
            set that cannot express the task.
        """
        for cue, mixture in self.formats.items():
            if len(mixture) != len(chain.FORMATS) or not isclose(sum(mixture), 1.0, abs_tol=1e-9):
                raise InvalidInput(f"Format mixture {mixture} of cue {cue!r} must have {len(chain.FORMATS)} parts that sum to 1.")
        missing = {"", *chain.CUES} - set(self.formats)
        if missing or set(chain.FORMATS[1:]) - set(self.habits):
            raise InvalidInput(f"Give a mixture for each cue ({sorted(missing)} missing) and habits for each of {chain.FORMATS[1:]}.")
        for name, shares, words in (("Separators", tuple[float, ...](self.separators), chain.SEPARATORS), ("Wrappers", self.wrappers, chain.WRAPPERS)):
            if len(shares) != len(words) or not isclose(sum(shares), 1.0, abs_tol=1e-9) or min(shares) < 0:
                raise InvalidInput(f"{name} {shares} must be {len(words)} probabilities that sum to 1.")
        numbers = [p for h in self.habits.values() for p in vars(h).values()]
        numbers += [v for k, v in vars(self).items() if k.startswith(("right_", "p_"))]
        numbers += [*(p for mixture in self.formats.values() for p in mixture), self.p_hard + self.p_rare, self.slip]
        if not all(0.0 <= p <= 1.0 for p in numbers):
            raise InvalidInput(f"Every probability of a corpus must lie in [0, 1], found {next(p for p in numbers if not 0.0 <= p <= 1.0)}.")
        if (self.n_seen > 0) != (self.p_seen > 0.0) or self.n_seen < 0:
            raise InvalidInput(f"n_seen={self.n_seen} problems make up p_seen={self.p_seen} of the traces: give both, or neither.")
        self.problems  # noqa: B018 (refuses operators that cannot express the task)

    @property
    def problems(self) -> chain.Draw:
        """The distribution of the corpus's problems."""
        return chain.Draw(self.min_ops, self.max_ops, self.p_hard, self.p_rare, self.p_cue, self.operators, any_letter=self.any_letter)

    @property
    def seen(self) -> list[Problem]:
        """The test problems that the corpus holds, whatever the seed of the training."""
        return _seen(self.n_seen, self.problems) if self.n_seen else []


@lru_cache(8)
def _seen(n: int, how: chain.Draw) -> list[Problem]:
    return chain.load(split="seen", limit=n, seed=0, how=how)


def write_seen(problem: Problem, corpus: Corpus, rng: random.Random) -> list[str]:
    """What the corpus says of a seen problem: mostly its answer, from memory."""
    if rng.random() < corpus.p_recall:
        return ["direct", chain.ANSWER, *problem.answer.split(), chain.EOS]
    return write_trace(problem, corpus, rng)


def write_trace(problem: Problem, corpus: Corpus, rng: random.Random, *, format: str | None = None) -> list[str]:
    """The tokens that an author writes after the prompt, <eos> included. `format` forces the format."""
    operations: list[str] = problem.meta["operations"]
    start: State = tuple(problem.meta["start"])
    letters = chain.LETTERS[problem.meta.get("first", 0) :]
    if format is None:
        format = rng.choices(chain.FORMATS, corpus.formats[problem.meta["cue"]])[0]
    tokens = [format]
    if format == "direct":
        answer = chain.apply(operations[-1], start)  # an author who writes nothing down does only the last operation
        return [*tokens, *_answer(answer, corpus, rng)]

    habits = corpus.habits[format]
    single = "run" if format == "code" else "so"
    state, done = start, 0
    while done < len(operations):
        before, operation = state, operations[done]
        wrong_choice = False
        if done + 1 < len(operations) and rng.random() < habits.leap:
            second = operations[done + 1]
            right = rng.random() < corpus.right_leap
            state = chain.apply(second, chain.apply(operation, before) if right else before)
            tokens += ["leap", letters[done], letters[done + 1], *map(str, state)]
            width, wrong_choice = 2, not right
        elif operation in chain.HARD and rng.random() < habits.split:
            part, state = _parts(operation, before)
            tokens += ["split", letters[done], *part]
            width = 1
        else:
            state, right = _one_step(operation, before, format, corpus, rng)
            tokens += [single, letters[done], *map(str, state)]
            width, wrong_choice = 1, not right and operation in chain.HARD
        tokens += rng.choices(chain.SEPARATORS, corpus.separators)
        if rng.random() < (habits.check_wrong if wrong_choice else habits.check_right):
            if operation in chain.HARD:
                part, state = _parts(operation, before)
            else:
                state, _ = _one_step(operation, before, format, corpus, rng)
                part = [*map(str, state)]
            tokens += ["check", letters[done], *part, *rng.choices(chain.SEPARATORS, corpus.separators)]
            width = 1
        done += width
    return [*tokens, *_answer(state, corpus, rng)]


def _answer(state: State, corpus: Corpus, rng: random.Random) -> list[str]:
    """The answer in its wrapper, and the end."""
    wrapper = "" if corpus.wrappers == CORE else rng.choices(chain.WRAPPERS, corpus.wrappers)[0]
    return [chain.ANSWER, *wrapper.split(), *map(str, state), chain.EOS]


def _parts(operation: str, state: State) -> tuple[list[str], State]:
    """A hard operation written out: name and result of each part."""
    tokens: list[str] = []
    for part in chain.HARD[operation]:
        state = chain.apply(part, state)
        tokens += [part, *map(str, state)]
    return tokens, state


def _one_step(operation: str, state: State, format: str, corpus: Corpus, rng: random.Random) -> tuple[State, bool]:
    """Result of one operation in one go, and whether it is right."""
    chance = 1.0
    if operation in chain.HARD:
        chance = corpus.right_hard
    elif operation in chain.RARE and format != "code":
        chance = corpus.right_rare
    right = rng.random() < chance
    result = (chain.apply if right else chain.misconceive)(operation, state)
    if corpus.slip and operation in chain.EASY and rng.random() < corpus.slip:
        i, by = rng.randrange(3), rng.randrange(1, 10)
        digits = [(d + by) % 10 if j == i else d for j, d in enumerate(result)]
        result = (digits[0], digits[1], digits[2])
    return result, right

