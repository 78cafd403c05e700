"""Rival arms against what they say they are."""

from collections import Counter

import numpy as np
import pytest
import torch

from latentreason.hybrid.decode import Hybrid
from latentreason.hybrid.rivals import RIVALS, VOTERS, tuned
from latentreason.models.pair import ModelPair
from latentreason.routing.controls import never
from latentreason.sampling.local import Sampling, sample
from latentreason.tasks import chain
from latentreason.tasks.registry import load_task

BY_NAME = {rival.name: rival for rival in RIVALS}
SAMPLING = Sampling(n=2, seed=3)


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


def test_majority_hands_in_the_answer_with_most_votes(pair, problems, voters):
    drawn = BY_NAME["majority"].draw(pair, problems, SAMPLING, VOTERS).table.set_index(["problem", "sample"])
    for p, g, part in groups(voters, problems):
        votes = Counter(answer for answer in map(chain.final_answer, part["text"]) if answer)
        given = chain.final_answer(drawn.loc[(p.id, g), "text"])
        assert votes[given] == max(votes.values())
        assert drawn.loc[(p.id, g), "correct"] == (given == p.answer)


def test_power_prefers_what_the_base_finds_likely(pair, problems, voters):
    """At a large power it is the likeliest voter; at 1 any voter, likely or not."""
    likely = BY_NAME["power"].draw(pair, problems, SAMPLING, 1000.0).table.set_index(["problem", "sample"])
    for p, g, part in groups(voters, problems):
        best = part["base_logprob"].map(np.sum).max()
        assert float(np.sum(likely.loc[(p.id, g), "base_logprob"])) == pytest.approx(best, abs=0.05)
    plain = BY_NAME["power"].draw(pair, problems, SAMPLING, 1.0).table
    assert set(plain["text"]) <= set(voters["text"]) and len(plain) == 8


def test_every_rival_draws_a_whole_table(pair, problems):
    for rival in RIVALS:
        table = rival.draw(pair, problems, SAMPLING, rival.grid[-1]).table
        assert table.groupby("problem").size().tolist() == [2] * 4 and set(table["problem"]) == {p.id for p in problems}, rival.name
        assert table.groupby("problem")["sample"].agg(sorted).tolist() == [[0, 1]] * 4


def test_the_prompt_rival_changes_the_cue_and_nothing_else(pair, problems):
    plain, cued = (BY_NAME["prompt"].draw(pair, problems, SAMPLING, setting).table for setting in (0, 1))
    words = pair.base.tokenizer
    for one, other in zip(plain["prompt_ids"], cued["prompt_ids"], strict=True):
        before, after = (words.decode(torch.tensor(ids)).split() for ids in (one, other))
        assert [w for w in after if w not in chain.CUES] == [w for w in before if w not in chain.CUES] and "A" in after
    assert (plain["correct"].to_numpy() == plain["grade_strict"].eq("correct").to_numpy()).all()


def test_the_setting_with_the_best_accuracy_is_taken(pair, problems):
    best, tried = tuned(BY_NAME["interpolation"], pair, problems, SAMPLING)
    accuracy = {t["setting"]: t["accuracy"] for t in tried}
    assert set(accuracy) == set(BY_NAME["interpolation"].grid) and accuracy[best] == max(accuracy.values())
