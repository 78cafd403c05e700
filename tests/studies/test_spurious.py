"""Study `spurious`: known gains, shares and behaviour come back, and the claim is refuted where they say so."""

import numpy as np
import pandas as pd
import pytest

from latentreason.studies import spurious
from latentreason.studies.result import Result
from latentreason.studies.spurious import Config
from latentreason.studies.stacked import ALL

FEW = Config(n_boot=200)
Zoo = dict[str, pd.DataFrame]


def judged(zoo: Zoo, config: Config = FEW) -> Result:
    return spurious.run(**{name: zoo[name] for name in ("organisms", "counts", "curves")}, config=config)


@pytest.fixture(scope="module")
def zoo(zoo: Zoo) -> Zoo:
    """Its own organisms alone."""
    return {name: table[table["organism"].isin(spurious.TRAIN)] for name, table in zoo.items()}


@pytest.fixture(scope="module")
def result(zoo: Zoo) -> Result:
    return judged(zoo)


def test_gains_come_back_by_reward_base_and_clip(result: Result) -> None:
    half = 20 / 40  # of the problems gain
    for seed, offset in (("0", -4), ("1", 0), ("2", 4)):
        assert result.estimate("gain", base="latent", reward="true", clip="clip", seed=seed).value == pytest.approx((32 + offset) / 128 * half)
        assert result.estimate("gain", base="latent", reward="wrong", clip="no clip", seed=seed).value == pytest.approx((8 + offset) / 128 * half)
    assert result.estimate("gain", base="none", reward="random", clip="clip", seed=ALL).value == pytest.approx(0)
    effect = result.estimate("clip_effect", base="latent", reward="format", seed=ALL)
    assert effect.value == pytest.approx(16 / 128 * half) and effect.lo > 0


def test_shares_are_of_the_same_seeds_true_reward_and_undefined_without_one(result: Result) -> None:
    share = result.estimate("spurious_share", base="latent", seed="0")
    assert share.value == pytest.approx(20 / 28)
    assert result.estimate("spurious_share", base="latent", seed=ALL).n == 3
    assert "no organism with the true reward on this base" in result.estimate("spurious_share", base="none", seed=ALL).reason


def test_the_behaviour_is_followed_over_the_steps_that_drew_rollouts(result: Result) -> None:
    assert result.estimate("behaviour_first", base="latent", reward="random", clip="clip", seed="1").value == pytest.approx(0.2)
    assert result.estimate("behaviour_last", base="latent", reward="random", clip="clip", seed="1").value == pytest.approx(0.6 - 0.4 / 19)  # the mean of the last three
    assert result.estimate("behaviour_change", base="none", reward="random", clip="clip", seed=ALL).value == 0
    assert all(len(line["step"]) == 20 for line in result.details["behaviour"])


def test_the_finding_supports_and_a_smaller_share_refutes(zoo: Zoo, result: Result) -> None:
    assert "which supports that they work nearly as well" in result.said and "which leaves it open (an interval above 0" in result.said and "there is no difference to explain" not in result.said and "[" in result.said
    assert "which refutes that they work nearly as well" in judged(zoo, Config(n_boot=200, nearly=0.95)).said
    lifted = zoo["counts"].copy()
    rows = lifted["organism"].str.startswith("no-latent") & (lifted["arm"] == "rl")
    lifted.loc[rows, "correct"] += 40
    assert "which refutes that the behaviour must be latent (an interval above 0" in judged({**zoo, "counts": lifted}).said
    nothing = zoo["counts"].copy()
    rows = nothing["organism"].str.startswith("spurious") & (nothing["arm"] == "rl")
    nothing.loc[rows, "correct"] = np.tile(np.repeat([0, 16, 64, 112], 10), rows.sum() // 40)
    assert "since they gain nothing on a latent base either, there is no difference to explain" in judged({**zoo, "counts": nothing}).said


def test_names_of_organisms_do_not_matter(zoo: Zoo, result: Result) -> None:
    names = {name: f"x{i}" for i, name in enumerate(zoo["organisms"]["organism"].unique())}
    renamed = judged({k: t.assign(organism=t["organism"].map(names)) for k, t in zoo.items()})
    assert renamed.said == result.said
    pd.testing.assert_frame_equal(renamed.table, result.table)


def test_what_moved_and_what_the_clip_term_does_to_it(zoo: Zoo, result: Result) -> None:
    assert {r["value"] for r in result.table.query("quantity == 'moved'").to_dict("records")} == {0}  # the synthetic formats do not move
    counts = zoo["counts"].copy()
    rl, seeds = counts["arm"] == "rl", counts["seed"]
    for name, go in (("spurious-random", 64), ("spurious-random-noclip", 48), ("spurious-wrong", 32)):
        mine = rl & (counts["organism"] == name)
        counts.loc[mine, "format/go"] = go + seeds[mine]  # of 128; the base has 32
        counts.loc[mine, "format/think"] = 32 - seeds[mine]
    moved = judged({**zoo, "counts": counts})
    where = {"base": "latent", "reward": "random", "behaviour": "format/go"}
    for seed in (0, 1, 2):
        assert moved.estimate("moved", clip="clip", seed=str(seed), **where).value == pytest.approx((32 + seed) / 128)
        assert moved.estimate("moved", clip="no clip", seed=str(seed), **where).value == pytest.approx((16 + seed) / 128)
        assert moved.estimate("clip_moved", seed=str(seed), **where).value == pytest.approx(16 / 128)
    assert moved.estimate("moved", clip="clip", seed=ALL, **where).lo > 0
    assert "random go +0.26 [" in moved.said and "(1 of 4 behaviours have an interval without 0)" in moved.said
    pd.testing.assert_frame_equal(moved.table.query("quantity == 'gain'"), result.table.query("quantity == 'gain'"))


def test_the_clip_term_must_raise_what_the_base_does_most(zoo: Zoo, result: Result) -> None:
    assert "it raises that share under 0 of 4 rewards, does not under 0, so whether it favours what is likely is open" in result.said  # nothing moves, in no problem
    counts = zoo["counts"].copy()
    lowered = counts["organism"].isin([f"spurious-{r}" for r in ("random", "wrong", "majority", "format")]) & (counts["arm"] == "rl")
    said = judged({**zoo, "counts": counts.assign(**{"format/direct": counts["format/direct"].mask(lowered, 20 + counts["seed"])})}).said
    assert "does not under 4, which refutes that it favours what is likely" in said
    counts.loc[counts["arm"] == "base", "format/think"] = 40  # the commonest
    mine = (counts["arm"] == "rl") & counts["organism"].isin(["spurious-random", "spurious-format"])
    counts.loc[mine, "format/think"] = 48
    said = judged({**zoo, "counts": counts})
    assert said.details["bases"]["latent"]["commonest"] == "format/think"
    assert "the base's commonest format (think)" in said.said and "it raises that share under 2 of 4 rewards, does not under 0, so whether it favours what is likely is open" in said.said


def test_of_text_the_share_of_code_is_what_moves(zoo: Zoo) -> None:
    counts = zoo["counts"].drop(columns=[c for c in zoo["counts"] if c.startswith(("format/", "right/"))])
    counts["format/code"] = 64 + 32 * (counts["arm"] == "rl")
    counts["format/text"] = 128 - counts["format/code"]
    result = judged({**zoo, "counts": counts})
    assert set(result.table.query("quantity == 'moved'")["behaviour"]) == {"format/code"}
    assert result.estimate("moved", base="latent", reward="random", clip="clip", behaviour="format/code", seed=ALL).value == pytest.approx(0.25)
