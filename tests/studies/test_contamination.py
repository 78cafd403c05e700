"""Study `contamination` on tables made by hand: differences against plain arithmetic, distances against their definition, and what a missing split says."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from latentreason.errors import InvalidInput
from latentreason.models.pair import ModelPair
from latentreason.organisms.problems import placebo_problems, problems_of
from latentreason.organisms.zoo import ORGANISMS
from latentreason.studies import contamination
from latentreason.studies.contamination import BOTH, Config

FEW = Config(n_boot=300, n_samples=2)
N = 40


def table(rates: dict[tuple[str, str], float], *, says: float = 0.9, splits: tuple[str, ...] = ("seen", "clean"), seed: int = 0) -> pd.DataFrame:
    """Accuracy by (split, arm); on seen problems a share `says` of the rest is said from 60%, on clean ones nothing. RL splits where the base leaps."""
    rng, rows = np.random.default_rng(seed), []

    def add(split: str, i: int, arm: str, measure: str, value: float, label: str = "", share: float = 1.0, draw: int = 0) -> None:
        rows.append({"pair": "p", "task": "t", "split": split, "problem": f"{split}{i}", "arm": arm, "measure": measure, "label": label, "share": share, "draw": draw, "value": value})

    for split in splits:
        for arm in ("base", "rl"):
            for i in range(N):
                for draw in (0, 1):
                    add(split, i, arm, "accuracy", float(rng.random() < rates[split, arm]), draw=draw)
                    for label, count in (("leap", 3), ("split", 1)) if arm == "base" else (("leap", 1), ("split", 3)):
                        add(split, i, arm, "behaviour", count, label, draw=draw)
                for share in (0.4, 0.6):
                    for measure in ("exact_match", "rouge_l", "answer_completed", "answer_truncated"):
                        add(split, i, arm, measure, float(split == "seen" and rng.random() < says), share=share)
                for measure in ("min_k_question", "min_k_answer"):
                    add(split, i, arm, measure, -1.0 - (split == "clean"))
    return pd.DataFrame(rows)


MEMORY = {("seen", "base"): 0.1, ("seen", "rl"): 0.9, ("clean", "base"): 0.1, ("clean", "rl"): 0.1}


def test_gain_on_seen_problems_alone_is_memory_and_behaviour_stands_apart_from_it() -> None:
    frame = table(MEMORY)
    result = contamination.run(table=frame, config=FEW)
    mean = frame[frame["measure"] == "accuracy"].groupby(["split", "arm"])["value"].mean()
    gains = {split: mean[split, "rl"] - mean[split, "base"] for split in ("seen", "clean")}
    for split, gain in gains.items():
        assert result.estimate("accuracy", split=split, arm="change").value == pytest.approx(gain)
    both = result.estimate("accuracy", split=BOTH, arm="change")
    assert both.value == pytest.approx(gains["seen"] - gains["clean"]) and both.lo > 0 and both.n == 2 * N
    assert result.estimate("min_k_question", split=BOTH, arm="base").value == pytest.approx(1.0)
    for split in ("seen", "clean"):  # (3, 1) against (1, 3) of four
        assert result.estimate("behaviour", split=split, arm="change").value == pytest.approx(0.5)
        assert result.estimate("behaviour", split=split, arm="control").value == pytest.approx(0.0)
    assert "so that part of the gain is memory" in result.said and "Behaviour moves by 0.50" in result.said
    apart = contamination.apart(result)
    assert set(apart["group"]) == {"score", "memory", "behaviour"} and list(apart.columns[-3:]) == ["seen", "clean", BOTH]
    assert apart[apart["group"] == "score"]["measure"].tolist() == ["accuracy"]
    assert len(result.plot().lines) == 8


def test_the_interval_between_two_sets_is_that_of_two_independent_means() -> None:
    result = contamination.run(table=table(MEMORY), config=Config(n_boot=4000, n_samples=2))
    parts = [result.estimate("exact_match", split=split, arm="base", share=0.6) for split in ("seen", "clean")]
    both = result.estimate("exact_match", split=BOTH, arm="base", share=0.6)
    rate = parts[0].value
    assert both.value == pytest.approx(rate) and both.hi - both.lo == pytest.approx(2 * 1.96 * np.sqrt(rate * (1 - rate) / N), rel=0.15)


def test_an_equal_gain_on_both_splits_is_no_memory() -> None:
    result = contamination.run(table=table({**MEMORY, ("clean", "rl"): 0.9}), config=FEW)
    assert "no evidence that the gain is memory" in result.said


@pytest.mark.parametrize(("splits", "reason"), [(("seen",), "no clean twin"), (("clean",), "no problem is known to have been seen")])
def test_one_split_alone_is_measured_and_not_compared(splits: tuple[str, ...], reason: str) -> None:
    result = contamination.run(table=table(MEMORY, splits=splits), config=FEW)
    assert result.estimate("accuracy", split=splits[0], arm="change").defined
    both = result.estimate("accuracy", split=BOTH, arm="change")
    assert not both.defined and reason in both.reason and reason in result.said
    assert reason in contamination.apart(result)[BOTH].iloc[0]
    result.plot()


def test_traces_without_strategies_leave_behaviour_undefined() -> None:
    frame = table(MEMORY)
    result = contamination.run(table=frame[(frame["measure"] != "behaviour") | (frame["arm"] == "base")], config=FEW)
    found = result.table[result.table["quantity"] == "behaviour"]
    assert found["value"].isna().all() and "no strategy was found" in found["reason"].iloc[0] and "Behaviour cannot be compared" in result.said


def test_tables_of_something_else_are_refused() -> None:
    frame = table(MEMORY)
    refused: list[tuple[Any, str]] = [
        (frame.drop(columns="share"), "no column 'share'"), (frame[frame["arm"] == "base"], "no rows of the arm 'rl'"),
        (pd.concat([frame, frame.assign(pair="q")]), "one pair; the table has the pairs p, q"),
        (frame[~((frame["problem"] == "seen0") & (frame["arm"] == "rl"))], "1 seen problems have no accuracy of the rl model"),
        (frame.assign(split="test"), "The splits are seen, clean, placebo, placebo twin, found 'test'"),
    ]  # fmt: skip
    for bad, message in refused:
        with pytest.raises(InvalidInput, match=message):
            contamination.run(table=bad, config=FEW)


def test_collect_refuses_a_pair_of_which_nobody_knows_what_it_has_seen(tmp_path: Any) -> None:
    class Pair:
        name = "somebody's"

    with pytest.raises(InvalidInput, match="give seen= and clean="):
        contamination.collect(Pair(), FEW, tmp_path)
    with pytest.raises(InvalidInput, match="even number"):
        contamination.collect(Pair(), Config(n_samples=3), tmp_path)


def with_placebo(alarm: float) -> pd.DataFrame:
    """A contaminated pair, and a placebo on which the RL model is right by `alarm` more often than on its twins."""
    rates = {("placebo", "base"): 0.1, ("placebo", "rl"): 0.2 + alarm, ("placebo twin", "base"): 0.1, ("placebo twin", "rl"): 0.2}
    return pd.concat([table(MEMORY), table(rates, splits=contamination.PLACEBO, seed=1)], ignore_index=True)


def test_a_placebo_changes_no_number_and_what_is_found_there_is_a_false_alarm() -> None:
    plain, calm, alarmed = (contamination.run(table=frame, config=FEW) for frame in (table(MEMORY), with_placebo(0.0), with_placebo(0.7)))
    kept = calm.table[~calm.table["split"].isin([*contamination.PLACEBO, contamination.ALARM])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, plain.table)
    assert calm.said.startswith(plain.said) and calm.details["placebo"] == N and contamination.apart(calm).equals(contamination.apart(plain))
    none = calm.estimate("accuracy", split=contamination.ALARM, arm="change")
    assert none.lo < 0 < none.hi and ", no false alarm; of " in calm.said and none.n == 2 * N
    mean = with_placebo(0.7).query("measure == 'accuracy'").groupby(["split", "arm"])["value"].mean()
    expected = (mean["placebo", "rl"] - mean["placebo", "base"]) - (mean["placebo twin", "rl"] - mean["placebo twin", "base"])
    found = alarmed.estimate("accuracy", split=contamination.ALARM, arm="change")
    assert found.value == pytest.approx(expected) and found.lo > 0 and "which is a false alarm" in alarmed.said
    assert "no false alarm" not in plain.said


def test_a_placebo_without_its_twins_or_alone_is_refused() -> None:
    frame = with_placebo(0.0)
    for bad in (frame[frame["split"] != "placebo twin"], frame[frame["split"].isin(contamination.PLACEBO)]):
        with pytest.raises(InvalidInput, match="placebo with its twins"):
            contamination.run(table=bad, config=FEW)


@pytest.mark.parametrize("name", ["activation", "contaminated", "new-skill"])
def test_placebo_problems_are_drawn_by_the_recipe_and_nobody_saw_them(name: str) -> None:
    recipe = ORGANISMS[name]
    fresh, twins = placebo_problems(recipe, limit=40)
    held = {p.id for p in [*recipe.corpus.seen, *problems_of(recipe, split="train", limit=300), *problems_of(recipe, split="clean", limit=40)]}
    assert len(fresh) == len(twins) == 40 and {p.id for p in fresh}.isdisjoint(held) and {p.id for p in fresh}.isdisjoint(p.id for p in twins)
    assert all(a.meta["operations"] == b.meta["operations"] and a.meta["cue"] == b.meta["cue"] for a, b in zip(fresh, twins, strict=True))
    assert all(set(recipe.problems.must or p.meta["operations"]) & set(p.meta["operations"]) for p in fresh)


def test_collect_asks_the_placebo_of_an_organism_and_refuses_one_that_stands_elsewhere(tmp_path: Any) -> None:
    pair = ModelPair.from_organism("contaminated")
    found = contamination.collect(pair, Config(n_samples=2, shares=(0.6,)), tmp_path, limit=3)
    assert set(found["split"]) == {*contamination.SPLITS, *contamination.PLACEBO} and found.groupby("split")["problem"].nunique().eq(3).all()
    seen = problems_of(ORGANISMS["contaminated"], split="seen", limit=3)
    with pytest.raises(InvalidInput, match="is a placebo and in another split"):
        contamination.collect(pair, FEW, tmp_path, seen=seen, clean=[], placebo=(seen, seen))
