"""The whole main job on natural text: random models, a byte tokenizer and the task `arith`. Nothing in it may need the organisms' language."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from latentreason import claims, compare, reproduce as job, steered
from latentreason.cli import app
from latentreason.errors import InvalidInput
from latentreason.figures.figures import check_figures, load_results
from latentreason.files import read_json, read_table, write_json
from latentreason.hybrid import calibrate
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.models.prompts import Prompt
from latentreason.publish import finish, finish_claims
from latentreason.sampling.local import Sampling, sample
from latentreason.studies import contamination
from latentreason.studies.recompute import recompute
from latentreason.tables import Rollouts, Spans
from latentreason.tasks import arith
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import TASKS, TWINS, load_task

SMALL = replace(job.TINY, task="arith", n_problems=4, n_samples=2, max_new_tokens=12, calibration_problems=4, passk_problems=3, passk_samples=4, passk_hybrid_samples=4,
                geometry_problems=6, geometry_samples=1)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, save_byte_llamas: Callable[[Path, Sequence[str]], None]) -> str:
    """Two random Llamas that read bytes, as BASE,RL."""
    root = tmp_path_factory.mktemp("pair")
    save_byte_llamas(root, ("base", "rl"))
    return f"{root / 'base'},{root / 'rl'}"


def test_the_main_job_runs_on_text_and_says_why_nothing_can_be_told(folders: str, tmp_path: Path) -> None:
    config = replace(SMALL, pair=folders, rl_prompt=Prompt("few_shot_steps"))
    job.reproduce(config, tmp_path / "base-rl-0", progress=False)
    page = finish(tmp_path / "base-rl-0", config)
    results = load_results(tmp_path / "base-rl-0")
    assert {"recovery", "recovery_greedy", "passk", "geometry", "elicitation"} <= set(results)
    gap = results["recovery"].table.query("quantity == 'recovery'")
    assert gap["value"].isna().all() and (gap["reason"] != "").all()  # random models solve nothing, so there is no gain to recover
    assert check_figures(tmp_path / "base-rl-0", tmp_path / "base-rl-0" / "figures") == []
    traces = read_table(tmp_path / "base-rl-0" / "tables" / "traces.parquet")
    assert set(traces["arm"]) == {"base", "hybrid", "rl"}
    kinds = set(read_table(tmp_path / "base-rl-0" / "tables" / "t1_strategies.parquet")["strategy"])
    assert "content" in kinds and not kinds & {"so", "leap", "digit", "format"}
    assert "base, few_shot_steps" in read_json(tmp_path / "base-rl-0" / "tables" / "elicitation.json")
    facts = read_json(tmp_path / "base-rl-0" / "tables" / "facts.json")
    assert facts["prompt"]["style"] == "few_shot" and len(facts["prompt"]["template"]) == 16
    assert {name: of["dtype"] for name, of in facts["models"].items()} == {"base": "torch.float32", "rl": "torch.float32"}
    assert page.read_text().count("<figure") >= 6


@pytest.fixture(scope="module")
def second(folders: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[job.Run]:
    """The stages of the main job on which the second one stands, with a coarse search and few draws."""
    config = replace(SMALL, pair=folders, budgets=(0.5,), fit_problems=4, swaps=4, max_new_tokens=8, strategy_samples=2)
    with pytest.MonkeyPatch.context() as patch:
        every = compare.rivals_for
        for where, name, value in ((calibrate, "ROUNDS", 1), (calibrate, "PARTS", 3), (compare, "rivals_for", lambda *asked: every(*asked)[1:2]), (steered, "STRENGTHS", (1.0, 2.0))):
            patch.setattr(where, name, value)
        stages = {name: job.STAGES[name] for name in ("calibrate", "curves, sampled")}
        yield job.reproduce(config, tmp_path_factory.mktemp("second") / "base-rl-0", stages=stages, progress=False)


def test_the_second_job_runs_on_text_and_leaves_out_with_a_reason_what_the_traces_do_not_have(second: job.Run) -> None:
    for stage in (compare.STAGES | steered.STAGES).values():
        stage(second)
    facts = {name: read_json(second.tables / f"{name}.json") for name in ("facts", "routing", "steering", "trained")}
    (threshold,) = [r["params"]["threshold"] for r in facts["facts"]["t1"]["routers"] if r["name"] == "on_divergence(js)"]
    assert compare.half_of_d(second) == threshold
    assert facts["routing"][f"on_probe(js above {threshold:.2g})"]["timing_source"] == "trained on RL labels"
    assert "has only one class: 0 of" in facts["routing"]["on_probe(onset)"]["reason"]  # random bytes open no strategy
    assert "No strategy has a vector: no spans" in facts["routing"]["on_nearest"]["reason"] and "No strategy has a vector" in facts["steering"]["vectors"]["reason"]
    assert "at least two strategies, found []" in facts["trained"]["trained vectors"]["reason"]
    results = recompute(second.tables, ["routing", "rivals", "steering", "trained"])
    for name, arm in (("steering", "vectors"), ("trained", "trained vectors")):
        assert results[name].estimate("recovery", arm=arm).reason == facts[name][arm]["reason"]
        assert any("undefined" in text.get_text() for text in results[name].plot().texts)
    assert results["rivals"].estimate("recovery", arm="RL-trained bias vector").reason == "no recipe trains biases alone on this base"
    assert {"js, swap", "entropy, swap"} <= set(results["steering"].table["arm"])
    arms = routing_arms(second)
    knows = {of["router"]: of["timing_source"] for of in arms if of["control"] == ""}
    clocked = [knows[of["router"]] for of in arms if of["control"] == "matched_position"]  # whatever speaks of the base, and the best of each other source
    assert clocked.count("base alone") == [*knows.values()].count("base alone") > 1 and clocked.count("trained on RL labels") == clocked.count("RL model live") == 1
    assert {of["router"] for of in arms if of["control"] == "matched_random"} == {of["router"] for of in arms if of["control"] == ""}


def routing_arms(run: job.Run) -> list[dict[str, str]]:
    """Router and control of each arm of the study `routing`."""
    return [{str(k): str(v) for k, v in row.items()} for row in recompute(run.tables, ["routing"])["routing"].details["curves"]]


def test_where_no_budget_is_near_half_of_d_the_threshold_is_computed(second: job.Run) -> None:
    far = replace(second, folder=second.folder.parent / "far")
    far.tables.mkdir(parents=True)
    computed = compare.half_of_d(far)
    facts = read_json(second.tables / "facts.json")
    facts["t1"]["routers"] = [r for r in facts["t1"]["routers"] if r["name"] != "on_divergence(js)"]
    write_json(far.tables / "facts.json", facts)
    assert compare.half_of_d(far) == computed > 0


def test_text_with_strategies_but_no_tokens_for_them_is_steered_by_vectors_alone(second: job.Run, tmp_path: Path) -> None:
    run = replace(second, folder=tmp_path / "base-rl-0")
    shutil.copytree(second.tables, run.tables)

    def spans(rollouts: Rollouts) -> Spans:
        """Two strategies by turns at the last token, and one that occurs once."""
        end = rollouts.table["n_tokens"]
        table = rollouts.table[["arm", "problem", "sample"]].assign(strategy=["even", "odd"] * (len(rollouts) // 2), start=end - 1, end=end)
        table.loc[0, "strategy"] = "rare"
        return Spans(table)

    run.__dict__["language"] = replace(second.language, spans=spans)  # in place of the cached one
    steered.STAGES["steering"](run)
    facts = read_json(run.tables / "steering.json")
    assert facts["js, logit bias"]["reason"] == "no token opens a strategy of its own in the text of arith"
    assert facts["js, RL category, base vectors"]["skipped"]["rare"] == "1 spans with and 15 without: at least 2 of each are needed"
    result, table = recompute(run.tables, ["steering"])["steering"], Rollouts.load(run.tables / "steering.parquet").table
    zero = table[table["arm"] == "js, RL category, zero vectors"]
    assert zero["n_routed"].sum() > 0 == zero["n_changed"].sum()  # nothing is added, so it is the base
    assert np.isfinite(result.estimate("base_logprob", arm="base").value) and set(result.details["fluency"]) == set(table["arm"])


def test_the_studies_that_draw_traces_of_their_own_run_on_text(folders: str, tmp_path: Path) -> None:
    folder = tmp_path / "base-rl-0"
    job.reproduce(replace(SMALL, pair=folders, rl_prompt=Prompt("few_shot_steps")), folder, stages=claims.STAGES, progress=False)
    assert set(finish_claims(folder)) == {"contamination", "coherence", "planning", "taxonomy"}
    results = load_results(folder)
    alone = results["contamination"].estimate("accuracy", split="seen minus clean", arm="change")
    assert alone.reason == "no problem is known to have been seen" and results["contamination"].details["problems"] == {"seen": 0, "clean": 4}  # arith is generated
    noise = results["coherence"].details  # random bytes: counted, not dropped
    assert noise["checker"].startswith("arithmetic") and all(sum(of.values()) == 3 * 2 for of in noise["status"].values())
    assert set(results["planning"].details["domains"]) <= set(arith.FAMILIES)
    assert check_figures(folder, folder / "figures") == []


def test_a_benchmark_is_compared_with_a_generated_task_of_its_kind(folders: str, tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    pair, few = ModelPair.named(folders), contamination.Config(shares=(0.6,), n_samples=2, n_boot=50)
    seen = [Problem(f"{i}" * 16, f"Ann has {i} pens and Bob has {i + 2} pens. How many pens have they?", f"{2 * i + 2}", "gsm8k", {"grader": "math"}) for i in range(2)]
    short = Sampling(n=1, max_new_tokens=4)

    def draw(name: str, model: LM, problems: list[Problem], how: Sampling) -> Rollouts:
        return sample(model, problems, how, progress=False)

    table = contamination.collect(pair, few, tmp_path, seen=seen, sampling=short, draw=draw)
    asked = {p.id for p in load_task("gsm_symbolic", split="test", limit=2, seed=0)}
    assert set(table.query("split == 'clean'")["problem"]) == asked and set(table["task"]) == {"gsm8k"} and set(table["twin"]) == {"gsm_symbolic"}
    result = contamination.run(table=table, config=few)
    assert result.details["problems"] == {"seen": 2, "clean": 2} and result.details["twin"] == "gsm_symbolic"
    assert result.said.endswith("Clean problems are of the generated task gsm_symbolic.")
    alone = contamination.collect(pair, few, tmp_path, seen=seen, clean=[], sampling=short, draw=draw)
    assert set(alone["split"]) == {"seen"} and "Clean problems" not in contamination.run(table=alone, config=few).said


def test_every_benchmark_has_a_generated_twin() -> None:
    assert set(TWINS) == {name for name, task in TASKS.items() if task.fixed} and not any(TASKS[twin].fixed for twin in TWINS.values())


def test_commands_read_text_by_its_own_language_and_refuse_a_task_in_words_that_the_model_does_not_know(folders: str, tmp_path: Path) -> None:
    small = ["--pair", folders, "--limit", "2", "--n", "2", "--max-new-tokens", "4", "--quiet", "--out", str(tmp_path / "out.parquet")]
    said = CliRunner().invoke(app, ["route", "--router", "at_strategy", "--task", "arith", *small])
    assert said.exit_code == 0, said.exception
    assert {"hybrid", "matched_random"} <= set(Rollouts.load(tmp_path / "out.parquet").arms)
    for command in ("sample", "route", "extract"):  # the task is `chain` unless given
        refused = CliRunner().invoke(app, [command, *small])
        assert isinstance(refused.exception, InvalidInput) and "--task" in str(refused.exception)
