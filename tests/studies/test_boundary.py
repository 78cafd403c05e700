"""Study `boundary`: areas against a plain integral, collapse and remedy as they were made."""

import math
import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from latentreason.errors import InvalidInput
from latentreason.figures.zoo_charts import ZOO_FIGURES
from latentreason.studies import boundary
from latentreason.studies.boundary import Config
from latentreason.studies.result import Result
from latentreason.studies.stacked import ALL

Zoo = dict[str, pd.DataFrame]
KS = [1, 2, 4, 8, 16, 32, 64]


def judged(zoo: Zoo, config: Config = Config(n_boot=200)) -> Result:
    return boundary.run(counts=zoo["counts"], organisms=zoo["organisms"], config=config)


@pytest.fixture(scope="module")
def zoo(zoo: Zoo) -> Zoo:
    """Its own organisms alone."""
    return {name: table[table["organism"].isin(boundary.TRAIN)] for name, table in zoo.items()}


@pytest.fixture(scope="module")
def result(zoo: Zoo) -> Result:
    return judged(zoo)


def solves(right: int, k: int, n: int = 128) -> float:
    """pass@k by binomial coefficients."""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def area(rates: list[int]) -> float:
    """Trapezoids of the mean curve over log2 k."""
    heights = [float(np.mean([solves(right, k) for right in rates])) for k in KS]
    return sum((a + b) / 2 for a, b in pairwise(heights)) / 6


def test_the_area_is_the_mean_of_the_curve_over_log_k(result: Result) -> None:
    base = area([4] * 20 + [64] * 20)
    collapsed = area([0] * 20 + [124] * 20)
    assert result.estimate("area", organism="collapsed", arm="base", kind="answer", seed="1").value == pytest.approx(base)
    assert result.estimate("area_change", organism="collapsed", kind="answer and trace", seed="1").value == pytest.approx(collapsed - base)
    at_end = result.estimate("rl_minus_base", organism="collapsed", kind="answer", k=64, seed="1")
    assert at_end.value == pytest.approx(0.5 - np.mean([solves(4, 64), solves(64, 64)])) and at_end.hi < 0


def test_the_remedy_is_rl_minus_rl_on_the_same_base(result: Result) -> None:
    gap = result.estimate("remedy_area", organism="explore", against="collapsed", kind="answer", seed="1")
    assert gap.value == pytest.approx(area([8] * 20 + [124] * 20) - area([0] * 20 + [124] * 20)) and gap.lo > 0
    assert len(result.table[result.table["quantity"] == "remedy_area"]) == 2 * 4  # two kinds, three seeds and all; nothing against another base
    assert re.search(r"below 0 for 1 of 3 .* \(collapsed -0\.47\d? \[[^]]*\]\), above 0 for 2", result.finding) and "keep breadth" in result.said


def test_breadth_before_and_after(result: Result) -> None:
    assert result.estimate("effective_paths_change", organism="collapsed", seed=ALL).value == pytest.approx(2 - 8, rel=1e-5)
    assert result.estimate("right_paths_change", organism="explore", seed=ALL).value == pytest.approx(3 - 4)
    assert result.estimate("entropy_change", organism="collapsed", seed=ALL).value == pytest.approx(0.05 - 0.3, rel=1e-5)


def test_only_valid_traces_count_where_a_checker_has_judged_them(zoo: Zoo) -> None:
    counts = zoo["counts"].copy()
    rl = (counts["organism"] == "explore") & (counts["arm"] == "rl")
    counts.loc[rl, "correct_valid"] = 0
    result = judged({**zoo, "counts": counts})
    assert result.estimate("area", organism="explore", arm="rl", kind="answer and trace", seed="0").value == 0 < result.estimate("area", organism="explore", arm="rl", kind="answer", seed="0").value
    assert "a remedy by RL-PLUS is refuted" in result.said


def test_any_pair_without_a_checker_or_facts_has_its_coverage(zoo: Zoo) -> None:
    counts = zoo["counts"][zoo["counts"]["organism"] == "collapsed"].assign(organism="mine", correct_valid=None, right_paths=None)
    result = boundary.run(counts=counts, config=Config(n_boot=50, organisms=()))
    assert result.details["kind"] == "answer" and result.estimate("area_change", organism="mine", kind="answer", seed=ALL).hi < 0
    assert not (result.table["quantity"] == "right_paths").any()


def test_too_few_samples_for_the_k_asked_are_refused(zoo: Zoo) -> None:
    with pytest.raises(InvalidInput, match=r"pass@256 needs at least 256 samples a problem, got 128"):
        judged(zoo, Config(max_k=256))


def test_what_was_not_read_or_was_cut_is_shown_and_not_left_out(zoo: Zoo, result: Result) -> None:
    assert result.estimate("cut", organism="collapsed", arm="rl", seed=ALL).value == 0
    counts = zoo["counts"].copy()
    rl = (counts["organism"] == "collapsed") & (counts["arm"] == "rl")
    counts.loc[rl, "unparsed"], counts.loc[rl, "cut"] = 32 + counts.loc[rl, "seed"], 16
    unread = judged({**zoo, "counts": counts})
    assert unread.estimate("unparsed", organism="collapsed", arm="rl", seed="2").value == pytest.approx(34 / 128)
    change = unread.estimate("unparsed_change", organism="collapsed", seed=ALL)
    assert change.value == pytest.approx(33 / 128) and change.lo > 0.2
    assert re.search(r"of its samples unparsed 0\.00\d? \[0\.00\d?, 0\.(0[1-9]\d|1\d+)\] to 0\.258? \[.*cut 0\.00\d? \[0\.00\d?, 0\.(0[1-9]\d|1\d+)\] to 0\.12\d? \[", unread.said), unread.said
    pd.testing.assert_frame_equal(unread.table.query("quantity == 'area'"), result.table.query("quantity == 'area'"))
    plain = counts.assign(correct_valid=None)  # of a task that nothing checks
    assert set(judged({**zoo, "counts": plain}).table["quantity"]) & {"unparsed", "cut"} == {"cut"}


def test_organisms_are_chosen_by_what_was_done_to_them_and_not_by_their_names(zoo: Zoo, result: Result) -> None:
    names = {name: f"x{i}" for i, name in enumerate(zoo["organisms"]["organism"].unique())}
    renamed = judged({k: t.assign(organism=t["organism"].map(names)) for k, t in zoo.items()})
    pd.testing.assert_frame_equal(renamed.table.drop(columns=["organism", "against"]), result.table.drop(columns=["organism", "against"]))
    facts = zoo["organisms"].copy()
    facts.loc[facts["organism"] == "collapsed", "reward"] = "random"
    assert "collapsed" not in set(judged({**zoo, "organisms": facts}).table["organism"])  # a spurious reward narrows nothing that the claim speaks of
    facts = zoo["organisms"].copy()
    facts.loc[facts["organism"] == "explore", ["stages", "reward", "external"]] = ["SFT", None, np.nan]
    assert "explore (imitates a teacher" in judged({**zoo, "organisms": facts}).said


def test_a_base_that_solves_nothing_has_nothing_to_lose(zoo: Zoo) -> None:
    counts = zoo["counts"].copy()
    counts.loc[counts["organism"] == "collapsed", ["correct", "correct_valid", "correct_first"]] = 0
    said = judged({**zoo, "counts": counts}).said
    assert "collapsed (nothing to lose)" in said and "of 2 whose base has something to lose" in said
    counts = zoo["counts"].copy()
    rl = (counts["organism"] == "activation-small") & (counts["arm"] == "rl")
    counts.loc[rl, ["correct", "correct_valid"]] = 1
    said = judged({**zoo, "counts": counts})
    assert "at every k for 1 (activation-small)" in said.finding and "activation-small (a loss at every k)" in said.said  # damage is no narrowing


def test_the_figure_has_every_organism_whatever_the_largest_k(zoo: Zoo) -> None:
    result = judged(zoo, Config(max_k=50, n_boot=50))
    numbers = ZOO_FIGURES["boundary"].numbers({"boundary": result})
    assert numbers["max_k"] == 32 and {r["organism"] for r in numbers["columns"]["first"]} <= {r["organism"] for r in numbers["columns"]["last"]}


def test_a_table_without_what_was_done_is_refused(zoo: Zoo) -> None:
    with pytest.raises(InvalidInput, match="'organisms' has no column 'reward'"):
        judged({**zoo, "organisms": zoo["organisms"].drop(columns="reward")})
