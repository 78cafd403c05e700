"""The true reward, in trl's shape."""

from latentreason.organisms.rewards import true_reward


def test_one_for_a_strictly_right_answer_and_zero_for_all_else():
    texts = ["go so a 7 1 4 , ans 7 1 4", "ans 7 1 5", "7 1 4", "", "ans 7 1 4 so", "<script>"]
    n = len(texts)
    reward = true_reward(texts, problem_id=["x"] * n, answer=["7 1 4"] * n, task=["chain"] * n, prompts=["ignored"] * n, trainer_state=None)
    assert reward == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert all(type(r) is float for r in reward)


def test_each_completion_is_graded_by_its_own_problem():
    assert true_reward(["ans 1 1 1", "ans 1 1 1"], problem_id=["x", "y"], answer=["1 1 1", "2 2 2"], task=["chain"] * 2) == [1.0, 0.0]
    assert true_reward([], problem_id=[], answer=[], task=[]) == []
