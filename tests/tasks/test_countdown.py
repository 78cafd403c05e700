"""Countdown: problems that have a solution, and expressions that are read without being run."""

import itertools
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st

from latentreason.tasks import countdown
from latentreason.tasks.grading import grade
from latentreason.tasks.problem import SPLITS, Problem, split_of
from latentreason.tasks.registry import load_task

PROBLEM = Problem("0", "q", "50 - (7 - 3)", "countdown", {"grader": "countdown", "numbers": [3, 7, 50], "target": 46})


def reachable(numbers: list[Fraction]) -> set[Fraction]:
    """Every value that uses all of the numbers, by brute force."""
    if len(numbers) == 1:
        return {numbers[0]}
    found = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest, (a, b) = [n for k, n in enumerate(numbers) if k not in (i, j)], (numbers[i], numbers[j])
        for value in (a + b, a - b, a * b, *([a / b] if b else [])):
            found |= reachable([*rest, value])
    return found


def test_every_problem_has_the_solution_that_it_names():
    problems = load_task("countdown", limit=60, seed=2)
    assert {len(p.meta["numbers"]) for p in problems} == {3, 4}
    for problem in problems:
        assert grade(rf"so \boxed{{{problem.answer}}}", problem).correct
        assert 10 <= problem.meta["target"] <= 99 and problem.meta["target"] not in problem.meta["numbers"]
        assert all(f"{n}" in problem.question for n in [*problem.meta["numbers"], problem.meta["target"]])
    for problem in problems[:12]:
        assert problem.meta["target"] in reachable([Fraction(n) for n in problem.meta["numbers"]])


def test_loading_is_deterministic_distinct_and_split_by_hash():
    parts = {split: load_task("countdown", split=split, limit=40, seed=5) for split in SPLITS}
    assert parts["test"] == load_task("countdown", split="test", limit=40, seed=5) and parts["test"][:10] == load_task("countdown", limit=10, seed=5)
    ids = [p.id for part in parts.values() for p in part]
    assert len(set(ids)) == 160 and all(split_of(p.id) == split for split, part in parts.items() for p in part)
    assert load_task("countdown", limit=10, seed=6) != parts["test"][:10]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("50 - (7 - 3)", "correct"),
        ("50 - 7 + 3", "correct"),
        ("(3 - 7) + 50 = 46", "correct"),
        (r"50 - \left(7 - 3\right)", "correct"),
        ("-7 + 50 + 3", "correct"),
        ("50 \u2212 7 + 3", "correct"),
        (r"$50 - 7 + 3$", "correct"),
        ("50 - 7 - 3", "wrong"),
        ("46", "wrong"),
        ("50 - 7 + 3 + 3 - 3", "wrong"),  # a number more than once
        ("50 - 4", "wrong"),  # not all, and one that is not there
        ("50 / (7 - 7)", "wrong"),
        ("50 - 7 + 3.0", "unparsed"),
        ("5 0 - 7 + 3", "unparsed"),
        ("50 - 7 + x", "unparsed"),
        ("50 - 7 +", "unparsed"),
        ("3 ** 7 ** 50", "unparsed"),
        ("50 // 7 // 3", "unparsed"),
        ("50(7 - 3)", "unparsed"),
        ("[50, 7, 3]", "unparsed"),
        ("50, 7, 3", "unparsed"),
        ("٥٠ - 7 + 3", "unparsed"),
        ("__import__('os').system('true')", "unparsed"),
        ("50 if 7 else 3", "unparsed"),
        ("9" * 299, "wrong"),
        ("(" * 150 + "50" + ")" * 150, "unparsed"),
        ("1+" * 149 + "1", "wrong"),
        ("-" * 290 + "50", "wrong"),
        ("1" + "*9" * 1000, "unparsed"),
        (r"\frac{" * 40 + "1" + "}" * 40, "unparsed"),
    ],
)
def test_an_expression_is_read_and_computed_or_refused(answer, status):
    began = time.monotonic()
    assert countdown.judge(answer, PROBLEM) == status
    if "{" not in answer:
        assert grade(rf"so \boxed{{{answer}}}.", PROBLEM).status == status
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (r"so \boxed{50 - 7 + 3}", "correct", "correct"),
        ("so 50 - 7 + 3 = 46", "no_answer", "correct"),
        ("First 50 - 7 = 43.\n- 43 + 3 = 46\nSo 50 - 7 + 3.", "no_answer", "correct"),
        ("- 50 - 7 + 3 = 46", "no_answer", "correct"),  # a bullet, not a sign
        ("50 - 7 + 3 works, I checked all 6 cases", "no_answer", "correct"),
        ("<think>50 - 7 + 3", "no_answer", "no_answer"),
        ("<think>50 - 3</think>(50 - 7) + 3", "no_answer", "correct"),
        ("I do not know, maybe 46", "no_answer", "no_answer"),
        (r"\boxed{", "unparsed", "unparsed"),
    ],
)
def test_strict_and_flexible(text, strict, flexible):
    assert grade(text, PROBLEM).status == strict and grade(text, PROBLEM, flexible=True).status == flexible


def test_of_text_that_was_cut_off_nothing_counts_as_wrong():
    assert grade("so 50", PROBLEM, truncated=True).status == "truncated"
    assert grade("so 50", PROBLEM, flexible=True, truncated=True).status == "truncated"


@pytest.mark.parametrize("text", ["1+" * 500_000, " " * 1_000_000, "(" * 1_000_000, "1 " * 500_000, r"\boxed{" + "1+" * 500_000 + "1}"])
def test_hostile_text_is_graded_fast(text):
    began = time.monotonic()
    assert not grade(text, PROBLEM).correct and not grade(text, PROBLEM, flexible=True).correct
    assert time.monotonic() - began < 5


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.integers(0, 99).map(str), lambda e: st.tuples(e, st.sampled_from("+-*"), e).map(lambda t: f"({t[0]} {t[1]} {t[2]})"), max_leaves=8))
def test_values_are_those_of_python(expression):
    value, used = countdown.parse(expression)
    assert value == eval(expression)
    assert used == [int(w) for w in expression.replace("(", " ").replace(")", " ").split() if w.isdigit()]


def test_fractions_are_exact():
    assert countdown.parse(r"1 / 3 * 3 - \frac{2}{\dfrac{4}{2}}") == (Fraction(0), [1, 3, 3, 2, 4, 2])
    assert countdown.parse(r"1 \div 3 \times 3") == (Fraction(1), [1, 3, 3])
