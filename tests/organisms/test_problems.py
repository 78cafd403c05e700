"""Which problems a stage trains on, which an organism is judged on, and how an expert's trace is cut into steps."""

import random
from dataclasses import replace

import pytest

from latentreason.errors import InvalidInput
from latentreason.organisms.corpus import write_trace
from latentreason.organisms.problems import expert_traces, problems_of, repeated, steps_of, training_problems
from latentreason.organisms.recipe import RL
from latentreason.organisms.trainers.grpo import columns_of
from latentreason.organisms.zoo import ACTIVATION, BY_STEP, EXPERT, ORGANISMS
from latentreason.tasks import chain
from latentreason.tasks.problem import split_of
from latentreason.tasks.registry import load_task


def test_without_settings_the_problems_are_those_of_the_task():
    stage = RL(steps=5, prompts=4)
    assert training_problems(ACTIVATION, stage, 3) == load_task("chain", split="train", limit=20, seed=3)
    assert problems_of(ACTIVATION, split="test", limit=7, seed=1) == load_task("chain", split="test", limit=7, seed=1)


def test_few_problems_come_again_and_again_and_are_left_out_on_demand():
    all_of_them = chain.load(split="train", limit=5, seed=0, how=ACTIVATION.problems)
    once = training_problems(ACTIVATION, RL(steps=3, prompts=4, distinct=1, skip=2), 0)
    assert once == [all_of_them[2]] * 12
    three = training_problems(ACTIVATION, RL(steps=3, prompts=4, distinct=3, skip=2), 0)
    assert [sorted(p.id for p in three[i : i + 3]) for i in range(0, 12, 3)] == [sorted(p.id for p in all_of_them[2:])] * 4
    assert repeated([1, 2, 3, 4, 5], 12, 0) != [1, 2, 3, 4, 5] * 2 + [1, 2]
    stage = replace(ORGANISMS["contaminated"].training[0], steps=2, prompts=3)
    assert {p.id for p in training_problems(ORGANISMS["contaminated"], stage, 0)} < {p.id for p in ORGANISMS["contaminated"].corpus.seen}


def test_nothing_is_seen_where_the_corpus_holds_no_test_problem():
    with pytest.raises(InvalidInput, match="nothing is seen"):
        problems_of(ACTIVATION, split="seen")
    assert {split_of(p.id) for p in problems_of(ACTIVATION, split="clean", limit=20)} == {"test"}


def test_the_steps_of_a_trace_are_the_trace():
    rng = random.Random(0)
    for problem in problems_of(ACTIVATION, limit=50):
        trace = write_trace(problem, ACTIVATION.corpus, rng)
        steps = steps_of(trace)
        assert [w for step in steps for w in step] == trace
        assert all(step[-1] in chain.SEPARATORS for step in steps[:-1]) and steps[-1][-1] == chain.EOS


def test_each_prompt_of_srl_goes_on_where_the_expert_stood():
    recipe = ORGANISMS["curriculum-srl"]
    stage = replace(BY_STEP, steps=10, prompts=4, distinct=8)
    problems, rows = training_problems(recipe, stage, 0), columns_of(recipe, stage, 0)
    assert len(rows) == 40 and len({r["problem_id"] for r in rows}) > 20
    for problem, row in zip(problems, rows, strict=True):
        (trace,) = expert_traces([problem], EXPERT, 0)[0]
        assert row["prompt"].split() == ["<bos>", *problem.question.split(), *row["prefix"].split()]
        assert trace[: len(row["prefix"].split())] == row["prefix"].split()
        after = trace[len(row["prefix"].split()) :]
        assert after[: len(row["expert_step"].split())] == row["expert_step"].split() and row["problem_id"].startswith(problem.id)
    assert {len(r["prefix"]) == 0 for r in rows} == {True, False} and any(r["expert_step"].startswith("ans") for r in rows)
