"""Study `curriculum`: what each order brings, and what a sequence adds to its parts."""

import re

import pandas as pd
import pytest

from latentreason.studies import curriculum
from latentreason.studies.curriculum import Config
from latentreason.studies.result import Result
from latentreason.studies.stacked import ALL

Zoo = dict[str, pd.DataFrame]


def judged(zoo: Zoo, config: Config = Config(n_boot=200)) -> Result:
    return curriculum.run(organisms=zoo["organisms"], counts=zoo["counts"], config=config)


@pytest.fixture(scope="module")
def zoo(zoo: Zoo) -> Zoo:
    """Its own organisms alone."""
    return {name: table[table["organism"].isin(curriculum.TRAIN)] for name, table in zoo.items()}


@pytest.fixture(scope="module")
def result(zoo: Zoo) -> Result:
    return judged(zoo)


def test_each_order_has_its_rates_beside_the_base(result: Result) -> None:
    assert result.details["orders"] == ["base", "SRL", "SFT", "RLVR", "SRL > RLVR", "SFT > RLVR", "RLVR > SFT"]
    for order, rate in (("SRL", 20), ("SRL > RLVR", 60), ("SFT", 0)):
        assert result.estimate("pass@1", order=order, seed="1").value == pytest.approx(rate / 128)
    assert result.estimate("coverage", order="base", seed="0").value == 5 / 40 and result.estimate("coverage", order="SFT", seed=ALL).value == 0
    assert result.estimate("pass@k", order="SRL > RLVR", k=64, seed=ALL).value == pytest.approx(1.0)


def test_a_sequence_is_compared_with_the_better_of_its_parts(result: Result) -> None:
    for order, gain in (("SRL > RLVR", 60 - 20), ("SFT > RLVR", 30 - 10), ("RLVR > SFT", 12 - 10)):
        assert result.estimate("sequence_gain", order=order, seed="1", kind="answer and trace").value == pytest.approx(gain / 128)
    worse = result.estimate("imitation_effect", order="SFT", seed="1")
    assert worse.value == pytest.approx(result.estimate("accuracy", order="SFT", seed="1").value - result.estimate("accuracy", order="base", seed="1").value)
    effect = result.estimate("order_effect", seed="1", kind="answer and trace")
    assert effect.value == pytest.approx((12 - 30) / 128)
    assert "is 0.31 [0.31, 0.31] for SRL > RLVR (it beats both)" in result.finding and "it beats both" in result.said and "order matters" in result.said


def test_a_sequence_that_is_no_better_refutes_the_claim(zoo: Zoo) -> None:
    counts = zoo["counts"].copy()
    rl = (counts["organism"] == "curriculum-srl-rlvr") & (counts["arm"] == "rl")
    counts.loc[rl, ["correct", "correct_valid"]] = 2
    assert "that it beats both is refuted" in judged({**zoo, "counts": counts}).said


def test_answers_that_rise_by_traces_that_are_not_valid_are_told_apart(zoo: Zoo) -> None:
    counts = zoo["counts"].copy()
    rl = (counts["organism"] == "curriculum-srl-rlvr") & (counts["arm"] == "rl")
    counts.loc[rl, "correct_valid"] = 2
    result = judged({**zoo, "counts": counts})
    answers = next(note for note in result.notes if note.startswith("By answer alone"))
    assert re.search(r"is -0\.1\d* \[[^]]*\] for SRL > RLVR", result.finding) and re.search(r"is 0\.31\d* \[[^]]*\] for SRL > RLVR", answers)
    assert result.estimate("sequence_gain", order="SRL > RLVR", seed=ALL, kind="answer").lo > 0 > result.estimate("sequence_gain", order="SRL > RLVR", seed=ALL, kind="answer and trace").hi


def test_a_seed_without_a_part_is_left_out_of_the_comparison_alone(zoo: Zoo) -> None:
    def less(t: pd.DataFrame) -> pd.DataFrame:
        return t[~((t["organism"] == "curriculum-srl") & (t["seed"] == 2))]

    result = judged({k: less(t) for k, t in zoo.items()})
    assert result.estimate("sequence_gain", order="SRL > RLVR", seed=ALL, kind="answer and trace").n == 2 and result.estimate("pass@1", order="SRL > RLVR", seed=ALL).n == 3


def test_what_a_sequence_has_beyond_the_reward_twice(zoo: Zoo, result: Result) -> None:
    assert "RLVR twice does not stand beside them" in result.said
    facts, counts = (zoo[name][zoo[name]["organism"] == "curriculum-rlvr"].assign(organism="twice") for name in ("organisms", "counts"))
    counts.loc[counts["arm"] == "rl", ["correct", "correct_valid"]] = 35
    both = {"organisms": pd.concat([zoo["organisms"], facts.assign(stages="RLVR > RLVR")]), "counts": pd.concat([zoo["counts"], counts])}
    found = judged(both)
    for order, rate in (("SRL > RLVR", 60), ("SFT > RLVR", 30), ("RLVR > SFT", 12)):
        assert found.estimate("beyond_twice", order=order, seed="1", kind="answer and trace").value == pytest.approx((rate - 35) / 128)
    assert re.search(r"Beside RLVR twice .* by answer and trace differs by 0\.20 \[[^]]*\] for SRL > RLVR \(more\), -0\.0\d+ \[[^]]*\] for SFT > RLVR \(open\), -0\.18 \[[^]]*\] for RLVR > SFT \(not more\)", found.said)
    assert found.finding == result.finding and "RLVR > RLVR" not in found.finding  # it is no sequence of two
    alone = {name: table[table["organism"].isin(["curriculum-rlvr", "twice"])] for name, table in both.items()}
    assert judged(alone).said.startswith("Undefined: ")
