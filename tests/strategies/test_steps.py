"""Step checkers against traces made by hand, and against the authors of an organism's corpus, who know where they err."""

import random

import pytest

from latentreason.organisms.corpus import write_trace
from latentreason.organisms.zoo import ACTIVATION, EXPERT
from latentreason.strategies.grammar import parse
from latentreason.strategies.steps import Checked, check_arith, check_arithmetic, check_chain, way
from latentreason.tasks import chain
from latentreason.tasks.arith import worked
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import load_task

PROBLEM = chain.problem((4, 7, 1), ["rot", "mix", "inc"])  # 714, then rot 147 and inc 258, then 369


@pytest.mark.parametrize(
    ("text", "status", "steps", "wrong", "standing", "valid"),
    [
        ("go so a 7 1 4 , so b 2 5 8 ; so c 3 6 9 , ans 3 6 9", "parsed", 4, 0, 0, True),
        ("think so a 7 1 4 , split b rot 1 4 7 inc 2 5 8 ; so c 3 6 9 , ans 3 6 9", "parsed", 4, 0, 0, True),
        ("think so a 7 1 4 , split b rot 1 4 8 inc 2 5 8 ; so c 3 6 9 , ans 3 6 9", "parsed", 4, 1, 1, False),
        ("go so a 7 1 4 , so b 1 4 7 ; so c 2 5 8 , ans 2 5 8", "parsed", 4, 1, 1, False),  # the misconception of mix
        ("go so a 7 1 4 , so b 1 4 7 ; check b rot 1 4 7 inc 2 5 8 ; so c 3 6 9 , ans 3 6 9", "parsed", 5, 1, 0, True),  # taken back
        ("go so a 7 1 4 , so c 8 2 5 , ans 8 2 5", "parsed", 3, 0, 0, False),  # each step follows, one operation is missing
        ("go so a 7 1 4 , ans 7 1 4", "parsed", 2, 0, 0, False),  # stops early
        ("go so a 7 1 4 , so b 2 5 8 ; so c 3 6 9 , ans 3 6 8", "parsed", 4, 1, 1, False),  # the answer is not the last state
        ("direct ans 3 6 9", "no steps", 0, 0, 0, False),
        ("go so a 7 1", "unparsed", 1, 1, 1, False),
        ("", "unparsed", 0, 0, 0, False),
        ("ans ans so so", "unparsed", 0, 0, 0, False),
    ],
)
def test_a_chain_by_hand(text: str, status: str, steps: int, wrong: int, standing: int, valid: bool) -> None:
    found = check_chain(text, PROBLEM)
    assert (found.status, found.valid, found.coherent) == (status, valid, status == "parsed" and standing == 0)
    if status != "unparsed":
        assert found == Checked(status, steps, wrong, standing, valid)  # type: ignore[arg-type]


def test_authors_who_are_always_right_are_coherent_and_valid_and_others_are_valid_only_if_coherent() -> None:
    rng, kinds = random.Random(0), set()
    for problem in load_task("chain", limit=120):
        if not set(problem.meta["operations"]) & set(chain.RARE):
            expert = check_chain(" ".join(write_trace(problem, EXPERT, rng)[:-1]), problem)
            assert expert.coherent and expert.valid and expert.wrong == 0
        trace = write_trace(problem, ACTIVATION.corpus, rng)
        assert trace[-1] == chain.EOS
        text = " ".join(trace[:-1])
        found = check_chain(text, problem)
        assert found.valid == parse(text, problem.meta).valid and (found.coherent or not found.valid)
        kinds.add((found.status, found.coherent))
    assert {("parsed", True), ("parsed", False), ("no steps", False)} <= kinds


def test_text_is_valid_by_its_statements_and_the_gold_answer() -> None:
    gold = Problem("p", "How many?", "1,089", "gsm8k")
    assert check_arithmetic("14 * 6 = 84. Then 84 + 1005 = 1089, so 1,089.", gold) == Checked("parsed", 2, 0, 0, True)
    assert check_arithmetic("14 * 6 = 84. So 84.", gold) == Checked("parsed", 1, 0, 0, False)
    assert check_arithmetic("14 * 6 = 85. 85 + 1004 = 1089.", gold) == Checked("parsed", 2, 1, 1, False)
    assert check_arithmetic("It is 1089.", gold).status == "no steps"
    assert check_arithmetic("(a + b) = c", gold).status == "unparsed"


def test_arith_needs_the_operations_of_its_question() -> None:
    problem = load_task("arith", limit=1)[0]
    assert check_arith(worked(problem.question, steps=True), problem).valid
    shortcut = check_arith(f"{problem.answer} + 0 = {problem.answer}. The answer is {problem.answer}.", problem)
    assert shortcut.coherent and not shortcut.valid
    assert check_arith(worked(problem.question, steps=False), problem) == Checked("no steps", 0, 0, 0, False)


def test_a_way_is_what_was_done_without_its_results() -> None:
    assert way("go leap a b 2 5 8 , so c 3 6 9 ; ans 3 6 9", PROBLEM) == ("go", "leap a b", "so c", "ans")
    assert way("", PROBLEM) == ("?",)
    text = Problem("p", "", "13", "gsm8k")
    assert way("6 + 7 = 13. 13*1 = 13", text) == way("First 6 + 7 = 12, then 13*1 = 13.", text) == ("6+7", "13*1")
    assert way("Let x be it. Wait, no. The answer is 13.", text) == ("set up", "restart", "answer")
