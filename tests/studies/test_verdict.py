"""The verdict on tables whose cause is known, and on tables under other names; the calibration on verdicts that are known to be right or wrong."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from latentreason.errors import InvalidInput
from latentreason.stats import coalitions, wilson
from latentreason.studies import calibration
from latentreason.studies.verdict import PLAYERS, REFUTES, Config, run, split
from latentreason.tables import COUNT_COLUMNS

ARMS = [*coalitions(PLAYERS)]
FAST = Config(n_boot=300)
N, SAMPLES = 50, 8


def part(name, rates, *, n=N, samples=SAMPLES, seed=0, prefix="p", twin=""):
    """Counts of a part: arm -> rate, or (strict, flexible), or (strict, flexible, valid). Arms of one rate have equal counts, as under shared noise."""
    out = []
    for arm, rate in rates.items():
        strict, flexible, valid = (*(rate if isinstance(rate, tuple) else (rate,)), *[np.nan] * 3)[:3]
        flexible = strict if np.isnan(flexible) else flexible
        u = np.random.default_rng(seed).random((n, samples))
        rows = {"part": name, "arm": arm, "problem": [f"{prefix}{i:03d}" for i in range(n)], "twin": [f"{twin}{i:03d}" if twin else "" for i in range(n)], "n": samples}
        right = {key: (u < level).sum(1) for key, level in (("strict", strict), ("flexible", flexible))}
        out.append(pd.DataFrame({**rows, **right, "valid": np.nan if np.isnan(valid) else (u < valid).sum(1).astype(float)}))
    return pd.concat(out, ignore_index=True)[[*COUNT_COLUMNS]]


def arms(base=0.2, **worth):
    """Rates of the eight arms: `worth` adds to every arm that has the player (joined by _ where it takes several)."""
    return {arm: base + sum(w for of, w in worth.items() if set(of.split("_")) <= members) for arm, members in coalitions(PLAYERS).items()}


CASES = {
    "timing": arms(timing=0.6),
    "content": arms(content=0.5, timing=0.05),
    "sharpening": arms(sharpening=0.55, content=-0.05),
    "mixed": arms(timing=0.3, content=0.3),
    "undefined": arms(),
}


@pytest.mark.parametrize(("said", "rates"), CASES.items())
def test_the_cause_that_was_put_in_is_named(said, rates):
    result = run(counts=part("judged", rates), config=FAST)
    assert result.details["verdict"] == said, result.said
    assert result.said.startswith(f"Verdict: {said};") and ("would have refuted it" in result.said) is (said != "mixed")


def test_shares_are_the_numbers_that_were_put_in_and_an_interaction_is_split_evenly():
    result = run(counts=part("judged", arms(base=0.1, timing=0.3, timing_content=0.4), n=400), config=FAST)
    assert result.estimate("gain").value == pytest.approx(0.7, abs=0.04)
    for cause, share in (("timing", 5 / 7), ("content", 2 / 7), ("sharpening", 0), ("format", 0)):
        found = result.estimate("share", cause=cause)
        assert found.value == pytest.approx(share, abs=0.05) and found.lo <= found.value <= found.hi
    assert result.estimate("lead", cause="timing").lo > 0


def test_a_wrapper_of_the_answer_is_format():
    rates = {arm: (0.2, 0.8) if "content" not in members else (0.85, 0.85) for arm, members in coalitions(PLAYERS).items()}
    result = run(counts=part("judged", rates), config=FAST)
    assert result.details["verdict"] == "format" and result.estimate("share", cause="format").value == pytest.approx(0.6 / 0.65, abs=0.08)


def test_a_gain_on_seen_problems_alone_is_memorisation():
    counts = pd.concat([part("judged", arms(base=0.1, timing=0.05)), part("seen", {"base": 0.2, "rl": 0.8}, prefix="s", twin="p")])
    result = run(counts=counts, config=FAST)
    assert result.details["verdict"] == "memorisation"
    assert result.estimate("gain").value == pytest.approx(0.6, abs=0.08) and result.estimate("share", cause="memorisation").value > 0.8
    without = run(counts=counts[counts["part"] == "judged"], config=FAST)
    assert not without.estimate("share", cause="memorisation").defined and "no seen problems" in without.estimate("share", cause="memorisation").reason


@pytest.mark.parametrize(("times", "said"), [(1, "undecided"), (40, "timing")])
def test_few_problems_leave_it_undecided_and_more_settle_it(times, said):
    """Of seven problems timing solves five and content two; of forty times as many the same share."""
    counts = part("judged", dict.fromkeys(ARMS, 0.0), n=7 * times)
    number = counts["problem"].str[1:].astype(int)
    helps = np.where(number % 7 < 5, counts["arm"].str.contains("timing"), counts["arm"].str.contains("content")) | (counts["arm"] == "rl")
    result = run(counts=counts.assign(strict=8 * helps, flexible=8 * helps), config=FAST)
    assert result.details["verdict"] == said and (result.estimate("lead").lo > 0) is (said == "timing"), result.said
    assert result.estimate("share", cause="content").value == pytest.approx(2 / 7) and f"so the cause is {said}" in result.said


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 9), st.integers(1, 5))
def test_the_parts_add_up_to_the_gain_at_the_point_and_in_every_draw(seed, with_seen, n, samples):
    rng = np.random.default_rng(seed)
    tables = [part("judged", dict.fromkeys(ARMS, 0.5), n=n, samples=samples)]
    tables += [part("seen", dict.fromkeys(("base", "rl"), 0.5), n=n, samples=samples, prefix="s", twin="p")] if with_seen else []
    counts = pd.concat(tables)
    counts["strict"], counts["flexible"] = (rng.integers(0, samples + 1, len(counts)) for _ in range(2))
    found = split(counts, Config(n_boot=50, seed=seed % 1000))
    assert set(found.parts) == {*PLAYERS, "format", *(["memorisation"] if with_seen else [])}
    np.testing.assert_allclose(sum(found.parts.values()), found.gain, atol=1e-12)
    part_of = counts[counts["part"] == ("seen" if with_seen else "judged")]
    means = part_of.assign(rate=part_of["strict"] / part_of["n"]).groupby("arm")["rate"].mean()
    assert found.gain[0] == pytest.approx(means["rl"] - means["base"])
    assert len(found.gain) == 51 and all(len(values) == 51 for values in found.parts.values())


def test_the_parts_of_the_players_are_their_mean_gains_over_all_orders_of_joining():
    counts = part("judged", dict.fromkeys(ARMS, 0.5), n=5)
    counts["flexible"] = counts["strict"] = np.random.default_rng(0).integers(0, 9, len(counts))
    worth = {members: counts.loc[counts["arm"] == arm, "flexible"].mean() / SAMPLES for arm, members in coalitions(PLAYERS).items()}
    for player in PLAYERS:
        gains = [worth[frozenset(order[: order.index(player) + 1])] - worth[frozenset(order[: order.index(player)])] for order in permutations(PLAYERS)]
        assert split(counts, FAST).parts[player][0] == pytest.approx(np.mean(gains))


def whole(seed=0):
    """A table with every part."""
    return pd.concat([
        part("judged", {arm: (rate, rate + 0.1) for arm, rate in arms(timing=0.4, content=0.1).items()}, seed=seed), part("seen", {"base": 0.25, "rl": 0.85}, prefix="s", twin="p", seed=seed + 1),
        part("training", {"base": (0.2, 0.2, 0.1), "rl": (0.7, 0.7, 0.6)}, prefix="t", seed=seed + 2), part("breadth", {"base": (0.3, 0.3, 0.2), "rl": (0.7, 0.7, 0.6)}, samples=32, seed=seed + 3),
    ], ignore_index=True)  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_other_names_and_another_order_change_no_number(seed):
    counts, rng = whole(seed), np.random.default_rng(seed)
    ids = sorted({*counts["problem"], *counts["twin"]} - {""})
    names = dict(zip(ids, (f"{n:x}" for n in rng.permutation(10 * len(ids))[: len(ids)]), strict=True)) | {"": ""}
    moved = counts.assign(problem=counts["problem"].map(names), twin=counts["twin"].map(names)).sample(frac=1, random_state=seed)
    moved = moved[rng.permutation(moved.columns)]
    one, other = run(counts=counts, config=FAST), run(counts=moved, config=FAST)
    pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)
    assert (one.details, one.said) == (other.details, other.said)


def test_a_table_that_says_whose_it_is_is_refused():
    for column in ("organism", "seed", "recipe", "reward", "truth"):
        with pytest.raises(InvalidInput, match=f"it must not see whose they are.*{column}"):
            run(counts=whole().assign(**{column: "x"}))


@pytest.mark.parametrize(
    ("rates", "samples", "raised", "said"),
    [
        ({"base": (0.5, 0.5, 0.5), "rl": (0.0, 0.0, 0.0)}, 64, True, "pass@32 of RL minus base is -1.00"),
        ({"base": (0.5, 0.5, 0.5), "rl": (0.8, 0.8, 0.8)}, 64, False, "pass@32"),
        ({"base": (0.5, 0.5, 0.0), "rl": (0.6, 0.6, 0.0)}, 64, False, "0.00 [0.00, 0.00]"),  # right answers without a valid trace are no breadth
        ({"base": 0.5, "rl": 0.0}, 64, True, "nothing can check the traces"),
        ({"base": (0.5, 0.5, 0.5), "rl": (0.0, 0.0, 0.0)}, 16, False, "16 samples a problem are too few for pass@16, which takes 32"),
    ],
)
def test_collapse_is_a_loss_at_large_k_with_valid_traces(rates, samples, raised, said):
    counts = pd.concat([part("judged", CASES["timing"]), part("breadth", rates, samples=samples)])
    result = run(counts=counts, config=FAST)
    assert result.details["flags"]["collapse"]["raised"] is raised and said in result.details["flags"]["collapse"]["reason"]
    assert result.details["verdict"] == ("collapse" if raised else "timing") and result.details["cause"] == "timing"
    flag = result.details["flags"]["collapse"]["reason"]
    assert (result.finding == f"Verdict: collapse; {flag}; {REFUTES['collapse']}.") is raised and ("so the cause is timing" in result.finding) is not raised


def test_shortcuts_that_pay_in_training_and_cost_elsewhere_are_degenerate_even_without_a_gain():
    lost = {arm: 0.7 if arm == "base" else 0.2 for arm in ARMS}
    cheated, honest = {"base": (0.1, 0.1, 0.0), "rl": (0.9, 0.9, 0.0)}, {"base": (0.1, 0.1, 0.1), "rl": (0.9, 0.9, 0.9)}
    for judged, training, said in ((lost, cheated, "degenerate"), (lost, honest, "undefined"), (CASES["timing"], cheated, "timing")):
        result = run(counts=pd.concat([part("judged", judged), part("training", training, prefix="t")]), config=FAST)
        assert result.details["verdict"] == said, result.said
    flags = run(counts=pd.concat([part("judged", lost), part("training", cheated, prefix="t")]), config=FAST).details["flags"]
    assert flags["undefined"]["raised"] and flags["degenerate"]["raised"] and "share of it without a valid trace 1.00" in flags["degenerate"]["reason"]
    unchecked = {"base": 0.1, "rl": 0.9}
    assert "nothing can check the traces" in run(counts=pd.concat([part("judged", lost), part("training", unchecked, prefix="t")]), config=FAST).details["flags"]["degenerate"]["reason"]


def test_sharpening_is_named_only_where_the_colder_base_has_the_gain_by_itself_and_nobody_mends_what_flattening_broke():
    alone, broken = arms(base=0.3, sharpening=0.15), arms(base=0.3, sharpening=0.15)
    broken |= {"timing": 0.0, "content": 0.0, "timing+content": 0.0, "rl": 0.5}  # RL tokens at 1 / tau are worth less than nothing
    late = arms(base=0.1, sharpening=0.05, sharpening_timing=0.2, sharpening_content=0.2, timing=-0.05, content=-0.05)
    for rates, said in ((alone, "sharpening"), (broken, "undecided"), (late, "undecided")):
        result = run(counts=part("judged", rates, n=200), config=FAST)
        assert result.table.loc[result.table["quantity"] == "lead", "cause"].iloc[0] == "sharpening" and result.details["verdict"] in (said, "mixed" if said == "undecided" else said), result.said
    assert run(counts=part("judged", alone, n=200), config=FAST).estimate("alone", cause="sharpening").value == pytest.approx(1.0)


def test_a_gain_below_the_least_is_none():
    small = arms(base=0.2, timing=0.025)
    assert run(counts=part("judged", small, n=2000), config=FAST).details["verdict"] == "undefined"
    assert run(counts=part("judged", small, n=2000), config=Config(n_boot=300, least_gain=0.01)).details["verdict"] == "timing"


def test_one_training_problem_has_no_interval_so_shortcuts_are_not_measured():
    counts = pd.concat([part("judged", CASES["timing"]), part("training", {"base": (0.1, 0.1, 0.0), "rl": (0.9, 0.9, 0.0)}, n=1, prefix="t")])
    flag = run(counts=counts, config=FAST).details["flags"]["degenerate"]
    assert not flag["measured"] and "of one training problem there is no interval" in flag["reason"]


def test_without_a_gain_shares_are_undefined_and_parts_are_not():
    result = run(counts=part("judged", CASES["undefined"]), config=FAST)
    assert not result.estimate("share", cause="timing").defined and "RL gain not above 0" in result.estimate("share", cause="timing").reason
    assert result.estimate("part", cause="timing").value == 0 and result.details["cause"] == ""
    assert "points of accuracy" in result.plot().get_xlabel()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: c[c["arm"] != "timing+content"], "has no arm 'timing\\+content'"),
        (lambda c: c[~((c["arm"] == "timing") & (c["problem"] == "p003"))], "answer different problems"),
        (lambda c: pd.concat([c, c]), "stands twice in one arm"),
        (lambda c: c.assign(strict=c["n"] + 1), "right samples between 0 and n"),
        (lambda c: c.assign(n=0, strict=0, flexible=0), "n of at least 1"),
        (lambda c: c[c["problem"] != "s007"], "each seen problem needs a clean twin"),
        (lambda c: c.assign(twin=c["twin"].replace("p004", "p005")), "each seen problem needs a clean twin"),
        (lambda c: c.drop(columns="flexible"), "flexible is missing or too many"),
        (lambda c: c.assign(part=c["part"].replace("breadth", "depth")), "no part 'depth'"),
    ],
)
def test_tables_that_no_verdict_follows_from_are_refused(damage, said):
    with pytest.raises(InvalidInput, match=said):
        run(counts=damage(whole()), config=FAST)


def test_counts_and_temperatures_of_two_collections_are_refused_and_a_key_changes_nothing():
    tried = pd.DataFrame({"temperature": [0.5, 1.0], "accuracy": [0.4, 0.3], "chosen": [True, False]})
    plain, keyed = run(counts=whole(), tried=tried, config=FAST), run(counts=whole().assign(key="a1"), tried=tried.assign(key="a1"), config=FAST)
    pd.testing.assert_frame_equal(plain.table, keyed.table)
    with pytest.raises(InvalidInput, match=r"of 2 collections \(a1, b2\), so of several pairs or settings"):
        run(counts=whole().assign(key="a1"), tried=tried.assign(key="b2"), config=FAST)
    both = pd.concat([whole()[whole()["part"] != "breadth"].assign(key="a1"), whole()[whole()["part"] == "breadth"].assign(key="b2")])
    with pytest.raises(InvalidInput, match="of 2 collections"):
        run(counts=both, config=FAST)


# --- calibration -------------------------------------------------------------------------------------------------------


def zoo(cases):
    """Stacked tables and truths: (organism, seed) -> (truth, key of CASES)."""
    verdicts = pd.concat([part("judged", CASES[case], seed=seed).assign(organism=name, seed=seed) for (name, seed), (_, case) in cases.items()])
    truths = pd.DataFrame({"organism": [name for name, _ in cases], "truth": [truth for truth, _ in cases.values()]}).drop_duplicates()
    return {"verdicts": verdicts, "truths": truths, "config": calibration.Config(rule=FAST)}


@pytest.fixture(scope="module")
def judged():
    """Three organisms and three seeds; one is judged wrong on seed 2, one is of unknown truth."""
    cases = {("a", s): ("timing", "timing") for s in range(3)} | {("b", s): ("content", "timing" if s == 2 else "content") for s in range(3)} | {("c", 1): ("", "mixed")}
    return calibration.run(**zoo(cases))


def test_accuracy_is_counted_on_held_out_seeds_with_wilsons_interval(judged):
    held, own = (judged.estimate("accuracy", seeds=which) for which in ("held out", "set on"))
    assert (held.value, held.lo, held.hi, held.n) == (wilson(3, 4).value, wilson(3, 4).lo, wilson(3, 4).hi, 4) and (own.value, own.n) == (1.0, 2)
    assert calibration.confusion(judged, held_out=True) == {"truths": ["timing", "content"], "verdicts": ["timing", "content"], "counts": [[2, 0], [1, 1]]}
    assert calibration.confusion(judged, held_out=False)["counts"] == [[1, 0], [0, 1]]
    assert calibration.confusion_table(judged).to_dict("records") == [{"truth": "timing", "timing": "2 (1)", "content": "0 (0)"}, {"truth": "content", "timing": "1 (0)", "content": "1 (1)"}]


def test_errors_are_shown_and_the_unknown_is_told_apart(judged):
    assert "Wrong: b seed 2 is content, said timing" in judged.said and "c seed 1: mixed" in judged.said
    summary = calibration.summary(judged).set_index(["organism", "seed"])
    assert summary.loc[("b", 2), ""] == "WRONG" and summary.loc[("c", 1), ""] == "" and summary.loc[("c", 1), "truth"] == "?"
    for row in calibration.drawn(judged):
        assert np.nansum([*row["parts"].values()]) == pytest.approx(row["gain"]["value"])


def test_each_truth_has_its_own_accuracy_and_the_closest_call_is_told(judged):
    assert judged.estimate("accuracy_by_truth", seeds="held out", cause="content").value == 0.5 and judged.estimate("accuracy_by_truth", seeds="held out", cause="timing").n == 2
    shares = {(name, s): judged.estimate("share", organism=name, seed=s, cause=cause).value for name, cause in (("a", "timing"), ("b", "content")) for s in range(3)}
    lowest = min(shares, key=lambda key: shares[key])
    assert f"the share of a true cause is at least {shares[lowest]:.3f} ({lowest[0]} seed {lowest[1]}; majority is 0.5)" in judged.said
    assert "content 0.50 [0.09, 0.91] (1 organism)" in judged.said


def test_a_table_that_the_rule_refuses_counts_as_wrong_and_says_why():
    tables = zoo({("a", 1): ("timing", "timing"), ("b", 1): ("timing", "timing")})
    tables["verdicts"] = tables["verdicts"][~((tables["verdicts"]["organism"] == "b") & (tables["verdicts"]["arm"] == "timing"))]
    result = calibration.run(**tables)
    assert result.estimate("accuracy", seeds="held out").value == 0.5 and "b seed 1 is timing, said failed" in result.said
    assert "has no arm 'timing'" in result.details["verdicts"][1]["why"] and calibration.summary(result)["gain"].iloc[1].startswith("Part 'judged'")


def test_the_verdict_of_the_calibration_does_not_see_names():
    cases = {("timing", 1): ("content", "content"), ("content", 1): ("timing", "timing")}  # names that mislead whoever reads them
    assert calibration.run(**zoo(cases)).estimate("accuracy", seeds="held out").value == 1.0


def test_truths_that_are_missing_or_that_no_verdict_says_are_refused():
    tables = zoo({("a", 0): ("timing", "timing")})
    for truths, said in ((pd.DataFrame({"organism": ["b"], "truth": [""]}), "'a' has tables but no row"), (pd.DataFrame({"organism": ["a"], "truth": ["luck"]}), "No verdict says 'luck'")):
        with pytest.raises(InvalidInput, match=said):
            calibration.run(**{**tables, "truths": truths})


def test_a_half_that_nobody_saw_is_seldom_taken_for_seen(judged):
    parts = judged.table[judged.table["quantity"] == "placebo"]
    assert len(parts) == 7 * 5 and parts["value"].abs().max() < 0.2 and parts["n"].eq(N // 2).all()
    outside = (parts["lo"] > 0) | (parts["hi"] < 0)
    expected = {"false_alarm": int((parts["lo"] > 0).sum()), "false_difference": int(outside.sum()), "false_verdict": 0}
    for quantity, count in expected.items():
        rate = judged.estimate(quantity)
        assert (rate.value, rate.lo, rate.hi, rate.n) == (wilson(count, 35).value, wilson(count, 35).lo, wilson(count, 35).hi, 35)
    assert "35 halves of 7 organisms and seeds" in judged.details["false_alarms"] and "false" not in judged.said


def test_of_enough_problems_placebos_are_outside_as_often_as_chance_says():
    counts = part("judged", CASES["timing"], n=400, seed=5)
    parts = [calibration.placebo(counts, i, FAST)[0] for i in range(60)]
    outside = sum(p.lo > 0 or p.hi < 0 for p in parts)
    assert outside <= 8 and abs(np.mean([p.value for p in parts])) < 0.02  # of 60 at 5% more than 8 have a chance of 0.5%


def test_a_placebo_does_not_see_what_problems_are_called_nor_the_seen_split():
    counts = part("judged", CASES["timing"], seed=3)
    first = calibration.placebo(counts, 0, FAST)
    again = calibration.placebo(counts.assign(problem="x" + counts["problem"].str[::-1]).sample(frac=1, random_state=0), 0, FAST)
    assert first == again and calibration.placebo(counts, 1, FAST) != first
    seen = part("seen", {"base": 0.2, "rl": 0.9}, prefix="s", twin="p")
    assert calibration.placebo(pd.concat([counts, seen]), 0, FAST) == first
    flat = counts.assign(strict=np.where(counts["arm"] == "rl", 2, 1), flexible=np.where(counts["arm"] == "rl", 2, 1))
    assert calibration.placebo(flat, 0, FAST)[0].value == 0
    fake = part("judged", arms(), seed=1)
    rl = fake["arm"].isin(["rl"]) & (fake["problem"].str[1:].astype(int) % 2 == 0)
    fake.loc[rl, ["strict", "flexible"]] = SAMPLES  # half of the problems known by heart, but no split knows which
    assert abs(np.mean([calibration.placebo(fake, i, FAST)[0].value for i in range(20)])) < 0.1


def test_of_few_problems_there_is_no_placebo():
    tables = zoo({("a", 1): ("timing", "timing")})
    few = tables["verdicts"][tables["verdicts"]["problem"].isin(["p000", "p001", "p002"])]
    result = calibration.run(**{**tables, "verdicts": few})
    assert "false_alarms" not in result.details and not (result.table["quantity"] == "placebo").any()
