"""Result: what a reader is shown."""

import math

import pandas as pd
import pytest

from latentreason.errors import InvalidInput
from latentreason.stats import Estimate
from latentreason.studies.result import Result, rows, whether

HALF, NONE = Estimate(0.5, 0.25, 0.75, 8, "made up"), Estimate(math.nan, math.nan, math.nan, 8, "made up", "no gain")


@pytest.fixture
def result() -> Result:
    table = [
        rows("recovery", HALF, arm="b", control="", budget=0.5), rows("recovery", NONE, arm="a", control="", budget=0.5),
        rows("accuracy", HALF, arm="b", control="", budget=0.5), rows("difference", HALF, arm="b", control="random", budget=0.5),
    ]  # fmt: skip
    return Result("recovery", {}, pd.DataFrame(table))


def test_a_readable_table_has_a_row_a_group_a_column_a_quantity_and_the_interval_in_the_cell(result: Result) -> None:
    shown = result.readable("accuracy", "recovery", by=["arm", "budget"])
    assert list(shown) == ["arm", "budget", "accuracy", "recovery"] and shown["arm"].tolist() == ["b", "a"]  # in the order of the table
    assert shown["recovery"].tolist() == ["0.50 [0.25, 0.75]", "undefined (no gain)"] and shown["accuracy"].tolist() == ["0.50 [0.25, 0.75]", ""]


def test_numbers_of_a_readable_table_are_still_numbers_where_some_are_missing() -> None:
    table = pd.DataFrame([rows("accuracy", HALF, arm="base"), rows("accuracy", HALF, arm="x", setting=2.0)])
    shown = Result("rivals", {}, table).readable("accuracy", by=["arm", "setting"])
    assert shown["arm"].tolist() == ["base", "x"] and shown["setting"].tolist() == ["", 2.0]


def test_a_readable_table_refuses_what_it_lacks_and_says_what_tells_rows_apart(result: Result) -> None:
    with pytest.raises(InvalidInput, match=r"no 'recovry'; its quantities are \['accuracy', 'difference', 'recovery'\]"):
        result.readable("recovry", by=["arm"])
    with pytest.raises(InvalidInput, match="no 'router'"):
        result.readable("recovery", by=["router"])
    with pytest.raises(InvalidInput, match=r"'recovery' has several estimates for one row of \['control'\]; add to `by` what tells them apart: arm"):
        result.readable("recovery", by=["control"])


@pytest.mark.parametrize(("lo", "hi", "said"), [(0.1, 0.3, "yes"), (-0.1, 0.3, "unclear"), (0.0, 0.3, "unclear"), (-0.3, 0.0, "no"), (0.0, 0.0, "unclear"), (1e-16, 0.3, "unclear"), (-0.3, 1e-16, "no"), (-0.3, -0.1, "no"), (math.nan, math.nan, "unclear")])
def test_an_interval_shows_a_claim_or_refutes_it_or_does_neither(lo: float, hi: float, said: str) -> None:
    assert whether(Estimate((lo + hi) / 2, lo, hi, 8, "made up"), "yes", "no", "unclear") == said
