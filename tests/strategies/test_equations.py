"""Arithmetic statements in untrusted text: against a table by hand, against Python's own arithmetic, and on text that tries to hurt."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st

from latentreason.strategies.equations import MAX_STATEMENTS, MAX_TEXT, number, statements
from latentreason.tasks import arith
from latentreason.tasks.arith import worked
from latentreason.tasks.registry import load_task


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("6 + 7 = 13.", [True]),
        ("6+7=14", [False]),
        ("The boxes hold 14 * 6 = 84 muffins, 84 + 5 = 89 in all.", [True, True]),
        ("$5 x 3 + 2 = $17", [True]),
        ("2 + 3 * 4 = 14; 2 + 3 * 4 = 20", [True, False]),
        ("1,200 / 7 = 171.43 and 1,200 / 7 = 171.42", [True, False]),
        ("10 / 3 = 3", [False]),
        ("20% * 50 = 10", [True]),
        (r"\$3.50 \times 2 = \$7.00, 9 \div 3 = 3, 4 \cdot 2 = 8", [True, True, True]),
        ("5 \u00d7 3 = 15, 7 \u2212 2 = 5, 8 \u00f7 2 = 4", [True, True, True]),
        ("-3 + 5 = 2, 3 - 5 = -2", [True, True]),
        ("5 / 0 = 0", [False]),
        ("1/2 + 1/3 = 5/6", []),  # what is stated is not one number
        ("2 + 3 = 5 + 4 = 9", [True]),  # run on: only the last is stated
        ("x + 2 * 3 = 8, 2x + 3 = 7, x^2 + 3 = 7, y2 + 3 = 5", []),
        ("2 * (3 + 4) = 14, (2 + 3) * 4 = 20", []),
        ("3 = 3, 7 <= 8, a = b", []),
        ("12 + 1 = 13.5", [False]),
        ("6 + 7 = 13 (see above), 6 + 8 = 14 - that is all", [True, True]),
        ("12 + 1 = 13x, 12 + 1 = 13(2)", []),
        ("half of 26 is 26 / 2 = 13.", [True]),
        ("5*3=<<5*3=15>>15", [True]),
    ],
)
def test_statements_of_a_table_by_hand(text: str, holds: list[bool]) -> None:
    assert [s.holds for s in statements(text)] == holds


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 999), min_size=2, max_size=6), st.lists(st.sampled_from("+-*"), min_size=5, max_size=5), st.integers(-2, 2))
def test_a_chain_holds_exactly_where_python_says_so(numbers: list[int], signs: list[str], off: int) -> None:
    left = str(numbers[0]) + "".join(f" {sign} {n}" for sign, n in zip(signs, numbers[1:], strict=False))
    value = eval(left)  # the test's own text
    (found,) = statements(f"so {left} = {value + off}.")
    assert found.holds == (off == 0) and found.stated == value + off and found.left == left.replace(" ", "")


def test_what_arith_calls_its_equations_is_found_and_judged_alike() -> None:
    for problem in load_task("arith", limit=30):
        text = worked(problem.question, steps=True)
        assert [s.holds for s in statements(text)] == [row["holds"] for row in arith.check(text)] == [True] * arith.steps_said(text)


@pytest.mark.parametrize(
    "text",
    ["1+" * 200_000 + "1=2", "1 + 1 = 2 " * 100_000, "9" * 300_000 + " + 1 = 2", "1,111" * 60_000 + "+1=2", "$" * 300_000, "1 " * 200_000 + "+ 1 = 2", "\\times" * 60_000],
)  # fmt: skip
def test_hostile_text_costs_little_and_counts_up_to_the_limit(text: str) -> None:
    started = time.process_time()
    found = statements(text)
    assert time.process_time() - started < 2.0
    assert len(found) <= MAX_STATEMENTS and all(s.end <= MAX_TEXT for s in found)


def test_numbers_as_people_write_them() -> None:
    assert (number("$1,234.50"), number("20%"), number("-3"), number(" 7 ")) == (Fraction(2469, 2), Fraction(1, 5), -3, 7)
    assert number("3 apples") is None and number("1/2") is None and number("") is None
