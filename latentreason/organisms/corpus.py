"""The pretraining corpus of an organism: authors who choose formats and strategies, some of them badly.

An error never comes from a random slip. It comes from a bad CHOICE: a leap (two operations at once) or a hard operation
in one go mostly gives the author's systematic misconception; the same operations in single steps or split into parts
are always right. So a model that learns WHEN to split, to step and to check is right without any new skill.
"""

import random
from dataclasses import dataclass

from latentreason.tasks import chain
from latentreason.tasks.chain import State
from latentreason.tasks.problem import Problem


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
        min_ops, max_ops, p_hard, p_rare, p_cue: distribution of problems, see `chain.draw`.
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


def write_trace(problem: Problem, corpus: Corpus, rng: random.Random, *, format: str | None = None) -> list[str]:
    """The tokens that an author writes after the prompt, <eos> included. `format` forces the format."""
    operations: list[str] = problem.meta["operations"]
    start: State = tuple(problem.meta["start"])
    if format is None:
        format = rng.choices(chain.FORMATS, corpus.formats[problem.meta["cue"]])[0]
    tokens = [format]
    if format == "direct":
        answer = chain.apply(operations[-1], start)  # an author who writes nothing down does only the last operation
        return [*tokens, chain.ANSWER, *map(str, answer), chain.EOS]

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
            tokens += ["leap", chain.LETTERS[done], chain.LETTERS[done + 1], *map(str, state)]
            width, wrong_choice = 2, not right
        elif operation in chain.HARD and rng.random() < habits.split:
            part, state = _parts(operation, before)
            tokens += ["split", chain.LETTERS[done], *part]
            width = 1
        else:
            state, right = _one_step(operation, before, format, corpus, rng)
            tokens += [single, chain.LETTERS[done], *map(str, state)]
            width, wrong_choice = 1, not right and operation in chain.HARD
        tokens += rng.choices(chain.SEPARATORS, corpus.separators)
        if rng.random() < (habits.check_wrong if wrong_choice else habits.check_right):
            if operation in chain.HARD:
                part, state = _parts(operation, before)
            else:
                state, _ = _one_step(operation, before, format, corpus, rng)
                part = [*map(str, state)]
            tokens += ["check", chain.LETTERS[done], *part, *rng.choices(chain.SEPARATORS, corpus.separators)]
            width = 1
        done += width
    return [*tokens, chain.ANSWER, *map(str, state), chain.EOS]


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
    return (chain.apply if right else chain.misconceive)(operation, state), right

