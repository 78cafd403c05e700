"""Grades of completions written by hand: strict, flexible, cut off, and hostile."""

import time

import pytest
from hypothesis import given, settings, strategies as st

from latentreason.tasks import chain
from latentreason.tasks.grading import grade

PROBLEM = chain.problem((4, 7, 1), ["rot"])  # 7 1 4


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("go so a 7 1 4 , ans 7 1 4", "correct", "correct"),
        ("direct ans 7 1 4", "correct", "correct"),
        ("ans 7 1 4", "correct", "correct"),
        ("  ans\t7  1\n4 ", "correct", "correct"),
        ("go so a 7 1 4 , ans 7 1 5", "wrong", "wrong"),
        ("go so a 9 9 9 , ans 7 1 4", "correct", "correct"),  # the trace is not what is graded
        ("ans 4 1 7", "wrong", "wrong"),
        ("go so a 7 1 4", "no_answer", "correct"),
        ("go so a 7 1 4 , so b 1 1 1 ,", "no_answer", "wrong"),
        ("7 1 4", "no_answer", "correct"),
        ("the answer is 7 1 4", "no_answer", "correct"),
        ("ans 7 1 4 .", "unparsed", "correct"),
        ("ans 7 1 4 so", "unparsed", "correct"),
        ("ans 7 1", "unparsed", "no_answer"),
        ("ans", "unparsed", "no_answer"),
        ("ans 7 1 4 4", "unparsed", "wrong"),
        ("ans 714", "unparsed", "no_answer"),
        ("ans 7 1 x", "unparsed", "no_answer"),
        ("ans 1 1 1 ans 7 1 4", "unparsed", "correct"),  # two answers are none
        ("ANS 7 1 4", "no_answer", "correct"),
        ("ans ٧ ١ ٤", "unparsed", "no_answer"),  # digits, but not ours
        ("ans 7.0 1 4", "unparsed", "no_answer"),
        ("ans +7 1 4", "unparsed", "no_answer"),
        ("", "no_answer", "no_answer"),
        ("   ", "no_answer", "no_answer"),
        ("so so so", "no_answer", "no_answer"),
    ],
)
def test_strict_and_flexible(text, strict, flexible):
    assert grade(text, PROBLEM).status == strict
    assert grade(text, PROBLEM, flexible=True).status == flexible
    assert grade(text, PROBLEM).correct is (strict == "correct")


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("go so a", "truncated", "truncated"),
        ("", "truncated", "truncated"),
        ("go so a 7 1 4 ,", "truncated", "correct"),
        ("go so a 7 1 4 , ans 7 1 4", "correct", "correct"),  # the answer was there before the limit
        ("go so a 7 1 4 , ans 7 1 5", "wrong", "wrong"),
        ("go so a 7 1 4 , ans 7 1", "truncated", "correct"),  # cut off inside its answer
    ],
)
def test_completions_that_hit_the_limit(text, strict, flexible):
    assert grade(text, PROBLEM, truncated=True).status == strict
    assert grade(text, PROBLEM, flexible=True, truncated=True).status == flexible


def test_the_extracted_answer_is_kept_for_audits():
    assert grade("ans 1 2 3", PROBLEM).extracted == "1 2 3"
    assert grade("x 1 2 3 y 4 5", PROBLEM, flexible=True).extracted == "1 2 3"
    assert grade("nothing", PROBLEM).extracted is None and grade("ans ?", PROBLEM).extracted is None


HOSTILE = {
    "html": "<script>alert('ans 7 1 4')</script><img src=x onerror=alert(1)>",
    "a million of nothing": "x" * 1_000_000,
    "a million words": "x " * 500_000,
    "a million digits": "1 " * 500_000,
    "digits in pairs": "1 1 x " * 170_000,
    "answers": "ans " * 250_000,
    "control characters": "".join(map(chr, range(32))) * 1000 + "\x7f\x1b[31m\u202e\ud800\ufeff",
    "spaces": " \n\t\u2003" * 250_000,
    "code": "__import__('os').system('true') $(true) `true` {0.__class__} %s %n",
    "a number that is a bomb": "9**9**9**9 ans 9e999999999 1 1",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_graded_fast_and_never_raises(text):
    started = time.monotonic()
    for flexible in (False, True):
        for truncated in (False, True):
            assert grade(text, PROBLEM, flexible=flexible, truncated=truncated).status != "correct"
    assert time.monotonic() - started < 5


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["ans", "7", "1", "4", "so", "a", ",", "<eos>"]), max_size=12).map(" ".join) | st.text(max_size=60))
def test_what_is_right_strictly_is_right_flexibly(text):
    strict, flexible = grade(text, PROBLEM), grade(text, PROBLEM, flexible=True)
    if strict.correct:
        assert flexible.correct and text.split()[-4:] == ["ans", "7", "1", "4"]
    assert grade(text, PROBLEM, truncated=True).correct == strict.correct  # where it was cut off cannot make an answer
