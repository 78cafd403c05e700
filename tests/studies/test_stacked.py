"""What the zoo studies share: intervals over seeds, and tables that do not belong together."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from latentreason.errors import InvalidInput
from latentreason.stats import Estimate, undefined
from latentreason.studies import STUDIES, spurious
from latentreason.studies.recompute import ZOO
from latentreason.studies.stacked import across, bare, by_base, powers, runs_of


def one(value: float, half: float = 0.0) -> Estimate:
    return Estimate(value, value - half, value + half, 100, "bootstrap")


def test_over_seeds_stands_students_interval_widened_by_that_of_the_problems() -> None:
    values = [0.1, 0.2, 0.4]
    low, high = scipy_stats.t.interval(0.95, 2, np.mean(values), scipy_stats.sem(values))
    plain = across({s: bare(v, 1) for s, v in enumerate(values)})
    assert (plain.value, plain.lo, plain.hi, plain.n) == (pytest.approx(np.mean(values)), pytest.approx(low), pytest.approx(high), 3)
    both = across({s: one(v, 0.3) for s, v in enumerate(values)})
    assert both.hi - both.value == pytest.approx(math.hypot(high - np.mean(values), 0.3)) and "in quadrature" in both.method


def test_seeds_that_agree_still_have_the_interval_of_their_problems() -> None:
    found = across({s: one(0.0, 0.25) for s in range(3)})
    assert (found.lo, found.hi) == (pytest.approx(-0.25), pytest.approx(0.25))


def test_the_interval_of_a_share_ends_where_shares_do() -> None:
    of = {s: bare(v, 1) for s, v in enumerate([0.0, 0.01, 0.1])}
    free, share = across(of), across(of, share=True)
    assert free.lo < 0 and (share.value, share.lo, share.hi, share.method) == (free.value, 0.0, free.hi, free.method)
    assert across({s: bare(1 - e.value, 1) for s, e in of.items()}, share=True).hi == 1.0


def test_one_seed_says_that_its_interval_does_not_cover_the_training_and_lost_seeds_are_said() -> None:
    found = across({0: one(0.2, 0.1)})
    assert (found.value, found.lo, found.n) == (0.2, pytest.approx(0.1), 100) and "does not cover the training" in found.reason
    found = across({0: one(0.2), 1: undefined("RL gain not above 0", 100), 2: one(0.4)})
    assert found.n == 2 and found.reason == "1 of 3 seeds undefined: RL gain not above 0"
    assert across({}).reason == "no seeds" and across({0: undefined("nothing", 0)}).reason == "nothing"
    found = across({0: one(1.0), 1: Estimate(math.inf, 1.0, math.inf, 5, "x")})
    assert "infinite" in found.reason


def test_runs_share_a_base_only_with_the_same_problems(zoo: dict[str, pd.DataFrame]) -> None:
    runs = runs_of(zoo["counts"], zoo["organisms"])
    assert len(runs) == zoo["organisms"].groupby(["organism", "seed"]).ngroups
    groups = by_base(runs.values())
    assert {r.organism for r in groups["plain", "steps"]} == {o for o in zoo["organisms"]["organism"] if o.startswith("curriculum")}
    assert {r.organism for r in groups["plain", "mild"]} == {"too-hard"}


def test_tables_that_do_not_belong_together_are_refused_with_the_fix(zoo: dict[str, pd.DataFrame]) -> None:
    counts, organisms = zoo["counts"], zoo["organisms"]
    one = counts[(counts["organism"] == "collapsed") & (counts["seed"] == 0)]
    with pytest.raises(InvalidInput, match="no column 'correct'.*organisms publish"):
        runs_of(counts.drop(columns="correct"))
    with pytest.raises(InvalidInput, match="have no arm 'rl': measure base and RL model"):
        runs_of(one[one["arm"] == "base"])
    with pytest.raises(InvalidInput, match="different problems, so they cannot be paired"):
        runs_of(one.iloc[1:])
    with pytest.raises(InvalidInput, match="different problems"):
        runs_of(pd.concat([one, one]))
    with pytest.raises(InvalidInput, match="says nothing of 'collapsed', seed 0: are these tables of another zoo"):
        runs_of(one, organisms[organisms["organism"] != "collapsed"])
    with pytest.raises(InvalidInput, match="at least 2, found 1"):
        powers(1)


@pytest.mark.parametrize("name", ZOO)
def test_a_study_without_its_organisms_is_undefined_and_names_what_to_train(zoo: dict[str, pd.DataFrame], name: str) -> None:
    some = {k: t[t["organism"] == "new-skill"] for k, t in zoo.items()}
    needed = {"formats": ("organisms", "curves"), "spurious": ("organisms", "counts", "curves")}.get(name, ("organisms", "counts"))
    result = STUDIES[name].run(**{k: some[k] for k in needed})
    (row,) = result.table.to_dict("records")
    assert math.isnan(row["value"]) and "train and measure" in row["reason"] and STUDIES[name].TRAIN[0] in row["reason"]
    assert result.said.startswith("Undefined: ")
    assert any(text.get_text() == result.said for text in STUDIES[name].plot(result).texts)


@pytest.mark.parametrize("name", ZOO)
def test_what_a_study_asks_to_train_is_in_the_zoo(name: str) -> None:
    from latentreason.organisms.zoo import ORGANISMS

    assert set(STUDIES[name].TRAIN) <= set(ORGANISMS)


def test_the_rewards_of_the_study_are_those_of_the_zoo() -> None:
    from latentreason.organisms.zoo import SPURIOUS

    assert spurious.REWARDS == SPURIOUS
