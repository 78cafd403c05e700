"""Study `one_shot`: share of the full gain, and the spread over the problem chosen."""

import numpy as np
import pandas as pd
import pytest

from latentreason.studies import one_shot
from latentreason.studies.one_shot import Config
from latentreason.studies.result import Result
from latentreason.studies.stacked import ALL

Zoo = dict[str, pd.DataFrame]


def judged(zoo: Zoo, config: Config = Config(n_boot=200)) -> Result:
    return one_shot.run(organisms=zoo["organisms"], counts=zoo["counts"], config=config)


@pytest.fixture(scope="module")
def zoo(zoo: Zoo) -> Zoo:
    """Its own organisms alone."""
    return {name: table[table["organism"].isin(one_shot.TRAIN)] for name, table in zoo.items()}


@pytest.fixture(scope="module")
def result(zoo: Zoo) -> Result:
    return judged(zoo)


def test_the_gain_grows_with_the_number_of_problems_as_it_was_made(result: Result) -> None:
    for n, gain in ((1, 16), (8, 28), (360, 32)):
        assert result.estimate("gain", n_training=n, seed=ALL).value == pytest.approx(gain / 128 / 2)
    assert set(result.table["problems"]) == {"1", "8", "all"}


def test_each_problem_has_its_share_and_the_spread_is_that_within_a_seed(result: Result) -> None:
    shares = {s: [(g + o) / (32 + o) for g in (8, 16, 24)] for s, o in (("0", -4), ("1", 0), ("2", 4))}
    for seed, wanted in shares.items():
        found = [result.estimate("share_of_run", organism=f"one-shot-{x}", seed=seed).value for x in "abc"]
        assert found == pytest.approx(wanted)
    spread = result.estimate("spread", n_training=1, seed=ALL)
    assert spread.value == pytest.approx(np.sqrt(np.mean([np.var(v, ddof=1) for v in shares.values()])))
    assert result.estimate("lowest", n_training=1, seed=ALL).value == pytest.approx(4 / 28) and result.estimate("highest", n_training=1, seed=ALL).value == pytest.approx(28 / 36)
    assert "needs two of them" in result.estimate("spread", n_training=8, seed=ALL).reason


def test_the_finding_has_the_interval_and_says_what_refutes_it(zoo: Zoo, result: Result) -> None:
    assert result.said.startswith("One training problem brings 0.") and "an upper bound below 0.5 refutes it" in result.said
    assert "which supports" in judged(zoo, Config(n_boot=200, most=0.2)).said and "which refutes" in judged(zoo, Config(n_boot=200, most=0.9)).said


def test_without_the_full_set_there_is_a_gain_but_no_share(zoo: Zoo) -> None:
    result = judged({k: t[t["organism"] != "activation-small"] for k, t in zoo.items()})
    assert result.estimate("gain", n_training=1, seed=ALL).defined
    assert "train activation-small" in result.said and not result.estimate("share", n_training=1, seed=ALL).defined


def test_what_more_problems_add_stands_beside_the_spread_over_the_one_chosen(zoo: Zoo, result: Result) -> None:
    added = result.estimate("by_number", n_training=8, seed="1")
    gain = result.estimate("gain", n_training=360, seed="1").value
    assert added.value == pytest.approx((result.estimate("gain", n_training=8, seed="1").value - result.estimate("gain", n_training=1, seed="1").value) / gain)
    assert "8 problems in place of 1 add " in result.said and "learning rates differ" not in result.said  # of pairs nobody knows the rate
    facts = zoo["organisms"].assign(lr=[1e-4 if n == 1 else 4e-4 for n in zoo["organisms"]["n_training"]])
    assert "(learning rates differ with the number)" in one_shot.run(organisms=facts, counts=zoo["counts"]).said
