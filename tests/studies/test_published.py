"""Study `published`: signed gaps against the closed form, intervals against a plain loop, and what the committed table says."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from latentreason.cli import app
from latentreason.errors import CorruptArtifact, InvalidInput, UnknownName
from latentreason.stats import gap_recovered
from latentreason.studies import STUDIES, published
from latentreason.studies.published import HEADLINE, KINDS, Config
from latentreason.studies.recompute import published_result, tables_dir
from latentreason.studies.result import Result

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "artifacts"
FEW = Config(n_boot=50)


def row(pair: str = "a", base: float = 40.0, rl: float = 80.0, hybrid: float = 60.0, **other: Any) -> dict[str, Any]:
    """A row of the table; reported as the source would."""
    reported = round(max(0, 100 * (hybrid - min(base, rl)) / abs(rl - base)), 1) if rl != base else 0.0
    facts = {"pair": pair, "base_model": f"base of {pair}", "rl_model": f"rl of {pair}", "training": "rl", "dataset": "D", "n_problems": 500}
    return {**facts, "base_acc_pct": base, "rl_acc_pct": rl, "hybrid_acc_pct": hybrid, "reported_gap_recovered_pct": reported, **other}


def audit(*rows: dict[str, Any], config: Config = FEW) -> Result:
    return published.run(table=pd.DataFrame(rows), config=config)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(ARTIFACTS / "published" / "venhoff_2026.csv")


@pytest.fixture(scope="module")
def committed() -> Result:
    return Result.load(ARTIFACTS / "results" / "published", "published")


@settings(max_examples=25, deadline=None)
@given(st.floats(5, 45), st.floats(55, 95), st.floats(0, 100))
def test_a_gap_is_signed_and_never_clamped(base: float, rl: float, hybrid: float) -> None:
    found = audit(row(base=base, rl=rl, hybrid=hybrid))
    share = found.estimate("gap_recovered")
    if share.defined:
        assert share.value == pytest.approx((hybrid - base) / (rl - base))
        assert share.n == 500
    assert found.details["rows"][0]["signed"] == pytest.approx((hybrid - base) / (rl - base))


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(18)))
def test_the_order_of_the_rows_changes_nothing(order: list[int]) -> None:
    table = pd.read_csv(ARTIFACTS / "published" / "venhoff_2026.csv")
    one, other = (published.run(table=t, config=FEW).table for t in (table, table.iloc[order]))
    keys = ["quantity", "dataset", "training", "pair", "other", "scope"]
    merged = one.merge(other, on=keys, suffixes=("", "_other"), validate="one_to_one")
    assert len(merged) == len(one) == len(other)
    for column in ("value", "lo", "hi", "n"):
        np.testing.assert_allclose(merged[column], merged[f"{column}_other"], atol=1e-12)


def test_intervals_are_those_of_a_plain_loop() -> None:
    share = audit(row(base=30, rl=70, hybrid=45, n_problems=400), config=Config(n_boot=20_000)).estimate("gap_recovered")
    rng, draws = np.random.default_rng(1), []
    for _ in range(20_000):
        base, rl, hybrid = (np.mean(rng.random(400) < rate) for rate in (0.30, 0.70, 0.45))
        draws.append((hybrid - base) / (rl - base))
    assert (share.lo, share.hi) == pytest.approx(np.quantile(draws, (0.025, 0.975)), abs=0.005)
    assert "parametric bootstrap of independent arms, 20000 draws" in share.method


def test_independent_arms_are_conservative_where_arms_succeed_on_the_same_problems() -> None:
    luck = np.random.default_rng(0).random(500)
    base, rl, hybrid = ((luck < rate).astype(float) for rate in (0.4, 0.8, 0.6))
    paired = gap_recovered(base, rl, hybrid)
    blind = audit(row(base=100 * base.mean(), rl=100 * rl.mean(), hybrid=100 * hybrid.mean()), config=Config()).estimate("gap_recovered")
    assert blind.value == pytest.approx(paired.value)
    assert blind.hi - blind.lo > 1.1 * (paired.hi - paired.lo)


def test_a_seed_gives_other_draws_and_a_row_has_its_own() -> None:
    first = audit(row("a"), row("b"))
    a, b = (first.estimate("gap_recovered", pair=pair) for pair in "ab")
    assert a.value == b.value and (a.lo, a.hi) != (b.lo, b.hi)
    again = audit(row("a"), row("b"), config=Config(n_boot=50, seed=1)).estimate("gap_recovered", pair="a")
    assert (again.lo, again.hi) != (a.lo, a.hi)


@pytest.mark.parametrize("rl", [40.0, 30.0, 43.0])
def test_without_a_gain_a_row_and_all_that_holds_it_are_undefined_with_a_reason(rl: float) -> None:
    found = audit(row("none", rl=rl), row("good"), row("other", training="distillation"))
    for quantity, where in (("gap_recovered", {"pair": "none"}), ("mean_gap", {"training": "rl"}), ("mean_gap_widest", {"training": "rl"}), ("kind_difference", {})):
        estimate = found.estimate(quantity, **where)
        assert not estimate.defined
        assert estimate.reason.startswith("none: RL gain not above 0: ")
    assert found.estimate("mean_gap", training="distillation").defined
    assert "are not shown to differ" in found.said
    assert not found.details["rows"][0]["holds_zero"]
    texts = [text.get_text() for text in published.plot(found).texts]
    assert any(text.startswith("undefined: none: RL gain not above 0") for text in texts)


def test_means_and_differences_are_those_of_the_rows() -> None:
    found = audit(
        row("a", hybrid=60), row("b", hybrid=70, base_model="shared"), row("c", hybrid=38, training="distillation", base_model="shared"),
        row("d", hybrid=50, training="distillation"), config=Config(n_boot=4000),
    )  # fmt: skip
    rl, distilled, difference = found.estimate("mean_gap", training="rl"), found.estimate("mean_gap", training="distillation"), found.estimate("kind_difference", scope="all rows")
    assert (rl.value, distilled.value, difference.value) == pytest.approx((0.625, 0.1, 0.525))
    rows = [found.estimate("gap_recovered", pair=pair) for pair in "ab"]
    widest = found.estimate("mean_gap_widest", training="rl")
    assert (widest.lo, widest.hi) == pytest.approx((np.mean([r.lo for r in rows]), np.mean([r.hi for r in rows])))
    half = np.sqrt(sum(((r.hi - r.lo) / 2) ** 2 for r in rows)) / 2  # rows are independent: their variances add
    assert (rl.lo, rl.hi) == pytest.approx((rl.value - half, rl.value + half), abs=0.015)
    away, apart = found.estimate("mean_gap_widest", training="distillation"), found.estimate("kind_difference_widest", scope="all rows")
    assert (apart.lo, apart.hi) == pytest.approx((widest.lo - away.hi, widest.hi - away.lo))
    same = found.estimate("kind_difference", scope="shared")
    assert same.value == pytest.approx(found.estimate("gap_recovered", pair="b").value - found.estimate("gap_recovered", pair="c").value)
    assert found.estimate("clamping_adds", training="distillation").value == pytest.approx(0.025)
    assert found.estimate("mean_gap_clamped", training="distillation").value == pytest.approx(0.125)


def test_what_is_reported_is_judged_within_the_rounding_of_the_accuracies() -> None:
    said = [
        r["reported_is"]
        for r in audit(
            row("exact"),
            row("rounded", base=40.005, rl=79.995, hybrid=60.005, reported_gap_recovered_pct=50.0),
            row("clamped", hybrid=38),
            row("wrong", reported_gap_recovered_pct=51.0),
            row("hidden", hybrid=45, reported_gap_recovered_pct=0.0),
        ).details["rows"]
    ]
    assert said == ["signed", "signed", "clamped", "neither", "neither"]


def test_a_table_that_cannot_be_audited_is_refused_with_the_fix(table: pd.DataFrame) -> None:
    for bad, error, said in (
        (table.drop(columns="training"), InvalidInput, "lacks values of training: fill"),
        (table.assign(rl_acc_pct=table["rl_acc_pct"].where(table.index > 0)), InvalidInput, "lacks values of rl_acc_pct"),
        (table.assign(base_acc_pct=101.0), InvalidInput, "base_acc_pct must lie between 0 and 100 percent"),
        (table.assign(n_problems=0), InvalidInput, "n_problems >= 1"),
        (table.head(0), InvalidInput, "pass at least one row"),
        (pd.concat([table, table.tail(1)]), InvalidInput, "'r1-32b' stands twice in one data set"),
        (table.replace("distillation", "distilation"), UnknownName, "Did you mean 'distillation'?"),
    ):
        with pytest.raises(error) as caught:
            published.run(table=bad, config=FEW)
        assert said in str(caught.value)
    with pytest.raises(InvalidInput, match="n_boot >= 1"):
        published.run(table=table, config=Config(n_boot=0))


def test_the_committed_table_has_18_rows_and_reports_what_follows_from_it_or_zero(table: pd.DataFrame, committed: Result) -> None:
    assert len(table) == len(committed.details["rows"]) == 18
    assert set(table["training"]) == set(KINDS)
    for facts, found in zip(table.to_dict("records"), committed.details["rows"], strict=True):
        signed = 100 * (facts["hybrid_acc_pct"] - facts["base_acc_pct"]) / (facts["rl_acc_pct"] - facts["base_acc_pct"])
        assert committed.estimate("gap_recovered", pair=facts["pair"], dataset=facts["dataset"]).value == pytest.approx(signed / 100)
        assert found["reported_is"] == ("clamped" if signed < 0 else "signed")
        if signed >= 0:  # accuracies of two decimals give the reported decimal or, in two rows, the next
            assert abs(round(signed, 1) - facts["reported_gap_recovered_pct"]) < 0.11
        else:
            assert facts["reported_gap_recovered_pct"] == 0
            assert found["reported_minus_signed"] == pytest.approx(-signed / 100)
    assert [r["pair"] for r in committed.details["rows"] if r["reported_is"] == "clamped"] == ["r1-math1.5b", "r1-llama8b"]
    exact = [abs(round(100 * r["signed"], 1) - 100 * r["reported"]) < 1e-6 for r in committed.details["rows"] if r["reported_is"] == "signed"]
    assert (sum(exact), len(exact)) == (14, 16)


def test_the_finding_counts_the_rows_that_hold_the_headline(committed: Result) -> None:
    shares = committed.table[committed.table["quantity"] == "gap_recovered"]
    for kind in ("rl", "distillation"):
        part = shares[shares["training"] == kind]
        count = ((part["lo"] <= HEADLINE) & (part["hi"] >= HEADLINE)).sum()
        assert f"{count} of {len(part)} {KINDS[kind]}" in committed.said
    assert str(committed.estimate("kind_difference", dataset="GSM8K", training="rl", other="distillation", scope="all rows")) in committed.said


def test_the_reference_says_what_the_committed_result_says(committed: Result) -> None:
    text = " ".join((ROOT / "docs" / "reference.md").read_text(encoding="utf-8").replace("\n> ", " ").split())
    assert committed.said in text
    for dataset in ("MATH500", "GSM8K"):
        for kind, name in KINDS.items():
            cells = [str(committed.estimate(q, dataset=dataset, training=kind)) for q in ("mean_gap", "mean_gap_widest", "clamping_adds")]
            assert f"| {dataset} | {name} | {' | '.join(cells)} |" in text
        for other in ("distillation", "sft_and_rl"):
            for scope in ("all rows", "Qwen2.5-32B"):
                cells = [str(committed.estimate(q, dataset=dataset, training="rl", other=other, scope=scope)) for q in ("kind_difference", "kind_difference_widest")]
                assert f"| {dataset} | RL-trained minus {KINDS[other]} | {scope} | {' | '.join(cells)} |" in text
    shares = committed.table[committed.table["quantity"] == "gap_recovered"]
    assert shares["value"].idxmax() == (shares["hi"] - shares["lo"]).idxmax(), "the highest one of this table has the widest interval"
    for clamped in (r for r in committed.details["rows"] if r["reported_is"] == "clamped"):
        share = committed.estimate("gap_recovered", pair=clamped["pair"], dataset=clamped["dataset"])
        assert f"| {clamped['rl_model']} | {clamped['dataset']} | {clamped['reported']:.3f} | {share} |" in text


def test_the_study_is_registered_and_its_command_prints_the_finding(committed: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert STUDIES["published"] is published
    assert tables_dir("published", ARTIFACTS / "results" / "activation") == ARTIFACTS / "published"
    monkeypatch.chdir(ROOT)
    said = CliRunner().invoke(app, ["study", "published", "--out", str(tmp_path)])
    assert said.exit_code == 0, said.output
    assert " ".join(said.output.split()) == " ".join(str(committed).split())
    pd.testing.assert_frame_equal(Result.load(tmp_path, "published").table, committed.table)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match=r"Cannot read table .*venhoff_2026\.csv"):
        published_result(tmp_path)


def test_draws_without_a_gain_are_infinite_and_a_mean_of_such_rows_has_an_open_end() -> None:
    small = {"base": 40, "rl": 47.5, "hybrid": 60, "n_problems": 400}
    found = audit(row("a", **small), row("b", **small), row("c", **small, training="distillation"), config=Config())
    assert all(found.estimate("gap_recovered", pair=pair).defined for pair in "abc")
    mean, difference = found.estimate("mean_gap", training="rl"), found.estimate("kind_difference")
    assert mean.value == pytest.approx(20 / 7.5) and math.isinf(mean.hi) and math.isfinite(mean.lo)
    assert difference.value == pytest.approx(0)
    assert ">" in [line.get_marker() for line in published.plot(found).lines]
