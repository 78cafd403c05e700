"""Study `planning` on tables made by hand: `rl_only` by brute force over subsets, novelty by counting, and two draws of the base that differ in nothing."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest

from latentreason.errors import InvalidInput
from latentreason.strategies.steps import domain_of
from latentreason.studies import planning
from latentreason.studies.planning import Config
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem

FEW = Config(n_boot=300)
N, M = 30, 8


def table(base: float, rl: float, *, new_ways: float, seed: int = 0) -> pd.DataFrame:
    """Two domains: on `hard` RL solves with rate `rl`, the base with `base`; on `easy` all with rate 0.5. RL's right traces take new ways at a rate."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(N):
        domain = "hard" if i % 2 else "easy"
        for arm in ("reference", "base", "rl"):
            rate = 0.5 if domain == "easy" else rl if arm == "rl" else base
            right = int(rng.binomial(M, rate))
            counts = [("solved: answer", "all", right, M)]
            for which, total in (("all", M), ("right", right)) if arm != "reference" else ():
                for measure in planning.NOVELTY:
                    counts.append((measure, which, int(rng.binomial(total, new_ways if arm == "rl" else 0.1)), total))
            rows += [{"pair": "p", "task": "t", "problem": f"{i:02d}", "domain": domain, "arm": arm, "measure": m, "which": w, "new": n, "total": t} for m, w, n, t in counts]
    return pd.DataFrame(rows)


def test_what_rl_solves_alone_is_the_chance_over_all_pairs_of_subsets() -> None:
    frame = table(0.2, 0.6, new_ways=0.1)
    result = planning.run(table=frame, config=FEW)
    solved = frame[frame["measure"] == "solved: answer"].pivot(index="problem", columns="arm", values="new")
    subsets = list(combinations(range(M), 2))
    for name, who, other in planning.OPPOSED:
        chances = []
        for row in solved.to_dict("records"):
            hit = [np.mean([any(j < row[arm] for j in some) for some in subsets]) for arm in (who, other)]
            chances.append(hit[0] * (1 - hit[1]))
        assert result.estimate(name, k=2, kind="answer", domain="").value == pytest.approx(np.mean(chances))
    top = (solved["rl"] > 0) & (solved["reference"] == 0)
    assert result.estimate("rl_only", k=M, kind="answer", domain="").value == pytest.approx(top.mean())


def test_creation_is_found_on_the_domain_where_it_is() -> None:
    result = planning.run(table=table(0.0, 0.7, new_ways=0.6), config=FEW)
    assert result.estimate("above", k=M, kind="answer", domain="hard").lo > 0.5 and result.estimate("above", k=M, kind="answer", domain="easy").hi < 0.3
    assert result.estimate("way", arm="above", which="right").lo > 0.2
    assert "RL adds solutions and ways" in result.said and "on hard (" in result.said
    listed = result.details["rl_only"]
    assert {row["domain"] for row in listed} == {"hard"} and all(row["base_samples"] == 2 * M and 0.15 < row["base_rate_at_most"] < 0.25 for row in listed)
    assert len(result.plot().lines) == 3


def test_without_one_valid_trace_nothing_is_created_whatever_ways_accidents_go() -> None:
    frame = table(0.3, 0.5, new_ways=0.9)
    traces = frame[frame["measure"] == "solved: answer"].assign(measure="solved: answer and trace", new=0)
    frame = pd.concat([frame, traces], ignore_index=True)
    result = planning.run(table=frame, config=FEW)
    assert result.details["rl_right"] == 0 and "so it creates nothing here" in result.finding and "new way" not in result.finding


def test_two_models_that_are_one_create_nothing() -> None:
    result = planning.run(table=table(0.4, 0.4, new_ways=0.1, seed=3), config=FEW)
    above, ways = result.estimate("above", k=M, kind="answer", domain=""), result.estimate("way", arm="above", which="right")
    assert above.lo <= 0 <= above.hi and ways.lo <= 0 <= ways.hi and "no evidence that RL creates anything here" in result.said


def test_novelty_is_pooled_and_undefined_where_no_trace_is_right() -> None:
    frame = table(0.3, 0.5, new_ways=0.4)
    result = planning.run(table=frame, config=FEW)
    part = frame[(frame["arm"] == "rl") & (frame["measure"] == "edge") & (frame["which"] == "right")]
    assert result.estimate("edge", arm="rl", which="right").value == pytest.approx(part["new"].sum() / part["total"].sum())
    none = frame.copy()
    none.loc[none["which"] == "right", ["new", "total"]] = 0
    result = planning.run(table=none, config=FEW)
    assert "RL creates ways cannot be judged" in result.said or "RL adds" in result.said
    found = result.estimate("way", arm="rl", which="right")
    assert not found.defined and "no right trace" in found.reason


def test_too_few_samples_and_tables_of_something_else_are_refused() -> None:
    frame = table(0.2, 0.6, new_ways=0.1)
    with pytest.raises(InvalidInput, match="pass@16 needs at least 16 samples a problem, got 8"):
        planning.run(table=frame, max_k=16, config=FEW)
    refused: list[tuple[Any, str]] = [
        (frame.drop(columns="which"), "no column 'which'"), (frame[frame["arm"] != "reference"], "no rows of the arm 'reference'"),
        (pd.concat([frame, frame.assign(task="u")]), "the tasks t, u"),
        (frame[(frame["problem"] != "03") | (frame["arm"] != "rl")], "1 problems have no 'solved: answer' of the draw 'rl'"),
    ]  # fmt: skip
    for bad, message in refused:
        with pytest.raises(InvalidInput, match=message):
            planning.run(table=bad, config=FEW)
    with pytest.raises(InvalidInput, match="problems of one task"):
        planning.collect(None, FEW, ".", problems=[])


def test_domains_come_from_the_problem() -> None:
    assert domain_of(chain.problem((1, 2, 3), ["rot", "dbl", "inc"])) == "3 operations, rare"
    assert domain_of(chain.problem((1, 2, 3), ["rot", "mix"])) == "2 operations"
    assert domain_of(Problem("p", "q", "a", "math", {"subject": "Algebra", "level": 5})) == "Algebra" and domain_of(Problem("p", "q", "a", "mine")) == "mine"
