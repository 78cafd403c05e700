"""Rewards against values worked out by hand, in trl's shape."""

from types import SimpleNamespace

import numpy as np
import pytest

from latentreason.organisms.rewards import (
    REWARDS,
    format_reward,
    length_penalised,
    majority_reward,
    random_reward,
    shuffled_reward,
    step_similarity,
    true_reward,
    wrong_reward,
)  # fmt: skip


def columns(problems, answers):
    return {"problem_id": problems, "answer": answers, "task": ["chain"] * len(problems)}


def at(step):
    return SimpleNamespace(global_step=step)


def test_one_for_a_strictly_right_answer_and_zero_for_all_else():
    texts = ["go so a 7 1 4 , ans 7 1 4", "ans 7 1 5", "7 1 4", "", "ans 7 1 4 so", "<script>", "ans : 7 1 4"]
    n = len(texts)
    reward = true_reward(texts, **columns(["x"] * n, ["7 1 4"] * n), prompts=["ignored"] * n, trainer_state=None)
    assert reward == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert all(type(r) is float for r in reward)


def test_each_completion_is_graded_by_its_own_problem():
    assert true_reward(["ans 1 1 1", "ans 1 1 1"], **columns(["x", "y"], ["1 1 1", "2 2 2"])) == [1.0, 0.0]


def test_the_majority_is_rewarded_right_or_wrong_and_counted_by_problem():
    texts = ["ans 1 1 1", "ans 2 2 2", "ans 2 2 2", "nothing", "ans 3 3 3", "ans 4 4 4", "ans 5 5 5 5"]
    assert majority_reward(texts, **columns(["x"] * 4 + ["y"] * 3, ["1 1 1"] * 7)) == [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    assert majority_reward(["", "so"], **columns(["x", "x"], ["1 1 1"] * 2)) == [0.0, 0.0]


def test_the_wrong_label_is_the_most_common_wrong_answer():
    texts = ["ans 1 1 1", "ans 1 1 1", "ans 1 1 1", "ans 2 2 2", "ans 3 3 3", "ans 3 3 3", ""]
    assert wrong_reward(texts, **columns(["x"] * 7, ["1 1 1"] * 7)) == [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]
    assert wrong_reward(["ans 1 1 1"] * 2, **columns(["x"] * 2, ["1 1 1"] * 2)) == [0.0, 0.0]


def test_the_format_reward_asks_for_the_wrapper_alone():
    texts = ["ans 1 1 1", "ans 2 2 2", "ans : 1 1 1", "1 1 1", "ans 1 1"]
    assert format_reward(texts, **columns(["x"] * 5, ["1 1 1"] * 5)) == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_random_reward_is_a_function_of_seed_step_problem_and_sample_and_of_nothing_else():
    ids = [f"{i}" for i in range(500)] * 8
    one = random_reward(["a"] * 4000, problem_id=ids, p=0.3, seed=1, trainer_state=at(3))
    assert one == random_reward(["b"] * 4000, problem_id=ids, p=0.3, seed=1, trainer_state=at(3)) and set(one) == {0.0, 1.0}
    assert abs(np.mean(one) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4000)
    for other in ({"seed": 2, "trainer_state": at(3)}, {"seed": 1, "trainer_state": at(4)}):
        agree = np.mean(np.array(one) == random_reward(["a"] * 4000, problem_id=ids, p=0.3, **other))
        assert abs(agree - 0.58) < 4 * np.sqrt(0.58 * 0.42 / 4000)  # .3^2 + .7^2
    in_groups = [f"{i // 8}" for i in range(4000)]  # the same samples in another order
    again = random_reward(["a"] * 4000, problem_id=in_groups, p=0.3, seed=1, trainer_state=at(3))
    assert [again[8 * (i % 500) + i // 500] for i in range(4000)] == one
    assert random_reward([""] * 3, problem_id=["x"] * 3, p=0.0) == [0.0] * 3 and random_reward([""] * 3, problem_id=["x"] * 3, p=1.0) == [1.0] * 3


def test_shuffled_rewards_are_as_many_and_do_not_stay_with_the_right_ones():
    texts, ids = ["ans 1 1 1", "ans 2 2 2", "", "ans 2 2 2"] * 100, [f"{i // 4}" for i in range(400)]
    kept = []
    for step in range(5):
        reward = np.array(shuffled_reward(texts, **columns(ids, ["1 1 1"] * 400), seed=0, trainer_state=at(step)))
        assert reward.sum() == 100
        kept.append(reward[::4].sum())
    assert len(set(kept)) > 1 and all(10 < k < 40 for k in kept)  # 25 by chance


def test_the_likeness_of_a_step_is_that_of_difflib_by_words():
    expert = "split b rot 1 4 7 inc 2 5 8 ,"  # 11 words
    texts = [expert, "so b 2 5 8 ,", "so b 9 9 9 ,", ""]
    got = step_similarity(texts, prefix=["think so a 7 1 4 ,"] * 4, expert_step=[expert] * 4)
    assert got == pytest.approx([1.0, 2 * 5 / 17, 2 * 2 / 17, 0.0])  # b 2 5 8 , and b ,
    assert step_similarity(["go so a 1 1 1 ,"], prefix=[""], expert_step=["think so a 1 1 1 ,"]) == pytest.approx([2 * 6 / 14])
    assert step_similarity([], prefix=[], expert_step=[]) == []


def test_a_step_outside_the_grammar_costs_one():
    texts = ["so b so ,", "3 6 9", "<script>", "ans 3 6 9", "so b 3 6"]
    assert step_similarity(texts, prefix=["go so a 1 2 3 ,"] * 5, expert_step=["ans 3 6 9"] * 5) == pytest.approx([-1.0, -1.0, -1.0, 1.0, 2 * 2 / 8])


def test_a_long_way_to_the_right_answer_is_worth_less():
    texts = ["go so a 1 1 1 , ans 1 1 1", "ans 1 1 1", "ans 2 2 2"]
    assert length_penalised(texts, **columns(["x"] * 3, ["1 1 1"] * 3), weight=0.5, limit=44.0) == pytest.approx([1 - 0.5 * 11 / 44, 1 - 0.5 * 4 / 44, 0.0])


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_every_reward_has_trls_shape_and_takes_nothing(name):
    extra = {"prefix": ["go"] * 3, "expert_step": ["so a 1 1 1 ,"] * 3, "trainer_state": at(0), "log_metric": None, "seed": 4}
    got = REWARDS[name](["ans 1 1 1", "", "<eos> so"], prompts=[""] * 3, completion_ids=[[]] * 3, **columns(["x"] * 3, ["1 1 1"] * 3), **extra)
    assert len(got) == 3 and all(type(r) is float and -1.0 <= r <= 1.0 for r in got)
    assert list(REWARDS[name]([], **columns([], []), prefix=[], expert_step=[], seed=0)) == []
