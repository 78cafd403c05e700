"""What the readouts of `compare` stand beside: built so that the right answer is known."""

import numpy as np
import pandas as pd
import pytest

from latentreason.compare import _by_chance, value_baselines


def swaps(worth: str, n: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"problem": [f"p{i % 40}" for i in range(n)], "start": rng.integers(0, 6, n), "base_token": rng.integers(0, 4, n), "rl_token": rng.integers(0, 4, n)})
    return table.assign(value=np.where(table[worth] % 2 == 0, 0.5, -0.25))


@pytest.mark.parametrize(("worth", "base_only", "low", "high"), [("base_token", True, 0.99, 1.0), ("rl_token", True, 0.35, 0.65), ("rl_token", False, 0.99, 1.0), ("start", True, 0.99, 1.0)])
def test_the_worth_of_a_swap_is_read_off_what_a_router_may_know(worth, base_only, low, high) -> None:
    (name, found), *others = value_baselines(swaps(worth), base_only, seed=0).items()
    assert not others
    assert name == ("base token and position" if base_only else "both tokens and position")
    assert low <= found["auroc"] <= high
    assert found["auroc_interval"][0] <= found["auroc"] <= found["auroc_interval"][1]


def test_a_row_alone_in_its_stratum_says_nothing_of_chance() -> None:
    rng, n = np.random.default_rng(1), 400
    target = rng.random(n) < 0.5
    read = np.stack([target.astype(float), rng.normal(size=n)], 1)  # the label itself: whatever keeps its label is read perfectly
    held = {"groups": np.array([f"p{i % 40}" for i in range(n)]), "seed": 0}
    strata = np.concatenate([np.zeros(n // 2), np.arange(1, n // 2 + 1)])  # half of the rows alone
    found = _by_chance("shuffled", target, strata, read, held)["shuffled"]
    assert 0.35 < found["auroc"] < 0.65
    assert _by_chance("shuffled", target, np.arange(n), read, held) == {}, "nothing can be shuffled"
