"""Study `formats`: the step at which one format passes, entropy and winners, as they were made."""

import math

import numpy as np
import pandas as pd
import pytest
import synthetic_zoo

from latentreason.errors import InvalidInput
from latentreason.stats import wilson
from latentreason.studies import formats
from latentreason.studies.formats import Config, passes_at
from latentreason.studies.result import Result

Zoo = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def result(zoo: Zoo) -> Result:
    return formats.run(organisms=zoo["organisms"], curves=zoo["curves"])


def test_each_run_passes_at_the_step_it_was_made_to(result: Result) -> None:
    for organism, step in (("activation-small", 15), ("formats-small-think", 5), ("formats-large-go", 12)):
        shares = synthetic_zoo.towards("code", step)[:, -1]
        first = next(i for i in range(3, 21) if np.mean(shares[i - 3 : i]) >= 0.9)  # the first three steps that have it together
        assert result.estimate("passes_at", organism=organism, seed="0").value == first >= step
    never = result.estimate("passes_at", organism="formats-large-code", seed="all")
    assert not never.defined and "it never has 90%: at most 74%, in 20 steps" in never.reason


def test_the_interval_of_the_step_is_that_of_the_shares() -> None:
    found = passes_at(np.array([0.80, 0.88, 0.91, 0.97]), 200, 0.9)
    assert (found.lo, found.value, found.hi) == (2, 3, 4)
    assert wilson(176, 200).hi >= 0.9 > wilson(160, 200).hi and wilson(194, 200).lo >= 0.9 > wilson(182, 200).lo


def test_entropy_and_effective_number_are_those_of_the_shares(result: Result) -> None:
    run = next(r for r in result.details["runs"] if (r["organism"], r["seed"]) == ("formats-large-code", "0"))
    last = np.array([0.4 / 3] * 3 + [0.6])
    assert run["entropy"][-1] == pytest.approx(-(last * np.log(last)).sum()) and run["entropy"][0] == pytest.approx(math.log(4))
    assert result.estimate("effective_last", organism="formats-large-code", seed="1").value == pytest.approx(math.exp(-(last * np.log(last)).sum()))
    assert run["last"]["code"] == pytest.approx(0.6) and run["winner"] == run["leader"] == "code"


def test_convergence_and_winners_are_counted_over_runs_and_by_size(result: Result) -> None:
    converged = result.estimate("converged", size="all")
    expected = wilson(15, 18)
    assert (converged.value, converged.lo, converged.hi) == (expected.value, expected.lo, expected.hi)
    assert result.estimate("converged", size="large").value == pytest.approx(6 / 9) and result.estimate("winner_is_leader", size="small").value == 1.0
    assert result.estimate("early", size="all").value == pytest.approx(6 / 15)
    assert "which supports convergence" in result.said and "The corpus's leading format wins" in result.said
    assert "where it is go 6 of 6 [0.61, 1.00], think 6 of 6" in result.said and "By size, runs that converge: small 9 of 9 [0.70, 1.00], large 6 of 9" in result.said


def test_one_noisy_step_is_no_convergence() -> None:
    shares = np.full((20, 4), 0.1)
    shares[:, 3] = 0.7
    shares[10] = (0.02, 0.02, 0.02, 0.94)
    rows, curves = [synthetic_zoo.facts("o", 0)], synthetic_zoo.curve("o", 0, shares)
    found = formats.run(organisms=pd.DataFrame(rows), curves=curves)
    assert not found.estimate("passes_at", organism="o", seed="0").defined and found.estimate("converged", size="all").value == 0
    assert passes_at(shares[:, 3], 192, 0.9).value == 11  # which a single step would have been


def test_the_step_is_that_of_the_format_that_won() -> None:
    shares = np.full((20, 4), 0.02)
    shares[:5, 0], shares[5:15], shares[15:, 1] = 0.94, 0.25, 0.94
    found = formats.run(organisms=pd.DataFrame([synthetic_zoo.facts("o", 0)]), curves=synthetic_zoo.curve("o", 0, shares))
    assert found.details["runs"][0]["winner"] == "go" and found.estimate("passes_at", organism="o", seed="0").value == 18 and found.estimate("early", size="all").value == 0


def test_a_run_without_its_formats_is_named_and_a_missing_format_is_refused(zoo: Zoo) -> None:
    names = [c for c in zoo["curves"] if c.startswith("format/")]
    curves = zoo["curves"].copy()
    mine = (curves["organism"] == "formats-large-go") & (curves["seed"] == 1)
    curves.loc[mine, names] = np.nan
    assert "and so not counted: formats-large-go, seed 1;" in formats.run(organisms=zoo["organisms"], curves=curves).said
    with pytest.raises(InvalidInput, match="holds the format 'code', of which the table 'curves' has no column 'format/code'"):
        formats.run(organisms=zoo["organisms"], curves=zoo["curves"].drop(columns="format/code"))


def test_a_run_that_learns_nothing_is_named_and_not_counted() -> None:
    rows = [synthetic_zoo.facts(name, 0) for name in ("learns", "idle")]
    curves = [synthetic_zoo.curve(name, 0, synthetic_zoo.towards("go", 5)).reset_index(drop=True) for name in ("learns", "idle")]
    curves[1]["pass_rate"] = curves[1]["pass_rate"].mask(curves[1]["pass_rate"].notna(), 0.3)
    result = formats.run(organisms=pd.DataFrame(rows), curves=pd.concat(curves))
    assert [r["organism"] for r in result.details["runs"]] == ["learns"] and "so they are not counted: idle, seed 0." in result.said


def test_organisms_are_chosen_by_what_was_done_to_them_and_not_by_their_names(zoo: Zoo, result: Result) -> None:
    names = {name: f"x{i}" for i, name in enumerate(zoo["organisms"]["organism"].unique())}
    renamed = formats.run(**{k: zoo[k].assign(organism=zoo[k]["organism"].map(names)) for k in ("organisms", "curves")})
    assert renamed.finding == result.finding and renamed.notes[:2] == result.notes[:2]


def test_where_nothing_converges_and_another_format_wins_the_finding_says_so(zoo: Zoo) -> None:
    rows = [synthetic_zoo.facts(f"o{i}", 0, base=str(i)) for i in range(8)]
    curves = pd.concat([synthetic_zoo.curve(f"o{i}", 0, synthetic_zoo.towards("code", 10, end=0.5)) for i in range(8)])
    said = formats.run(organisms=pd.DataFrame(rows), curves=curves, config=formats.Config(organisms=())).said
    assert "which refutes convergence" in said and "leading format mostly loses" in said


def test_a_corpus_of_one_format_and_other_rewards_do_not_count(zoo: Zoo) -> None:
    single = zoo["organisms"].assign(**{"prior/go": 0.0, "prior/direct": 0.0, "prior/code": 0.0, "prior/think": 1.0})
    assert "reason" in formats.run(organisms=single, curves=zoo["curves"]).details
    assert "reason" in formats.run(organisms=zoo["organisms"].assign(reward="random"), curves=zoo["curves"]).details
    assert "reason" not in formats.run(organisms=zoo["organisms"], curves=zoo["curves"], config=Config(least_prior=0.05)).details
