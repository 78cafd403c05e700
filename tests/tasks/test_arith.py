"""Task `arith`: problems, its grader and its checker, against Python's own arithmetic."""

import pytest
from hypothesis import given, strategies as st

from latentreason.tasks import arith
from latentreason.tasks.grading import grade
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import load_task


def test_answers_are_those_of_left_to_right_arithmetic_and_no_shot_is_drawn():
    problems = load_task("arith", split="train", limit=300, seed=3)
    assert len({p.id for p in problems}) == 300 and {p.meta["family"] for p in problems} == set(arith.FAMILIES)
    for p in problems:
        assert p.answer == str(eval(p.question)), p.question  # precedence changes nothing: products come first
        assert p.question not in dict(arith.SHOTS)
    assert all(eval(question) == answer for question, answer in arith.SHOTS)


def test_splits_share_no_problem_and_a_longer_list_begins_with_the_shorter():
    splits = {split: {p.id for p in load_task("arith", split=split, limit=200)} for split in ("train", "fit", "calibration", "test")}
    assert sum(map(len, splits.values())) == len(set().union(*splits.values()))
    assert load_task("arith", limit=20, seed=5) == load_task("arith", limit=50, seed=5)[:20]


@pytest.mark.parametrize(("text", "strict", "flexible"), [
    (" First, 6 + 7 = 13. Then, 13 - 8 = 5. The answer is 5.\n", "correct", "correct"),
    (" The answer is 5.\n", "correct", "correct"),
    (" The answer is 5", "no_answer", "correct"),
    (" It is 5\n", "no_answer", "correct"),
    (" The answer is 4. The answer is 5.\n", "correct", "correct"),
    (" The answer is 5. The answer is 4.\n", "wrong", "wrong"),
    (" The answer is 5.\n\nCompute 7 + 8", "correct", "correct"),
    (" The answer is -5.\n", "wrong", "wrong"),
    (" There is no rule for this.", "no_answer", "no_answer"),
])  # fmt: skip
def test_the_strict_grade_wants_the_sentence_the_flexible_one_the_number(text, strict, flexible):
    problem = Problem("", "6 + 7 - 8", "5", "arith")
    assert (grade(text, problem).status, grade(text, problem, flexible=True).status) == (strict, flexible)
    assert grade("First, 6", problem, truncated=True).status == "truncated"


@pytest.fixture(scope="module")
def problems():
    return load_task("arith", split="fit", limit=200)


@given(st.integers(0, 199), st.booleans())
def test_a_worked_answer_is_right_and_only_the_steps_derive_it(problems, index, steps):
    problem = problems[index]
    text = arith.worked(problem.question, steps=steps)
    assert grade(text, problem).correct and arith.derived(text, problem) == steps
    assert arith.steps_said(text) == (len(arith.FAMILIES[problem.meta["family"]]) if steps else 0)
    assert all(row["holds"] for row in arith.check(text))


def test_a_wrong_step_is_seen_though_the_answer_is_right():
    problem = Problem("", "6 + 7 - 8", "5", "arith")
    text = "First, 6 + 7 = 14. Then, 14 - 8 = 5. The answer is 5."
    assert grade(text, problem).correct and not arith.derived(text, problem)
    assert [row["holds"] for row in arith.check(text)] == [False, False]


@pytest.mark.parametrize("style", arith.STYLES)
def test_every_shot_of_a_prompt_is_right(style):
    for block in arith.STYLES[style].split("\n\n")[:-1]:
        question, answer = block.removeprefix("Q: ").split("\nA: ")
        problem = Problem("", question, str(eval(question)), "arith")
        assert grade(answer, problem).correct and all(row["holds"] for row in arith.check(answer))
    assert arith.STYLES[style].endswith("Q: {question}\nA:") and arith.STYLES[style].count("{question}") == 1
