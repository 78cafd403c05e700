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
from dataclasses import asdict, dataclass

from latentreason.errors import InvalidInput
from latentreason.tasks import styles
from latentreason.tasks.problem import Problem, content_hash, in_split

State = tuple[int, int, int]

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
DIGITS = tuple("0123456789")
LETTERS = tuple("abcdef")
CUES = ("A", "B", "C")
FORMATS = ("direct", "go", "think", "code")
STRATEGIES = ("so", "run", "leap", "split", "check")
SEPARATORS = (",", ";")
ANSWER = "ans"
WRAPPERS = ("", ":", "=")
"""What may stand between `ans` and the digits. The strict grader takes the first, nothing; the flexible one takes them all."""


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


def prompt(start: State, operations: list[str], cue: str = "", first: int = 0) -> str:
    """The prompt text, without <bos>. The letter of the first operation is number `first`."""
    steps = [f"{letter} {operation}" for letter, operation in zip(LETTERS[first:], operations, strict=False)]
    return " ".join([*([cue] if cue else []), *map(str, start), ":", *steps, "="])


def problem(start: State, operations: list[str], cue: str = "", first: int = 0) -> Problem:
    """The Problem of a start state and operations; neither the cue nor the first letter is part of its identity."""
    answer = " ".join(map(str, states(start, operations)[-1]))
    meta = {"start": list(start), "operations": list(operations), "cue": cue, **({"first": first} if first else {})}
    return Problem(content_hash(prompt(start, operations)), prompt(start, operations, cue, first), answer, "chain", meta)


@dataclass(frozen=True)
class Draw:
    """A distribution of problems.

    Attributes:
        min_ops, max_ops: number of operations, uniform.
        p_hard, p_rare: that an operation is hard or rare.
        p_cue: that the prompt begins with an author cue.
        operators: what operations are drawn from.
        must: each problem holds one of these, in place of another operation where it has none.
        any_letter: the first operation may have any letter that leaves letters for the others.
        misleading: only problems that an author gets wrong who misconceives every hard operation.
        shortcut: share of the problems whose last operation alone, on the start state, gives the right answer; none has this by accident where
            problems are misleading.

    Raises:
        InvalidInput: the operators cannot express the task, or a number is out of range.
    """

    min_ops: int = 3
    max_ops: int = 6
    p_hard: float = 0.3
    p_rare: float = 0.02
    p_cue: float = 0.5
    operators: tuple[str, ...] = OPERATIONS
    must: tuple[str, ...] = ()
    any_letter: bool = False
    misleading: bool = False
    shortcut: float = 0.0

    def __post_init__(self) -> None:
        if strange := sorted({*self.operators, *self.must} - set(OPERATIONS)):
            raise InvalidInput(f"No operation is called {strange[0]!r}. The operations are {', '.join(OPERATIONS)}.")
        known = set(self.operators)
        for kind, names, share in (("easy", EASY, 1.0 - self.p_hard - self.p_rare), ("hard", HARD, self.p_hard), ("rare", RARE, self.p_rare)):
            if share > 1e-9 and known.isdisjoint(names):
                raise InvalidInput(f"{share:.0%} of the operations are to be {kind}, but the operators {self.operators} hold none of {tuple(names)}. Add one, or set that share to 0.")
        for name in HARD:
            if name in known and (lost := [part for part in HARD[name] if part not in known]):
                raise InvalidInput(f"The operators hold {name!r} but not its part {lost[0]!r}, so it could not be split. Add {lost[0]!r}, or leave {name!r} out.")
        if not (all(0.0 <= p <= 1.0 for p in (self.p_hard, self.p_rare, self.p_cue, self.shortcut)) and self.p_hard + self.p_rare <= 1.0):
            raise InvalidInput(f"p_hard {self.p_hard} (with p_rare {self.p_rare}), p_cue {self.p_cue} and shortcut {self.shortcut} must lie in [0, 1].")
        if self.misleading and not (self.p_hard > 0.0 or set(self.must) & HARD.keys()):
            raise InvalidInput("Only hard operations mislead. Raise p_hard, or set misleading=False.")
        if not 1 <= self.min_ops <= self.max_ops <= len(LETTERS):
            raise InvalidInput(f"Need 1 <= min_ops <= max_ops <= {len(LETTERS)}, the number of step letters; found {self.min_ops} and {self.max_ops}.")


def drawable(how: Draw) -> set[str]:
    """The operations that problems of a distribution can hold.

    >>> sorted(drawable(Draw(p_hard=0.0, p_rare=0.0, operators=("rot", "inc"), must=("swp",))))
    ['inc', 'rot', 'swp']
    """
    kinds = ((EASY, 1.0 - how.p_hard - how.p_rare), (HARD, how.p_hard), (RARE, how.p_rare))
    return {name for names, share in kinds if share > 1e-9 for name in names if name in how.operators} | set(how.must)


def misleads(start: State, operations: list[str]) -> bool:
    """Whether an author who misconceives every hard operation gets a wrong answer.

    >>> misleads((4, 7, 1), ["fuse"]), misleads((4, 7, 1), ["fuse", "fuse"])
    (True, False)
    """
    misled = start
    for operation in operations:
        misled = misconceive(operation, misled) if operation in HARD else apply(operation, misled)
    return misled != states(start, operations)[-1]


def has_shortcut(start: State, operations: list[str]) -> bool:
    """Whether the last operation alone gives the right answer.

    >>> has_shortcut((4, 7, 1), ["inc", "dec", "rev"]), has_shortcut((4, 7, 1), ["inc", "rev"])
    (True, False)
    """
    return apply(operations[-1], start) == states(start, operations)[-1]


def draw(rng: random.Random, *, min_ops: int = 3, max_ops: int = 6, p_hard: float = 0.3, p_rare: float = 0.02, p_cue: float = 0.5, operators: tuple[str, ...] = OPERATIONS,
         must: tuple[str, ...] = (), any_letter: bool = False, misleading: bool = False, shortcut: float = 0.0) -> Problem:  # fmt: skip
    """One random problem; the arguments are those of `Draw`.

    Raises:
        InvalidInput: of many draws none was misleading, or had a shortcut, as it should.
    """
    rare, hard, easy = (tuple(name for name in kind if name in operators) for kind in (RARE, HARD, EASY))
    wanted = shortcut > 0.0 and rng.random() < shortcut
    for _ in range(20_000):
        start: State = (rng.randrange(10), rng.randrange(10), rng.randrange(10))
        operations = []
        for _ in range(rng.randint(min_ops, max_ops)):
            u = rng.random()
            operations.append(rng.choice(rare if u < p_rare else hard if u < p_rare + p_hard else easy))
        if must and set(must).isdisjoint(operations):
            operations[rng.randrange(len(operations))] = rng.choice(must)
        if misleading and (not misleads(start, operations) or has_shortcut(start, operations) != wanted):
            continue
        if not wanted or has_shortcut(start, operations):
            break
    else:
        raise InvalidInput(f"Among 20000 problems of {sorted(operators)} none is {'misleading' if misleading else ''}{' with a' if wanted else ' without a'} shortcut. Use other operators, or leave that away.")
    cue = rng.choice(CUES) if rng.random() < p_cue else ""
    return problem(start, operations, cue, rng.randint(0, len(LETTERS) - len(operations)) if any_letter else 0)


def load(*, split: str, limit: int, seed: int, how: Draw = Draw()) -> list[Problem]:
    """`limit` distinct problems of a split (`seen` and `clean` are the halves of test), in an order fixed by the seed.

    Raises:
        InvalidInput: the distribution does not hold that many.
    """
    rng = random.Random(f"chain-{split}-{seed}")
    found: dict[str, Problem] = {}
    draws = 200 * limit + 10_000
    for _ in range(draws):
        candidate = draw(rng, **asdict(how))
        if in_split(candidate.id, split):
            found.setdefault(candidate.id, candidate)
        if len(found) == limit:
            return list(found.values())
    raise InvalidInput(f"Found {len(found)} different problems of the split {split!r} in {draws} draws, not {limit}. Ask for fewer, or for longer problems.")


def clean_twins(seen: list[Problem]) -> list[Problem]:
    """For each problem one of the clean half of test with the same operations and cue, from another start.

    Raises:
        InvalidInput: no start state of some problem gives one.
    """
    twins: list[Problem] = []
    taken = {p.id for p in seen}
    for each in seen:
        starts = list(range(1000))
        random.Random(f"twin-{each.id}").shuffle(starts)
        candidates = (problem((n // 100, n // 10 % 10, n % 10), each.meta["operations"], each.meta["cue"], each.meta.get("first", 0)) for n in starts)
        twin = next((c for c in candidates if in_split(c.id, "clean") and c.id not in taken), None)
        if twin is None:
            raise InvalidInput(f"Problem {each.id} has no clean twin: none of its 1000 start states is free. Use other problems.")
        taken.add(twin.id)
        twins.append(twin)
    return twins


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
