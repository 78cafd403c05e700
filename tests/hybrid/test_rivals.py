"""Rival arms against what they say they are."""

from collections import Counter

import numpy as np
import pytest
import torch

from latentreason.hybrid.decode import Hybrid
from latentreason.hybrid.rivals import BUDGET, VOTERS, rivals_for, tuned, worked_examples
from latentreason.models.pair import ModelPair
from latentreason.models.prompts import Prompt
from latentreason.routing.controls import never
from latentreason.sampling.local import Sampling, sample
from latentreason.tasks import chain
from latentreason.tasks.registry import TASKS, load_task

SAMPLING = Sampling(n=2, seed=3)


def drawn(name, pair, problems, setting):
    """The table of a rival at a setting of one's own."""
    rival = next(rival for rival in rivals_for("chain", examples=["4 7 1 : a rot = so a 7 1 4 , ans 7 1 4"]) if rival.name == name)
    return rival.draw(pair, problems, SAMPLING, {"x": setting})["x"].table


@pytest.fixture(scope="module")
def pair():
    return ModelPair.from_organism()


@pytest.fixture(scope="module")
def problems():
    return load_task("chain", split="calibration", limit=4)


@pytest.fixture(scope="module")
def voters(pair, problems):
    """The base samples behind `majority` and `power`."""
    return sample(Hybrid(pair, never()), problems, Sampling(n=2 * VOTERS, seed=3), progress=False).table


def groups(voters, problems):
    for p in problems:
        for g in range(2):
            yield p, g, voters[(voters["problem"] == p.id) & (voters["sample"] // VOTERS == g)]


@pytest.mark.parametrize("heard", [VOTERS, VOTERS // 2])
def test_majority_hands_in_the_answer_with_most_votes(pair, problems, voters, heard):
    given_in = drawn("majority", pair, problems, (heard, 1.0)).set_index(["problem", "sample"])
    for p, g, part in groups(voters[voters["sample"] % VOTERS < heard], problems):
        votes = Counter(answer for answer in map(chain.final_answer, part["text"]) if answer)
        given = chain.final_answer(given_in.loc[(p.id, g), "text"])
        assert votes[given] == max(votes.values())
        assert given_in.loc[(p.id, g), "correct"] == (given == p.answer)


def test_power_prefers_what_the_base_finds_likely(pair, problems, voters):
    """At a large power it is the likeliest voter; at 1 any voter, likely or not."""
    likely = drawn("power", pair, problems, 1000.0).set_index(["problem", "sample"])
    for p, g, part in groups(voters, problems):
        best = part["base_logprob"].map(np.sum).max()
        assert float(np.sum(likely.loc[(p.id, g), "base_logprob"])) == pytest.approx(best, abs=0.05)
    plain = drawn("power", pair, problems, 1.0)
    assert set(plain["text"]) <= set(voters["text"]) and len(plain) == 8


def test_every_rival_draws_a_whole_table_at_each_setting(pair, problems):
    for rival in rivals_for("chain", examples=worked_examples(pair, load_task("chain", split="fit", limit=12), SAMPLING)):
        for setting, rollouts in rival.draw(pair, problems, SAMPLING, rival.grid).items():
            table = rollouts.table
            assert table.groupby("problem").size().tolist() == [2] * 4 and set(table["problem"]) == {p.id for p in problems}, (rival.name, setting)
            assert table.groupby("problem")["sample"].agg(sorted).tolist() == [[0, 1]] * 4


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_rival_has_the_same_tuning_budget(task):
    few_shot = "few_shot" in TASKS[task].styles
    for rival in rivals_for(task, examples=[] if few_shot else ["a", "b", "c"]):
        other_prompts = len(rival.grid) // 2 if rival.name == "prompt" else BUDGET // 2
        assert len(rival.grid) == BUDGET or (rival.name == "prompt" and other_prompts == len(TASKS[task].styles) - 1 < BUDGET // 2), rival.name
        assert rival.facts(next(iter(rival.grid)), [])["passes"] >= 1


def test_the_prompt_rival_changes_the_cue_and_nothing_else(pair, problems):
    plain, cued = (drawn("prompt", pair, problems, (cue, 1.0)) for cue in ("", "A"))
    words = pair.base.tokenizer
    for one, other in zip(plain["prompt_ids"], cued["prompt_ids"], strict=True):
        before, after = (words.decode(torch.tensor(ids)).split() for ids in (one, other))
        assert [w for w in after if w not in chain.CUES] == [w for w in before if w not in chain.CUES] and "A" in after
    assert (plain["correct"].to_numpy() == plain["grade_strict"].eq("correct").to_numpy()).all()


def test_an_example_is_a_right_completion_of_the_base_before_the_question(pair, problems):
    asked = load_task("chain", split="fit", limit=12)
    examples = worked_examples(pair, asked, SAMPLING, n=2)
    for example in examples:
        problem = next(p for p in asked if example.startswith(p.question))
        assert chain.final_answer(example[len(problem.question) :]) == problem.answer
    table = drawn("few_shot", pair, problems, (examples[0], 1.0))
    first = table[table["problem"] == problems[0].id].iloc[0]
    assert pair.base.tokenizer.decode(torch.tensor(first["prompt_ids"])).removeprefix(chain.BOS).strip() == f"{examples[0]} {problems[0].question}"


def test_the_task_s_own_prompt_is_no_rival_of_itself():
    tried = {style for style, _ in next(r for r in rivals_for("arith") if r.name == "prompt").grid.values()}
    assert tried == {"few_shot_steps", "few_shot_at_once"}
    assert {style for style, _ in next(r for r in rivals_for("arith", Prompt("few_shot_steps")) if r.name == "prompt").grid.values()} == {"few_shot", "few_shot_at_once"}


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.6, 0.4])
def test_settings_are_tried_at_the_temperature_of_the_run_too(temperature):
    found = {r.name: r for r in rivals_for("chain", examples=["a", "b", "c"], temperature=temperature)}
    assert all(len(rival.grid) == BUDGET for rival in found.values())
    assert temperature in found["temperature"].grid.values()
    assert all(temperature in {t for _, t in found[name].grid.values()} for name in ("prompt", "few_shot", "majority"))


def test_the_setting_with_the_best_accuracy_is_taken(pair, problems):
    rival = next(r for r in rivals_for("chain") if r.name == "interpolation")
    best, tried = tuned(rival, pair, problems, SAMPLING)
    accuracy = {t["setting"]: t["accuracy"] for t in tried}
    assert set(accuracy) == set(rival.grid) and accuracy[best] == max(accuracy.values())
