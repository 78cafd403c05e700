"""Counts of what a model does, against texts counted by hand; and entropy against a single forward pass."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from latentreason.measure.counts import counts, entropy, of_chain, of_text
from latentreason.measure.facts import facts, judged_on
from latentreason.measure.projections import Ruler, projections
from latentreason.models.pair import ModelPair
from latentreason.organisms.zoo import NO_LATENT, ORGANISMS
from latentreason.sampling.local import Sampling, sample
from latentreason.tables import Rollouts
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import load_task
from latentreason.vectors.steering_vector import VectorSet

PROBLEM = chain.problem((4, 7, 1), ["rot", "mix"])
TEXTS = ["think so a 7 1 4 , split b rot 1 4 7 inc 2 5 8 , ans 2 5 8", "go leap a b 8 2 5 ; ans 8 2 5", "direct ans 2 5 8", "direct ans 2 5 8 ans 2 5 8"]


def rollouts(texts: list[str], problem: Problem, right: list[bool]) -> Rollouts:
    grades = ["correct" if r else "wrong" for r in right]
    n = len(texts)
    table = pd.DataFrame({"problem": problem.id, "sample": range(n), "arm": "rl", "n_tokens": [len(t.split()) for t in texts], "finish": ["stop"] * (n - 1) + ["length"], "correct": right, "grade_flexible": grades, "text": texts})
    return Rollouts(table)


def test_what_a_chain_trace_is_said_to_do() -> None:
    think, leap, direct, twice = (of_chain(text, PROBLEM) for text in TEXTS)
    assert (think["valid"], think["skipped"], think["path"], think["answers_again"]) == (True, 0.0, "think so split", 0)
    assert (leap["valid"], leap["skipped"], leap["path"]) == (False, 0.0, "go leap")
    assert (direct["skipped"], direct["path"], direct["unparsed"]) == (1.0, "direct", False)
    assert twice["answers_again"] == 1 and twice["unparsed"]
    assert of_chain("so so <unk> 1", PROBLEM)["format"] == "none" and of_chain("", PROBLEM)["skipped"] == 1.0


def test_counts_of_a_problem_are_those_by_hand() -> None:
    (row,) = counts(rollouts(TEXTS, PROBLEM, [True, False, True, False]), [PROBLEM]).to_dict("records")
    assert (row["n"], row["correct"], row["correct_first"], row["flexible"], row["valid"], row["correct_valid"]) == (4, 2, 1, 2, 1, 1)
    assert (row["unparsed"], row["cut"], row["right_skipped"], row["answers_again"]) == (1, 1, 1, 1)
    assert (row["paths"], row["right_paths"]) == (3, 1) and row["paths_entropy"] == pytest.approx(-(0.25 * math.log(0.25) * 2 + 0.5 * math.log(0.5)))
    assert row["skipped"] == pytest.approx((0 + 0 + 1 + 1) / 4)
    assert (row["format/direct"], row["right/direct"], row["format/think"], row["right/think"], row["format/none"]) == (2, 1, 1, 1, 0)
    assert (row["strategy/so"], row["strategy/split"], row["strategy/leap"], row["strategy/check"]) == (1, 1, 1, 0)
    assert row["n_tokens"] == sum(len(t.split()) for t in TEXTS)


def test_text_has_rules_for_strategies_python_for_a_format_and_no_checker() -> None:
    problem = Problem("00", "What is 2 + 2?", "4", "gsm8k")
    code = of_text("```python\nprint(2 + 2)\n```\nThe answer is 4.", problem)
    words = of_text("Let us compute 2 + 2 = 4. Wait, let me check. The answer is 4.", problem)
    assert (code["format"], words["format"], code["valid"]) == ("code", "text", None)
    assert words["path"] == "text compute restart answer"
    table = counts(rollouts(["def f(): 4", "so 4"], problem, [True, False]), [problem])
    assert table[["format/code", "right/code", "format/text"]].to_numpy().tolist() == [[1, 1, 1]] and table[["valid", "correct_valid", "right_paths"]].isna().all(axis=None)


def test_entropy_is_that_of_each_prefix_whatever_is_read_beside_it() -> None:
    lm = ModelPair.from_organism("activation").base
    problems = chain.load(split="test", limit=3, seed=0)
    drawn = sample(lm, problems, Sampling(n=3), progress=False)
    found = entropy(lm, drawn, 2)
    for name, group in drawn.table[drawn.table["sample"] < 2].groupby("problem"):
        nats: list[float] = []
        for prompt, said in zip(group["prompt_ids"], group["token_ids"], strict=True):
            for t in range(len(said)):
                with torch.no_grad():
                    p = lm.model(torch.from_numpy(np.concatenate([prompt, said[:t]]))[None]).logits[0, -1].double().softmax(-1)
                nats.append(float(-(p * p.log()).sum()))
        assert found[name] == pytest.approx(np.mean(nats), rel=1e-4)


def test_the_ruler_reads_one_scale_between_with_and_without_and_the_base_unchanged() -> None:
    base = ModelPair.from_organism("activation").base
    fitting, problems = (chain.load(split=split, limit=20, seed=0) for split in ("fit", "test"))
    how = Sampling(n=4)
    ruler = Ruler(base, fitting, how, 2)
    again = ruler.read(base, sample(base, fitting, how, progress=False))
    assert {"so", "leap", "split", "format:go"} <= set(again["label"])
    weighted = again.assign(sum=again["value"] * again["choices"]).groupby("label")[["sum", "choices"]].sum()
    assert (weighted["sum"] / weighted["choices"]).abs().max() < 1e-3  # on the very traces that zero was taken from
    reliability = again.groupby("label")["reliability"].first()
    assert reliability[["so", "leap", "ans"]].min() > 0.9 > reliability["check"]  # of few choices it is less
    vector = next(v for v in ruler.vectors.values() if v.label == "so")
    aside = Ruler(base, fitting, how, 2)
    aside.vectors = VectorSet((vector.random_like(0),), {}, {})  # the same places along its random twin
    expected = aside.read(base, sample(base, fitting, how, progress=False)).set_index("problem")["value"]
    assert np.allclose(again[again["label"] == "so"].set_index("problem")["random"], expected, atol=1e-4)
    table = projections(base, [(0, 5, base)], fitting, problems, fit=how, read=Sampling(n=1), layer=None)
    assert table is not None
    steps = [table[table["step"] == step].drop(columns=["stage", "step"]).reset_index(drop=True) for step in (0, 5)]
    pd.testing.assert_frame_equal(*steps)


def test_facts_say_what_was_done_and_what_is_latent() -> None:
    spurious = ORGANISMS["spurious-random-noclip"]
    (row,) = facts(spurious, 0, judged_on(spurious, 20)).to_dict("records")
    assert (row["reward"], row["clip"], row["stages"], row["n_training"], row["own_problems"]) == ("random", math.inf, "RLVR", 360, True)
    assert row["latent"] > 0.1 and sum(row[f"prior/{f}"] for f in chain.FORMATS) == pytest.approx(1.0)
    (barren,) = facts(NO_LATENT[0], 1, judged_on(NO_LATENT[0], 20)).to_dict("records")
    assert barren["latent"] < 0.05 and barren["base"] != row["base"]
    (order,) = facts(ORGANISMS["curriculum-srl-rlvr"], 0, judged_on(ORGANISMS["curriculum-srl-rlvr"], 5)).to_dict("records")
    assert (order["stages"], order["reward"]) == ("SRL > RLVR", "true")
    (one,) = facts(ORGANISMS["one-shot-b"], 0, judged_on(ORGANISMS["one-shot-b"], 20)).to_dict("records")
    assert (one["n_training"], one["skip"], one["own_problems"], one["base"], one["judged"]) == (1, 1, False, row["base"], row["judged"])
    (imitated,) = facts(ORGANISMS["new-skill"], 0, judged_on(ORGANISMS["new-skill"], 5)).to_dict("records")
    assert imitated["latent"] == 0.0 and "reward" not in imitated


def test_text_that_the_step_checker_cannot_read_is_counted() -> None:
    problem = load_task("arith", limit=1)[0]
    assert of_text("so x = something", problem)["unparsed"] and not of_text("3 + 4 = 7", problem)["unparsed"] and not of_text("no steps", problem)["unparsed"]
    assert not of_text("so x = something", Problem("", "", "1", "countdown"))["unparsed"]  # nobody checks steps there
