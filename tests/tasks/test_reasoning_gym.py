"""Families of reasoning-gym: the same in every process, split by hash, with answers that our graders agree on."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from latentreason.errors import InvalidInput, MissingDependency, UnknownName
from latentreason.tasks import countdown, reasoning_gym
from latentreason.tasks.grading import grade
from latentreason.tasks.problem import SPLITS, Problem, content_hash, split_of
from latentreason.tasks.reasoning_gym import FAMILIES
from latentreason.tasks.registry import TASKS, load_task

DUMP = """
import json, random
random.seed(5)
from latentreason.tasks.registry import load_task
from latentreason.tasks.reasoning_gym import FAMILIES
drawn = {n: [[p.id, p.question, p.answer] for p in load_task(n, limit=4, seed=3)] for n in FAMILIES}
print(json.dumps([drawn, random.random()]))
"""


@pytest.fixture(scope="module")
def here():
    return {name: load_task(name, limit=6, seed=3) for name in FAMILIES}


def test_another_process_draws_the_same_and_keeps_its_own_generator(here):
    """Another hash seed would change the order of sets; the library draws from the global generator at its import."""
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path(__file__).parents[2])}
    out = subprocess.run([sys.executable, "-c", DUMP], env=environment, capture_output=True, text=True, check=True, timeout=300).stdout
    drawn, after = json.loads(out)
    assert after == random.Random(5).random()
    assert drawn == {name: [[p.id, p.question, p.answer] for p in problems[:4]] for name, problems in here.items()}


def test_problems_are_distinct_belong_to_their_split_and_a_limit_cuts(here):
    for name, problems in here.items():
        assert len({p.id for p in problems}) == 6 and {split_of(p.id) for p in problems} == {"test"}
        assert load_task(name, limit=3, seed=3) == problems[:3]
        assert {p.meta["grader"] for p in problems} == {FAMILIES[name].grader}
    for name in ("chain_sum", "gsm_symbolic"):
        ids = [p.id for split in SPLITS for seed in (0, 1) for p in load_task(name, split=split, limit=15, seed=seed)]
        assert len(set(ids)) == len(ids) == 120  # near seeds share no items


def test_the_grader_agrees_with_the_family_about_right_and_wrong(here):
    for name, problems in here.items():
        dataset = reasoning_gym._dataset(name, int(content_hash(f"{name}-3"), 16) % 2**31, reasoning_gym.TRIES * 6)
        for problem, other in zip(problems, [*problems[1:], problems[0]], strict=True):
            assert grade(rf"so \boxed{{{problem.answer}}}.", problem).correct
            assert grade(f"The answer is {problem.answer}", problem, flexible=True).correct
            assert dataset.score_answer(problem.answer, dataset[problem.meta["index"]]) == 1.0
            if other.answer != problem.answer:
                assert not grade(rf"so \boxed{{{other.answer}}}.", problem).correct


def test_sums_have_the_value_that_they_say():
    for name in ("chain_sum", "basic_arithmetic"):
        for problem in load_task(name, limit=60, seed=8):
            expression = problem.question.split(":")[-1].removeprefix("Calculate").strip(" =.")
            assert countdown.parse(expression)[0] == int(problem.answer)


def test_items_of_basic_arithmetic_whose_quotient_was_rounded_down_are_left_out():
    dataset = reasoning_gym._dataset("basic_arithmetic", 7, 3000)
    rounded = [item for item in (dataset[i] for i in range(3000)) if not reasoning_gym._exact(item)]
    assert 0 < len(rounded) < 60
    item = next(item for item in rounded if not eval(item["metadata"]["expression"]).is_integer())
    assert countdown.parse(item["metadata"]["expression"])[0] != int(item["answer"])


@pytest.mark.parametrize(
    ("answer", "text", "strict", "flexible"),
    [
        ("olleh", r"\boxed{olleh}", "correct", "correct"),
        ("olleh", r"\boxed{\text{Olleh}}", "correct", "correct"),
        ("olleh", r"\boxed{hello}", "wrong", "wrong"),  # as mathematics, a product of the same letters
        ("olleh", "It is spelt\nolleh", "no_answer", "correct"),
        ("olleh", "The answer is olleh.", "no_answer", "correct"),
        ("olleh", "<think>olleh</think>\nhello", "no_answer", "wrong"),
        ("olleh", "<think>olleh", "no_answer", "no_answer"),
        ("True", r"\boxed{true}", "correct", "correct"),
        ("-0x94b47bf", r"\boxed{-0x94B47BF}", "correct", "correct"),
        ("MEET ME", r'\boxed{"Meet  me."}', "correct", "correct"),
        ("MEET ME", r"\boxed{}", "unparsed", "unparsed"),
        ("a b", "", "no_answer", "no_answer"),
    ],
)
def test_text_is_compared_as_text(answer, text, strict, flexible):
    problem = Problem("0", "q", answer, "spell_backward", {"grader": "text"})
    assert grade(text, problem).status == strict and grade(text, problem, flexible=True).status == flexible


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingDependency, match=r"Task 'chain_sum' is generated by reasoning-gym\. Install it: pip install 'latentreason\[tasks\]'"):
        load_task("chain_sum")


def test_a_family_that_runs_dry_says_so(monkeypatch):
    class Same:
        def __getitem__(self, index):
            return {"question": f"q{index % 30}", "answer": "1"}

    monkeypatch.setattr(reasoning_gym, "_dataset", lambda *_: Same())
    with pytest.raises(InvalidInput, match=r"Task 'gcd' gave only \d+ different problems of split 'test'"):
        load_task("gcd", limit=20)


def test_a_name_that_does_not_exist_suggests_the_nearest():
    with pytest.raises(UnknownName, match=r"Unknown task 'gsm_symbolc'\. Did you mean 'gsm_symbolic'\?"):
        load_task("gsm_symbolc")
    assert set(FAMILIES) < set(TASKS)
