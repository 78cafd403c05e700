r"""Arithmetic statements in a text, and whether they hold: "14 * 6 = 84", "$5 x 3 + 2 = $17", "1,200 / 7 = 171.43".

Model output is untrusted text: it is matched by patterns of bounded length, never evaluated as code, and read up to `MAX_TEXT`
characters and `MAX_STATEMENTS` statements. Numbers are fractions, so nothing is rounded but what the text itself rounds: a result with
decimals holds when it is the value to that many decimals, a whole one only when it is exact. What has brackets, powers or letters next to
its numbers is left alone, not guessed at. Example::

    [s.holds for s in statements("6 + 7 = 13, so 13 * 2 = 25.")]    # [True, False]
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_TEXT = 20_000
MAX_STATEMENTS = 500

_SIGNS = str.maketrans({"\u00d7": "*", "\u00b7": "*", "\u22c5": "*", "\u00f7": "/", "\u2212": "-", "\u2013": "-"})
_TEX = re.compile(r"\\(times|cdot|div)(?![a-zA-Z])|\\([$%])")
_NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:\.\d{1,10})?%?"
_OPERAND = rf"\$?{_NUMBER}"
_STATEMENT = re.compile(rf"(-?{_OPERAND})((?:[ \t]{{0,2}}[-+*/xX][ \t]{{0,2}}{_OPERAND}){{1,10}})[ \t]{{0,2}}=[ \t]{{0,2}}(\$?-?{_OPERAND})")
_NEXT = re.compile(rf"([-+*/xX])[ \t]{{0,2}}({_OPERAND})")
_GOES_ON = re.compile(r"[\w^(]|[ \t]{0,2}[-+*/^][ \t]{0,2}[\d$(]|[.,]\d")


@dataclass(frozen=True)
class Statement:
    """One statement: `start` and `end` in the characters of the text, `left` without spaces, the number stated, and whether it holds."""

    start: int
    end: int
    left: str
    stated: Fraction
    holds: bool


def statements(text: str) -> list[Statement]:
    """The arithmetic statements of a text, in order. Positions are those of the text with its signs spelt plainly."""
    plain = spelt(text)
    found: list[Statement] = []
    match = _STATEMENT.search(plain)
    while match and len(found) < MAX_STATEMENTS:
        this, match = match, _STATEMENT.search(plain, match.start(3))  # what is stated may begin the next one: 2 + 3 = 5 + 4 = 9
        before = plain[max(0, this.start() - 4) : this.start()]
        if before[-1:].isalnum() or before[-1:] in ("_", ".", ",", "^") or before.rstrip()[-1:] in ("+", "-", "*", "/", "^"):
            continue  # the tail of a longer expression
        if _GOES_ON.match(plain, this.end()):
            continue  # "1/2 + 1/3 = 5/6": what is stated is not this number alone
        first, rest, result = this.groups()
        value, stated = _value(first, _NEXT.findall(rest)), _number(result)
        left = re.sub(r"[ \t$]", "", first + rest).replace("x", "*").replace("X", "*")
        found.append(Statement(this.start(), this.end(), left, stated, value is not None and _equal(value, stated, result)))
    return found


def spelt(text: str) -> str:
    """The first `MAX_TEXT` characters of a text, with its signs in ASCII."""
    signs = {"times": "*", "cdot": "*", "div": "/"}
    return _TEX.sub(lambda m: signs[m[1]] if m[1] else m[2], text[:MAX_TEXT].translate(_SIGNS))


def number(text: str) -> Fraction | None:
    """A number such as 1,200 or $3.50; None for anything else."""
    return _number(text.strip()) if re.fullmatch(rf"\$?-?{_OPERAND}", text.strip()) else None


def _number(text: str) -> Fraction:
    bare = text.replace("$", "").replace(",", "")
    return Fraction(bare[:-1]) / 100 if bare.endswith("%") else Fraction(bare)


def _value(first: str, rest: list[tuple[str, str]]) -> Fraction | None:
    """The value of a chain of operations, products first; None for a division by zero."""
    terms = [_number(first)]
    for sign, operand in rest:
        value = _number(operand)
        if sign in "*xX":
            terms[-1] *= value
        elif sign == "/":
            if value == 0:
                return None
            terms[-1] /= value
        else:
            terms.append(value if sign == "+" else -value)
    return sum(terms, Fraction(0))


def _equal(value: Fraction, stated: Fraction, text: str) -> bool:
    digits = text.rstrip("%").rpartition(".")[2] if "." in text else ""
    last = Fraction(1, 10 ** len(digits)) / (100 if text.endswith("%") else 1)
    return value == stated if not digits else abs(value - stated) <= last / 2
