"""Study `difficulty`: effects by bin, what lone successes reinforce, and the trainer's own advantage."""

import numpy as np
import pandas as pd
import pytest
import torch

from latentreason.errors import InvalidInput
from latentreason.studies import difficulty
from latentreason.studies.difficulty import Config, advantage
from latentreason.studies.result import Result
from latentreason.studies.stacked import ALL

Zoo = dict[str, pd.DataFrame]
TABLES = ("organisms", "counts", "training", "kept", "projections")


def judged(zoo: Zoo, config: Config = Config(n_boot=200)) -> Result:
    return difficulty.run(**{name: zoo[name] for name in TABLES}, config=config)


@pytest.fixture(scope="module")
def zoo(zoo: Zoo) -> Zoo:
    """Its own organisms alone."""
    return {name: table[table["organism"].isin(difficulty.TRAIN)] for name, table in zoo.items()}


@pytest.fixture(scope="module")
def result(zoo: Zoo) -> Result:
    return judged(zoo)


def test_the_advantage_is_what_trl_gives() -> None:
    nanstd = pytest.importorskip("trl.trainer.utils").nanstd
    for group in (4, 8, 16):
        for right in range(1, group):
            rewards = torch.tensor([1.0] * right + [0.0] * (group - right))
            trained = (rewards - rewards.mean())[0] / (nanstd(rewards.view(1, -1), dim=1)[0] + 1e-4)
            assert advantage(np.array([right]), np.array([group]))[0] == pytest.approx(float(trained), rel=1e-5)
    lone = advantage(np.array([1.0]), np.array([16.0]))[0]
    assert lone == pytest.approx(3.7485, abs=1e-3) and lone < np.sqrt(15)  # a little less than with the population deviation
    assert advantage(np.array([0, 16]), np.array([16, 16])).tolist() == [0, 0]
    assert advantage(np.array([1]), np.array([16]), "none")[0] == pytest.approx(15 / 16)


def test_effects_stand_in_the_bin_of_the_base_and_its_other_half_is_compared(zoo: Zoo, result: Result) -> None:
    assert result.details["bins"] == ["0 to 2%", "2 to 25%", "25 to 75%", "75 to 100%"]
    for name, effect in (("2 to 25%", 0.0), ("75 to 100%", -48 / 128)):
        assert result.estimate("effect", organism="too-hard", bin=name, seed="1").value == pytest.approx(effect)
    assert result.estimate("effect", organism="activation-small", bin="25 to 75%", seed="2").value == pytest.approx(36 / 128)
    assert result.estimate("effect", organism="collapsed", bin="0 to 2%", seed=ALL).reason == "3 of 3 seeds undefined: no problems" or not result.estimate("effect", organism="collapsed", bin="0 to 2%", seed=ALL).defined
    counts = zoo["counts"].copy()
    base = (counts["organism"] == "too-hard") & (counts["arm"] == "base")
    counts.loc[base, "correct_first"] = counts.loc[base, "correct_first"].clip(upper=0)  # all luck in the second half
    moved = judged({**zoo, "counts": counts})
    assert moved.estimate("effect", organism="too-hard", bin="0 to 2%", seed="1").value == pytest.approx(np.mean([(b - 48 * (i >= 30)) / 128 - b / 64 for i, b in enumerate([0] * 10 + [16] * 10 + [64] * 10 + [112] * 10)]))


def test_habits_change_by_bin(result: Result) -> None:
    for habit, change in (("repetition", 0.3), ("skipped", 0.5), ("length", 0.0), ("direct", 0.0)):
        assert result.estimate(f"{habit}_change", organism="too-hard", bin="75 to 100%", seed=ALL).value == pytest.approx(change, abs=1e-6)


def test_lone_successes_and_what_the_advantage_goes_to(zoo: Zoo, result: Result) -> None:
    where = {"organism": "too-hard", "stage": 0, "step": 0}
    assert result.estimate("lone_successes", seed="0", **where).value == 2 / 40 and result.estimate("lone_valid", seed="0", **where).value == 0
    assert result.estimate("lone_advantage", **where).value == pytest.approx(3.75, abs=0.01)
    assert result.estimate("reinforced_valid", organism="activation-small", seed="0", scale="group", step=0).value == 1
    training = zoo["training"].copy()
    mine = (training["organism"] == "activation-small") & (training["correct"] == 1)
    training.loc[mine, "correct_valid"] = 0  # lone successes are shortcuts, the others are not
    mixed = judged({**zoo, "training": training})
    of = np.array([1, 2, 4, 8])
    for scale in ("group", "none"):
        weight = of * advantage(of, np.full(4, 16), scale)
        assert mixed.estimate("reinforced_valid", organism="activation-small", seed="1", scale=scale, step=0).value == pytest.approx(weight[1:].sum() / weight.sum())


def test_trainings_are_ordered_by_how_hard_their_problems_were(result: Result) -> None:
    assert result.estimate("training_rate", organism="too-hard", seed=ALL).value == pytest.approx(2 / 40 / 16)
    assert result.estimate("gain", organism="too-hard", seed="0").value == pytest.approx(-52 / 128 / 4)
    assert "the harm that the paper reports" in result.said and "valid trace in 0.00" in result.said and "1 organism with easier problems" in result.said


def test_a_gain_from_over_hard_problems_refutes_harm(zoo: Zoo) -> None:
    counts = zoo["counts"].copy()
    rl = (counts["organism"] == "too-hard") & (counts["arm"] == "rl")
    counts.loc[rl, "correct"] = 128
    assert "which refutes harm" in judged({**zoo, "counts": counts}).said
    assert "No organism was trained on problems that its base solves in under 0%" in judged(zoo, Config(n_boot=50, over_hard=0.0)).said


def test_where_the_base_solves_nothing_of_what_it_is_judged_on_harm_cannot_show(zoo: Zoo) -> None:
    counts = zoo["counts"].copy()
    counts.loc[counts["organism"] == "too-hard", ["correct", "correct_first"]] = 1
    assert "Harm cannot show for too-hard" in judged({**zoo, "counts": counts}).said


def test_organisms_are_chosen_by_what_was_done_to_them_and_not_by_their_names(zoo: Zoo, result: Result) -> None:
    names = {name: f"x{i}" for i, name in enumerate(zoo["organisms"]["organism"].unique())}
    renamed = judged({k: t.assign(organism=t["organism"].map(names)) for k, t in zoo.items()})
    pd.testing.assert_frame_equal(renamed.table.drop(columns="organism"), result.table.drop(columns="organism"))


def test_a_vector_that_two_halves_disagree_on_is_left_out_and_named(zoo: Zoo, result: Result) -> None:
    assert "split" not in set(result.table["label"]) and {"organism": "too-hard", "label": "split", "seed": "1", "reliability": 0.5} in result.details["unreliable"]
    assert "not reliable in some seed: split" in result.said
    unknown = {**zoo, "projections": zoo["projections"].assign(reliability=np.nan)}
    assert "too-hard: no projection is on a reliable vector; of unknown reliability (measure anew): format:direct, so, split." in judged(unknown).said
    former = {**zoo, "projections": zoo["projections"].drop(columns=["random", "reliability"])}
    assert judged(former).said == judged(unknown).said
    aside = result.estimate("random_change", organism="too-hard", bin="0 to 2%", label="so", seed=ALL)
    assert aside.value == 0  # a random direction along which nothing moves


def test_projections_and_kept_weights_are_followed_by_bin(result: Result) -> None:
    change = result.estimate("projection_change", organism="too-hard", bin="0 to 2%", label="format:direct", seed=ALL)
    assert change.value == pytest.approx(1.0) and result.estimate("projection_change", organism="too-hard", bin="25 to 75%", label="so", seed="0").value == pytest.approx(-0.4, abs=1e-6)
    kept = {(k["bin"], k["step"]): k["value"] for k in result.details["kept"]}
    assert kept["75 to 100%", 0] == pytest.approx(14 / 16) and kept["75 to 100%", 20] == pytest.approx(8 / 16) and kept["2 to 25%", 20] == pytest.approx(2 / 16)


def test_without_kept_weights_there_are_still_effects(zoo: Zoo) -> None:
    result = difficulty.run(organisms=zoo["organisms"], counts=zoo["counts"], config=Config(n_boot=50))
    assert result.estimate("effect", organism="too-hard", bin="75 to 100%", seed=ALL).value < 0 and result.details["projections"] == []


def test_edges_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidInput, match="must ascend between 0 and 1"):
        Config(edges=(0.5, 0.2))
