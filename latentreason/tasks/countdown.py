r"""The task `countdown`: reach a target with given numbers and + - * /, each number exactly once.

    Use each of the numbers 3, 7, 25 and 50 exactly once, with + - * / and parentheses, to make 46.

Many expressions are right, so an answer is read and computed, exactly. Model output is untrusted text: it is parsed (never run), short,
and only numbers, the four operations and parentheses are accepted.
"""

import ast
import operator
import random
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

from latentreason.tasks import answers, styles
from latentreason.tasks.problem import Problem, content_hash, split_of

MAX_CHARACTERS = 300
"""Of an expression that is still read: six numbers need 40, and with so few nothing can be deep or large."""

OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip

STYLES = {
    "boxed": styles.QUESTION + " Please reason step by step, and put your final expression within \\boxed{}, as in \\boxed{(1 + 2) * 3}.",
    "plain": styles.PLAIN,
    "few_shot": styles.few_shot(
        (
            (
                "Use each of the numbers 2, 5 and 9 exactly once, with + - * / and parentheses, to make 19.",
                r"2 * 5 = 10 is 9 short of 19, and 9 is the number left: 2 * 5 + 9 = 19. The answer is \boxed{2 * 5 + 9}.",
            ),
            (
                "Use each of the numbers 4, 6, 8 and 50 exactly once, with + - * / and parentheses, to make 34.",
                r"50 - 34 = 16, so 4, 6 and 8 must make 16. 8 * 6 = 48 is too much, but 8 * (6 - 4) = 16 fits: 50 - 8 * (6 - 4) = 34. "
                r"The answer is \boxed{50 - 8 * (6 - 4)}.",
            ),
        )
    ),
}

_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_SPELLINGS = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": "", r"\,": " ", r"\ ": " ", "×": "*", "·": "*", "÷": "/", "\u2212": "-", "$": ""}
_SPELLED = re.compile("|".join(map(re.escape, _SPELLINGS)))
_RUN = re.compile(r"[\d ()+*/×·÷\u2212-]+")


def load(*, split: str, limit: int, seed: int) -> list[Problem]:
    """`limit` distinct problems of a split, in an order fixed by the seed: three or four numbers below 100, a target of two digits."""
    rng = random.Random(f"countdown-{split}-{seed}")
    found: dict[str, Problem] = {}
    while len(found) < limit:
        candidate = draw(rng)
        if candidate and split_of(candidate.id) == split:
            found.setdefault(candidate.id, candidate)
    return list(found.values())


def draw(rng: random.Random) -> Problem | None:
    """One random problem, None where the numbers drawn were joined to something outside 10 to 99. The order of the numbers is not part of its identity."""
    numbers = [rng.randint(1, 99) for _ in range(rng.choice((3, 4)))]
    parts = [(Fraction(n), str(n)) for n in numbers]
    while len(parts) > 1:
        (left, a), (right, b) = (parts.pop(rng.randrange(len(parts))) for _ in range(2))
        sign = rng.choice([s for s in "+-*/" if s != "/" or (right and (left / right).denominator == 1)])
        joined = {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else left}[sign]
        parts.append((joined, f"({a} {sign} {b})"))
    target, expression = parts[0]
    if not 10 <= target <= 99 or target in numbers:
        return None
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    question = f"Use each of the numbers {listed} exactly once, with + - * / and parentheses, to make {target}."
    identity = content_hash(f"countdown {sorted(numbers)} {target}")
    return Problem(identity, question, expression[1:-1], "countdown", {"grader": "countdown", "numbers": numbers, "target": int(target)})


def last_expression(text: str) -> str | None:
    """Flexible extraction: the last box, else the last run of numbers and signs with at least two numbers in it."""
    box = answers.boxed(text)
    if box:
        return box
    runs = [run[0].strip() for run in _RUN.finditer(text)]
    return next((run.removeprefix("- ") for run in reversed(runs) if re.search(r"\d[ ()]*[^\d ()][ (-]*\d", run)), box)


def judge(expression: str, problem: Problem) -> Literal["correct", "wrong", "unparsed"]:
    """Does the expression (a side of an equation will do) use each number exactly once and give the target? Division by zero is wrong."""
    read = parse(expression.partition("=")[0])
    if read is None:
        return "unparsed"
    value, used = read
    same = sorted(used) == sorted(problem.meta["numbers"]) and value == problem.meta["target"]
    return "correct" if same else "wrong"


def parse(expression: str) -> tuple[Fraction | None, list[int]] | None:
    r"""Value (None where it divides by zero) and numbers of an expression with + - * / and parentheses; None where it is anything else.

    >>> parse(r"\frac{3}{6} \times (25 - 7)"), parse("9**9")
    ((Fraction(9, 1), [3, 6, 25, 7]), None)
    """
    if len(expression) > MAX_CHARACTERS:
        return None
    text = expression
    while (plainer := _FRACTION.sub(r"((\1)/(\2))", text)) != text:
        text = plainer
    text = _SPELLED.sub(lambda found: _SPELLINGS[found[0]], text).strip()
    if not re.fullmatch(r"[\d ()+*/-]+", text, re.ASCII):
        return None
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, MemoryError, RecursionError):  # the last two: nested too deeply
        return None
    used: list[int] = []
    try:
        return _value(tree, used), used
    except ZeroDivisionError:
        return None, used
    except (_NotArithmetic, RecursionError):
        return None


class _NotArithmetic(Exception):
    """Some other expression."""


def _value(node: ast.expr, used: list[int]) -> Fraction:
    """Exact value; the numbers are added to `used`."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, used)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](_value(node.left, used), _value(node.right, used))
    raise _NotArithmetic
