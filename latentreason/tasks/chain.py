"""The task `chain`: apply a list of operations to a state of three digits.

A prompt is an optional author cue, the start state and the operations, each with a letter as its step index::

    <bos> B 4 7 1 : a rot b mix c inc =

A trace begins with a format, goes through the operations by strategies (each closed by one of two separators, a matter
of style alone), and ends with the answer::

    think so a 7 1 4 , split b rot 1 4 7 inc 2 5 8 ; so c 3 6 9 , ans 3 6 9 <eos>

This file knows the operations, the tokens and the problems. It does not know how authors behave (`organisms/corpus.py`)
nor how a trace is parsed (`strategies/grammar.py`).
"""

import random
from collections.abc import Callable

from latentreason.tasks import styles
from latentreason.tasks.problem import Problem, content_hash, split_of

State = tuple[int, int, int]

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
DIGITS = tuple("0123456789")
LETTERS = tuple("abcdef")
CUES = ("A", "B", "C")
FORMATS = ("direct", "go", "think", "code")
STRATEGIES = ("so", "run", "leap", "split", "check")
SEPARATORS = (",", ";")
ANSWER = "ans"

N_ANSWERS = 1000
"""Possible answers, for the guessing floor of pass@k."""


def _each(change: Callable[[int], int]) -> Callable[[State], State]:
    return lambda s: (change(s[0]) % 10, change(s[1]) % 10, change(s[2]) % 10)


EASY: dict[str, Callable[[State], State]] = {
    "rot": lambda s: (s[1], s[2], s[0]),
    "swp": lambda s: (s[1], s[0], s[2]),
    "rev": lambda s: (s[2], s[1], s[0]),
    "inc": _each(lambda d: d + 1),
    "dec": _each(lambda d: d - 1),
    "flip": _each(lambda d: 9 - d),
}
"""Operations that every author gets right in a single step."""

HARD: dict[str, tuple[str, str]] = {"mix": ("rot", "inc"), "fuse": ("swp", "flip"), "warp": ("dec", "rev")}
"""Operations made of two easy parts; `split` writes the parts out, the common misconception forgets the second."""

RARE: dict[str, tuple[Callable[[State], State], Callable[[State], State]]] = {
    "dbl": (_each(lambda d: 2 * d), _each(lambda d: d + 2)),
    "tri": (_each(lambda d: 3 * d), _each(lambda d: d + 3)),
    "sqr": (_each(lambda d: d * d), _each(lambda d: d + 4)),
}
"""Operations (right, misconception) that authors know only in the format `code`."""

OPERATIONS = (*EASY, *HARD, *RARE)
VOCABULARY = (PAD, BOS, EOS, *DIGITS, *LETTERS, *CUES, ":", "=", *OPERATIONS, *FORMATS, *STRATEGIES, *SEPARATORS, ANSWER)
N_ANSWERS = 1000
"""Number of possible answers: the guessing floor of pass@k is 1 - (1 - 1/N_ANSWERS)^k."""

STYLES = {"plain": styles.PLAIN}
"""The question is the prompt: organisms know no other words."""


def apply(operation: str, state: State) -> State:
    """The right result of one operation.

    >>> apply("mix", (4, 7, 1))
    (8, 2, 5)
    """
    if operation in EASY:
        return EASY[operation](state)
    if operation in HARD:
        first, second = HARD[operation]
        return EASY[second](EASY[first](state))
    return RARE[operation][0](state)


def misconceive(operation: str, state: State) -> State:
    """The systematic wrong result: a hard operation without its second part, a rare one taken for an addition."""
    if operation in HARD:
        return EASY[HARD[operation][0]](state)
    if operation in RARE:
        return RARE[operation][1](state)
    return EASY[operation](state)


def states(start: State, operations: list[str]) -> list[State]:
    """The right state before the first operation and after each one (`len(operations) + 1` of them)."""
    out = [start]
    for operation in operations:
        out.append(apply(operation, out[-1]))
    return out


def prompt(start: State, operations: list[str], cue: str = "") -> str:
    """The prompt text, without <bos>."""
    steps = [f"{letter} {operation}" for letter, operation in zip(LETTERS, operations, strict=False)]
    return " ".join([*([cue] if cue else []), *map(str, start), ":", *steps, "="])


def problem(start: State, operations: list[str], cue: str = "") -> Problem:
    """The Problem of a start state and operations; the cue is not part of its identity."""
    answer = " ".join(map(str, states(start, operations)[-1]))
    meta = {"start": list(start), "operations": list(operations), "cue": cue}
    return Problem(content_hash(prompt(start, operations)), prompt(start, operations, cue), answer, "chain", meta)


def draw(rng: random.Random, *, min_ops: int = 3, max_ops: int = 6, p_hard: float = 0.3, p_rare: float = 0.02, p_cue: float = 0.5) -> Problem:
    """One random problem. `p_hard` and `p_rare` are per operation."""
    start: State = (rng.randrange(10), rng.randrange(10), rng.randrange(10))
    operations = []
    for _ in range(rng.randint(min_ops, max_ops)):
        u = rng.random()
        pool = tuple(RARE) if u < p_rare else tuple(HARD) if u < p_rare + p_hard else tuple(EASY)
        operations.append(rng.choice(pool))
    return problem(start, operations, rng.choice(CUES) if rng.random() < p_cue else "")


def load(*, split: str, limit: int, seed: int) -> list[Problem]:
    """`limit` distinct problems of a split, in an order fixed by the seed."""
    rng = random.Random(f"chain-{split}-{seed}")
    found: dict[str, Problem] = {}
    while len(found) < limit:
        candidate = draw(rng)
        if split_of(candidate.id) == split:
            found.setdefault(candidate.id, candidate)
    return list(found.values())


def final_answer(text: str) -> str | None:
    """Strict extraction: `ans` and three digits at the very end; "" where `ans` is followed by something else, None without `ans`."""
    words = text.split()
    if ANSWER not in words:
        return None
    tail = words[words.index(ANSWER) + 1 :]
    return " ".join(tail) if len(tail) == 3 and all(w in DIGITS for w in tail) else ""


def last_state(text: str) -> str | None:
    """Flexible extraction: the last three digits in a row, wherever they stand."""
    words = text.split()
    for end in range(len(words), 2, -1):
        if all(w in DIGITS for w in words[end - 3 : end]):
            return " ".join(words[end - 3 : end])
    return None
