"""Study `passk` beyond its curves: coverage and gaps by counting, path coverage and perplexity by hand, k to 1024 exactly and in little memory."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from latentreason.errors import InvalidInput
from latentreason.models.pair import ModelPair
from latentreason.sampling.local import Sampling
from latentreason.studies import passk
from latentreason.studies.passk import Config
from latentreason.tables import Rollouts
from latentreason.tasks.registry import load_task


def arm(name: str, right: list[int], n: int, valid: list[int] | None = None) -> Rollouts:
    """So many right (and valid) samples of n for each problem, spread over both halves."""
    order = np.random.default_rng(0).permutation(n)
    rows = {
        "problem": np.repeat([f"{i:03d}" for i in range(len(right))], n), "sample": np.tile(np.arange(n), len(right)), "arm": name,
        "correct": np.concatenate([order < c for c in right]),
    }  # fmt: skip
    if valid is not None:
        rows["valid"] = np.concatenate([order < c for c in valid])
    return Rollouts(pd.DataFrame(rows), {name: {}})


def test_coverage_and_efficiency_gap_are_counts() -> None:
    base, rl = arm("base", [0, 2, 4, 8, 0, 1], 8, valid=[0, 0, 4, 8, 0, 1]), arm("rl", [8, 8, 0, 8, 0, 0], 8, valid=[8, 8, 0, 8, 0, 0])
    result = passk.run(base=base, rl=rl, config=Config(max_k=4, n_boot=100))
    covered = {cell: result.estimate("coverage", kind="answer", cell=cell).value * 6 for cell in passk.CELLS}
    assert covered == pytest.approx({"both": 2, "base only": 2, "RL only": 1, "neither": 1})
    assert result.estimate("coverage", kind="answer and trace", cell="RL only").value == pytest.approx(2 / 6)
    at_4 = np.mean([1 - math.comb(8 - c, 4) / math.comb(8, 4) for c in (0, 2, 4, 8, 0, 1)])
    assert result.estimate("efficiency_gap", kind="answer").value == pytest.approx(at_4 - 0.5)
    assert not {"path_coverage", "perplexity"} & set(result.table["quantity"])


def test_k_of_1024_is_exact_and_needs_little_memory() -> None:
    rng = np.random.default_rng(1)
    right = {name: rng.integers(0, 5, 60).tolist() for name in ("base", "rl")}
    base, rl = (arm(name, counts, 2048) for name, counts in right.items())
    tracemalloc.start()
    result = passk.run(base=base, rl=rl, config=Config(max_k=1024, n_boot=500, n_answers=1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    exact = np.mean([float(1 - Fraction(math.comb(2048 - c, 1024), math.comb(2048, 1024))) for c in right["rl"]])
    found = result.estimate("pass@k", arm="rl", kind="answer", k=1024)
    assert found.value == pytest.approx(exact, abs=1e-12) and "fewer than" not in found.method
    assert len(result.details["guessing_floor"]) == 11
    assert peak < 150e6


def test_too_few_samples_for_the_k_asked_are_refused_with_the_fix() -> None:
    with pytest.raises(InvalidInput, match="pass@16 needs at least 16 samples a problem, got 8: sample at least 16"):
        passk.run(base=arm("base", [1, 2], 8), rl=arm("rl", [1, 2], 8), config=Config(max_k=16))
    with pytest.raises(InvalidInput, match="other problems than the base"):
        passk.run(base=arm("base", [1, 2], 8), rl=arm("rl", [1, 2, 3], 8), config=Config(max_k=4))


def test_path_coverage_and_perplexity_by_hand() -> None:
    base, rl = arm("base", [1, 2], 4), arm("rl", [2, 4], 4)
    greedy = Rollouts(pd.DataFrame({"problem": ["000", "001"], "sample": 0, "arm": "rl", "n_tokens": [10, 30], "n_changed": [0, 4], "correct": True}))
    rows = [("000", "base", True, 4, -2.0, -8.0), ("001", "base", False, 6, -4.0, -2.0), ("000", "rl", True, 5, -10.0, -1.0), ("001", "rl", True, 5, -5.0, -1.0)]
    likelihood = pd.DataFrame([{"problem": p, "sample": 0, "arm": a, "correct": c, "n_tokens": n, "base_nats": b, "rl_nats": r} for p, a, c, n, b, r in rows])
    result = passk.run(base=base, rl=rl, greedy=greedy, likelihood=likelihood, config=Config(max_k=2, n_boot=100))
    assert result.estimate("path_coverage", arm="rl").value == pytest.approx(36 / 40) and result.estimate("whole_path", arm="rl").value == pytest.approx(0.5)
    assert result.estimate("perplexity", arm="rl", kind="all, under base").value == pytest.approx(math.exp(1.5))
    assert result.estimate("perplexity", arm="base", kind="all, under base").value == pytest.approx(math.exp(0.6))
    assert result.estimate("perplexity", arm="base", kind="right, under rl").reason.startswith("undefined in")  # some draws hold no right trace
    assert result.estimate("surprise", arm="rl", kind="all, under base").value == pytest.approx(0.9)
    wrong = likelihood.assign(correct=likelihood["arm"] == "rl")
    again = passk.run(base=base, rl=rl, likelihood=wrong, config=Config(max_k=2, n_boot=100))
    assert again.estimate("perplexity", arm="base", kind="right, under base").reason == "no such trace"


def test_log_probabilities_are_those_of_a_forward_pass(tmp_path) -> None:
    from latentreason.models.scoring import token_logprobs
    from latentreason.sampling.local import sample

    pair, problems = ModelPair.from_organism("activation"), load_task("chain", limit=2)
    kept = []

    def draw(name, model, asked, how):
        kept.append(sample(model, asked, how, progress=False))
        return kept[-1]

    table = passk.collect(pair, tmp_path, problems=problems, n_samples=2, sampling=Sampling(seed=1), draw=draw)
    assert (tmp_path / "passk_likelihood.parquet").is_file() and table["arm"].tolist() == ["base"] * 4 + ["rl"] * 4
    rows = [(list(r["prompt_ids"]), list(r["token_ids"])) for r in kept[0].table.to_dict("records")]
    for name, lm in (("base", pair.base), ("rl", pair.rl)):
        again = [of.sum() for of in token_logprobs(lm, [([int(i) for i in p], [int(i) for i in t]) for p, t in rows])]
        assert table[f"{name}_nats"].tolist() == pytest.approx(again, abs=1e-3)


@pytest.mark.parametrize(
    ("base", "rl", "said"),
    [
        ([2] * 30 + [0] * 30, [128] * 60, "which refutes the crossing"),
        ([2] * 60, [128] * 30 + [0] * 30, "the base overtakes at k = "),
        ([2] * 60, [128] * 30 + [0] * 30, "which shows it"),
        ([64] * 60, [128] * 60, "the base misses 0.0% there and RL alone solves 0.0% of the problems"),
        ([64] * 60, [64] * 60, "so there is no crossing to speak of"),
        ([64] * 30 + [0] * 30, [64] * 30 + [0] * 30, "RL is above the base at no smaller k, so there is no crossing to speak of"),
        ([0] * 60, [0] * 60, "so there is no crossing to speak of"),
        ([64] * 60, [0] * 60, "so there is no crossing to speak of"),
        ([1] * 4 + [0] * 56, [3] * 4 + [0] * 56, "which refutes the crossing"),
    ],
)
def test_the_finding_speaks_of_a_crossing_only_where_there_is_something_to_cross(base: list[int], rl: list[int], said: str) -> None:
    result = passk.run(base=arm("base", base, 128), rl=arm("rl", rl, 128), config=Config(max_k=64, n_boot=200))
    assert said in result.finding
    small = passk.run(base=arm("base", base, 128), rl=arm("rl", rl, 128), config=Config(max_k=16, n_boot=200)).finding
    assert "k=16 is too small to speak of large k" in small
