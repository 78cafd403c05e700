"""Studies refuse arms that say they are of another pair or task, and ask nothing of arms that do not say."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import latentreason as lr
from latentreason.errors import InvalidInput
from latentreason.models.pair import ModelPair
from latentreason.routing.controls import always, never
from latentreason.routing.oracle import on_disagreement
from latentreason.sampling.local import Sampling, sample
from latentreason.studies import passk, recovery, rivals, routing
from latentreason.studies.recompute import RESULTS
from latentreason.studies.result import same_pair
from latentreason.tables import Rollouts
from latentreason.tasks.registry import load_task

ROOT = Path(__file__).parents[2]
OURS = {"pair": "ours", "weights": ["aaaa", "bbbb"], "task": "chain"}
THEIRS = {"pair": "theirs", "weights": ["cccc", "dddd"], "task": "chain"}
SPEC = {"router": {"name": "on_entropy", "params": {"calibration": {"budget": 0.5, "D": 0.1, "share_of_D": 0.5}}, "reads": ["base"]}}


def arm(name: str, rate: float, changed: int, info: dict) -> Rollouts:
    rng = np.random.default_rng(len(name))
    columns = {"problem": np.repeat([f"p{i:02d}" for i in range(20)], 8), "sample": np.tile(np.arange(8), 20), "arm": name, "n_tokens": 20, "n_changed": changed, "correct": rng.random(160) < rate}
    return Rollouts(pd.DataFrame(columns), {name: info})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (THEIRS, r"base is of the pair 'ours' \(weights aaaa and bbbb\), .*'theirs' \(weights cccc and dddd\): a study speaks of one pair"),
        (OURS | {"task": "arith"}, r"base answers the task 'chain', .*'arith': a study speaks of one task"),
    ],
)
@pytest.mark.parametrize("which", ["rl", "hybrid", "control"])
def test_recovery_and_routing_refuse_an_arm_of_another_pair_or_task(which: str, other: dict, said: str) -> None:
    arms = {name: arm(name, rate, n, (SPEC | OURS) if name in ("hybrid", "control") else OURS) for name, rate, n in (("base", 0.2, 0), ("rl", 0.9, 4), ("hybrid", 0.6, 2), ("control", 0.4, 2))}
    recovery.run(**arms, config=recovery.Config(n_boot=20))
    wrong = arms | {which: Rollouts(arms[which].table, {which: arms[which].info[which] | other})}
    for study in (recovery, routing):
        with pytest.raises(InvalidInput, match=said):
            study.run(**wrong)


def test_passk_and_rivals_refuse_too_and_a_model_alone_must_be_of_the_pair() -> None:
    alone = {name: arm(name, rate, 0, {"weights": weights, "revision": None, "task": "chain"}) for name, rate, weights in (("base", 0.2, "aaaa"), ("rl", 0.9, "bbbb"))}
    config = passk.Config(max_k=4, hybrid_max_k=4, n_boot=20)
    passk.run(**alone, hybrid=arm("hybrid", 0.6, 2, OURS), config=config)
    with pytest.raises(InvalidInput, match=r"base is a model with weights aaaa, which is none of the pair 'theirs' .* of hybrid"):
        passk.run(**alone, hybrid=arm("hybrid", 0.6, 2, THEIRS), config=config)
    with pytest.raises(InvalidInput, match=r"one pair"):
        passk.run(**alone, hybrid=arm("hybrid", 0.6, 2, OURS), greedy=arm("rl", 0.9, 2, THEIRS), config=config)
    with pytest.raises(InvalidInput, match=r"one task"):
        rivals.run(base=alone["base"], rl=arm("rl", 0.9, 0, {"task": "arith"}), rivals=arm("x", 0.5, 0, {}), facts={"x": {"uses": "nothing", "passes": 1, "setting": 0.0, "tried": []}})


def test_what_does_not_say_is_not_asked_and_roles_may_be_exchanged() -> None:
    same_pair(base=arm("base", 0.2, 0, {}), rl=arm("rl", 0.2, 0, OURS), hybrid=None, exchanged=arm("back", 0.2, 0, OURS | {"weights": ["bbbb", "aaaa"]}))
    same_pair(base=arm("base", 0.2, 0, {"weights": "aaaa"}), rl=arm("rl", 0.2, 0, {"weights": "zzzz"}))  # nobody says which pair they are of
    same_pair(hybrid=arm("hybrid", 0.2, 0, OURS), rivals=arm("merged", 0.2, 0, {"weights": "zzzz"}))  # a rival has weights of its own


def test_sampled_arms_say_enough() -> None:
    pair, other, few = ModelPair.from_organism("activation-small"), ModelPair.from_organism("sharpening"), Sampling(n=2, max_new_tokens=24)
    problems = load_task("chain", limit=3)
    both = {name: sample(model, problems, few, progress=False) for name, model in (("base", pair.base), ("rl", pair.rl))}
    assert all(r.info[name]["task"] == "chain" for name, r in both.items())
    hybrid, wrong = (sample(lr.Hybrid(p, on_disagreement(), name="hybrid"), problems, few, progress=False) for p in (pair, other))
    same_pair(**both, hybrid=hybrid)
    for bad in ({**both, "hybrid": wrong}, {"base": sample(lr.Hybrid(pair, never(), name="base"), problems, few, progress=False), "rl": sample(lr.Hybrid(other, always(), name="rl"), problems, few, progress=False)}):
        with pytest.raises(InvalidInput, match="Sample all arms with one pair"):
            same_pair(**bad)


def test_tables_of_two_runs_in_one_folder_are_refused_and_committed_ones_load(tmp_path: Path) -> None:
    for pair in ("activation", "smollm2-arith"):
        ends, curves = (Rollouts.load(ROOT / "artifacts" / "results" / pair / "tables" / f"t1_{name}.parquet") for name in ("ends", "curves"))
        same_pair(ends=ends, curves=curves)
    tables = ROOT / "artifacts" / "results" / "activation" / "tables"
    for name in ("t1_ends.parquet", "steering.parquet", "steering.json", "steering_fluency.parquet", "facts.json"):
        if (tables / name).is_file():
            shutil.copyfile(tables / name, tmp_path / name)
    RESULTS["steering"](tmp_path)
    arms = Rollouts.load(tmp_path / "steering.parquet")
    Rollouts(arms.table, {name: facts | ({"weights": ["0", "1"]} if "weights" in facts else {}) for name, facts in arms.info.items()}).save(tmp_path / "steering.parquet")
    with pytest.raises(InvalidInput, match="give tables of one run"):
        RESULTS["steering"](tmp_path)
