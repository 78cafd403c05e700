"""Study `coherence` on tables made by hand: shares by counting, CoT-pass@k by brute force over subsets, and what cannot be read is shown."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest

from latentreason.errors import InvalidInput
from latentreason.models.pair import ModelPair
from latentreason.studies import coherence
from latentreason.studies.coherence import CELLS, Config
from latentreason.tasks.registry import load_task

FEW = Config(n_boot=200)
SAMPLES = 6


@pytest.fixture
def table() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for arm, right in (("base", 0.3), ("rl", 0.8)):
        for problem in range(12):
            for sample in range(SAMPLES):
                status = rng.choice(["parsed", "no steps", "unparsed"], p=[0.8, 0.1, 0.1])
                steps = int(rng.integers(2, 6)) if status == "parsed" else 0
                wrong = int(rng.integers(0, 3)) if status == "parsed" and rng.random() > right else 0
                correct = bool(rng.random() < right)
                valid = correct and status == "parsed" and wrong == 0 and bool(rng.random() < 0.7)
                rows.append({"pair": "p", "task": "t", "problem": f"{problem:02d}", "sample": sample, "arm": arm, "correct": correct, "status": status, "steps": steps, "wrong": wrong, "standing": wrong, "valid": valid, "cut": status == "unparsed" and bool(rng.random() < 0.5)})
    return pd.DataFrame(rows)


def test_shares_are_counts_over_counts_and_what_cannot_be_read_is_not_dropped(table: pd.DataFrame) -> None:
    result = coherence.run(table=table, config=FEW)
    for arm in ("base", "rl"):
        of = table[table["arm"] == arm]
        coherent = of[(of["status"] == "parsed") & (of["standing"] == 0)]
        expected = {
            "accuracy": of["correct"].mean(), "valid": of["valid"].mean(), "coherent": len(coherent) / len(of), "unparsed": (of["status"] == "unparsed").mean(),
            "no_steps": (of["status"] == "no steps").mean(), "step_errors": of["wrong"].sum() / of["steps"].sum(), "coherent_not_valid": 1 - coherent["valid"].mean(),
            "right_not_valid": 1 - of[of["correct"]]["valid"].mean(), "cut": of["cut"].mean(),
        }  # fmt: skip
        for quantity, value in expected.items():
            assert result.estimate(quantity, arm=arm, cell="").value == pytest.approx(value), quantity
        assert result.details["status"][arm] == of["status"].value_counts().to_dict()
    assert "could not read" in result.said and "the length limit cut" in result.said
    older = coherence.run(table=table.drop(columns="cut"), config=FEW)
    assert "collect it again" in older.estimate("cut", arm="rl", cell="").reason and "the length limit" not in older.said
    assert len(result.plot().get_yticklabels()) == len(coherence.SHARES)


def test_the_four_cells_pair_the_models_sample_by_sample(table: pd.DataFrame) -> None:
    result = coherence.run(table=table.sample(frac=1, random_state=1), config=FEW)  # the order of the rows is no matter
    base, rl = (table[table["arm"] == arm].set_index(["problem", "sample"]) for arm in ("base", "rl"))
    shares = []
    for cell, (b, r) in CELLS.items():
        inside = (base["correct"] == b) & (rl["correct"] == r)
        shares.append(result.estimate("cell", cell=cell).value)
        assert shares[-1] == pytest.approx(inside.mean())
        for arm, of in (("base", base), ("rl", rl)):
            good = (of["status"] == "parsed") & (of["standing"] == 0)
            assert result.estimate("coherent", cell=cell, arm=arm).value == pytest.approx(good[inside].mean())
    assert sum(shares) == pytest.approx(1)


def test_cot_pass_at_k_is_the_mean_over_all_subsets(table: pd.DataFrame) -> None:
    result = coherence.run(table=table, config=FEW)
    for kind in coherence.KINDS:
        good = (table["correct"] & (table["valid"] | (kind == "answer")))[table["arm"] == "rl"].to_numpy().reshape(12, SAMPLES)
        for k in (1, 2):
            brute = np.mean([any(row[list(some)]) for row in good for some in combinations(range(SAMPLES), k)])
            assert result.estimate("pass@k", arm="rl", kind=kind, k=k).value == pytest.approx(brute)


def test_what_is_always_valid_when_coherent_is_against_the_claim_and_an_empty_cell_has_a_reason(table: pd.DataFrame) -> None:
    sure = table.assign(correct=table["arm"] == "rl", valid=(table["arm"] == "rl") & (table["status"] == "parsed") & (table["standing"] == 0))
    result = coherence.run(table=sure, config=FEW)
    assert "against the claim" in result.said
    assert result.estimate("coherent", cell="both right", arm="base").reason == "no pair of samples in this cell"
    nothing = coherence.run(table=table.assign(status="unparsed", steps=0, wrong=0, standing=0, valid=False), config=FEW)
    assert "cannot be judged" in nothing.said and not nothing.estimate("step_errors", arm="rl", cell="").defined
    nothing.plot()


def test_tables_of_something_else_are_refused(table: pd.DataFrame) -> None:
    refused: list[tuple[Any, str]] = [
        (table.drop(columns="standing"), "no column 'standing'"), (table[table["arm"] == "rl"], "no rows of the arm 'base'"),
        (table.assign(seed=np.arange(len(table)) % 2), "the seeds 0, 1"), (table.iloc[:-1], "Base and RL model answered different problems"),
    ]  # fmt: skip
    for bad, message in refused:
        with pytest.raises(InvalidInput, match=message):
            coherence.run(table=bad, config=FEW)


def test_a_judge_is_asked_once_a_trace_and_its_failures_are_counted(tmp_path: Any) -> None:
    pair, problems, asked = ModelPair.from_organism("activation"), load_task("chain", limit=2), list[str]()

    def judge(text: str) -> str:
        asked.append(text)
        if len(asked) % 3 == 0:
            raise ConnectionError("gone")
        return "INVALID" if len(asked) % 2 else "I cannot tell."

    table = coherence.collect(pair, Config(n_samples=4, judged=3), tmp_path, problems=problems, judge=judge)
    assert (len(asked), (table["judge"] == "failed").sum(), (table["judge"] == "invalid").sum()) == (6, 4, 2)
    result = coherence.run(table=table, config=FEW)
    assert sum(result.estimate("judge_failures", arm=arm).n for arm in ("base", "rl")) == 6
    judged = table[table["judge"] == "invalid"]
    agreed = sum(e.value * e.n for arm in ("base", "rl") if (e := result.estimate("judge_agreement", arm=arm)).defined)
    assert agreed == pytest.approx((~judged["valid"]).sum())


def test_a_task_that_nothing_can_check_asks_for_a_checker(tmp_path: Any) -> None:
    problems = load_task("countdown", limit=2)
    with pytest.raises(InvalidInput, match="Nothing can check the steps of the task 'countdown'"):
        coherence.collect(None, FEW, tmp_path, problems=problems)
    with pytest.raises(InvalidInput, match="no problems"):
        coherence.collect(None, FEW, tmp_path, problems=[])


def test_each_cell_has_its_control_in_a_second_sample_of_the_base(table: pd.DataFrame) -> None:
    result = coherence.run(table=table, config=FEW)
    good = {arm: of["correct"].to_numpy().reshape(12, SAMPLES) for arm, of in table.groupby("arm")}
    coherent = {arm: ((of["status"] == "parsed") & (of["standing"] == 0)).to_numpy().reshape(12, SAMPLES) for arm, of in table.groupby("arm")}
    for cell, (first, second) in CELLS.items():
        shares, rises = {}, {}
        for name, arm in (("independent", "rl"), ("control", "base")):
            pairs = [(p, i, (i + SAMPLES // 2) % SAMPLES) for p in range(12) for i in range(SAMPLES)]  # never a sample with itself
            inside = [(p, i, j) for p, i, j in pairs if good["base"][p, i] == first and good[arm][p, j] == second]
            shares[name] = len(inside) / len(pairs)
            rises[name] = np.mean([coherent[arm][p, j] for p, _, j in inside]) - np.mean([coherent["base"][p, i] for p, i, _ in inside])
            assert result.estimate(f"cell_{name}", cell=cell).value == pytest.approx(shares[name])
            assert result.estimate(f"coherent_change_{name}", cell=cell).value == pytest.approx(rises[name])
        assert result.estimate("cell_above", cell=cell).value == pytest.approx(shares["independent"] - shares["control"])
        assert result.estimate("coherent_change_above", cell=cell).value == pytest.approx(rises["independent"] - rises["control"])
    assert result.estimate("cell_control", cell="RL only").value == pytest.approx(result.estimate("cell_control", cell="base only").value)


def test_rl_that_is_the_base_is_told_from_nothing(table: pd.DataFrame) -> None:
    """The cells fill by chance, and what is right is coherent; neither is a sign of RL."""
    rng, rows = np.random.default_rng(1), []
    for arm in ("base", "rl"):
        for problem in range(40):
            for sample in range(8):
                correct = bool(rng.random() < 0.4)
                rows.append({"problem": f"{problem:02d}", "sample": sample, "arm": arm, "correct": correct, "status": "parsed", "steps": 3, "wrong": int(not correct), "standing": int(not correct), "valid": correct})
    result = coherence.run(table=pd.DataFrame(rows), config=FEW)
    assert result.estimate("cell", cell="RL only").lo > 0.1 and result.estimate("coherent", cell="RL only", arm="change").value == 1
    above = result.estimate("cell_above", cell="RL only")
    assert above.lo < 0 < above.hi and result.estimate("coherent_change_above", cell="RL only").value == 0 and "not told from noise" in result.said


def test_one_sample_a_problem_has_no_control(table: pd.DataFrame) -> None:
    result = coherence.run(table=table[table["sample"] == 0], config=FEW)
    assert "no second one" in result.estimate("cell_above", cell="RL only").reason and "The cells have no control" in result.said
