"""Bad input to the zoo and its studies, walked through as a user meets it: what is refused says the fix, what cannot be said has a reason.

The same refusals are tested in detail beside the code that makes them; here each kind has its line, through files and the public API.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic_zoo
from typer.testing import CliRunner

import latentreason as lr
from latentreason.cli import app
from latentreason.config import dump_config
from latentreason.errors import InvalidInput, LatentReasonError, UnknownName
from latentreason.files import read_table, write_table
from latentreason.measure.counts import counts
from latentreason.organisms.zoo import ACTIVATION, ORGANISMS
from latentreason.studies import boundary, coherence, curriculum, passk, planning, recovery, rivals
from latentreason.tasks import chain

TABLES = Path(__file__).parents[1] / "artifacts" / "results" / "activation" / "tables"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """Run a command line in an empty folder; what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> str:
        result = CliRunner().invoke(app, line.split())
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return " ".join(result.output.split())

    return run


def arm(name: str, right: list[int], n: int = 8, problem: str = "p") -> lr.Rollouts:
    """An arm with so many right samples of each problem."""
    rows = [
        {"problem": f"{problem}{i}", "sample": s, "arm": name, "n_tokens": 20, "n_changed": 2 * (name != "base"), "correct": s < c, "grade_strict": "correct" if s < c else "wrong"}
        for i, c in enumerate(right) for s in range(n)
    ]  # fmt: skip
    return lr.Rollouts(pd.DataFrame(rows), {name: {}})


BASE, RL = arm("base", [1, 2, 3]), arm("rl", [5, 6, 7])


# --- tables of another pair or task, and missing arms ------------------------------------------------------------------


@pytest.mark.parametrize("study", ["contamination", "coherence", "planning"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda t: pd.concat([t, t.assign(pair="another")]), "speaks of one pair; the table has the pairs activation, another"),
        (lambda t: pd.concat([t, t.assign(task="arith")]), "the table has the tasks arith, chain"),
        (lambda t: t[t["arm"] != "rl"], "no rows of the arm 'rl'.*collect both models of the pair"),
        (lambda t: t[t["arm"] == "none"], "no rows of the arm 'base', found \\[\\]"),
        (lambda t: t.drop(columns="arm"), "no column 'arm'"),
    ],
)  # fmt: skip
def test_a_pair_study_refuses_the_committed_table_once_it_is_damaged(command, study: str, damage: Any, said: str, tmp_path: Path) -> None:
    write_table(tmp_path / "tables" / f"{study}.parquet", damage(read_table(TABLES / f"{study}.parquet")))
    with pytest.raises(InvalidInput, match=said):
        command(f"study {study} tables")


@pytest.mark.parametrize("run", [
    lambda **arms: passk.run(**arms, config=passk.Config(max_k=4, n_boot=50)),
    lambda **arms: recovery.run(**arms, hybrid=arm("hybrid", [3, 3, 3]), config=recovery.Config(n_boot=50)),
    lambda **arms: rivals.run(**arms, rivals=arm("votes", [3, 3, 3]), facts={"votes": {}}, config=rivals.Config(n_boot=50)),
], ids=["passk", "recovery", "rivals"])  # fmt: skip
def test_two_models_in_one_table_are_not_pooled_and_other_problems_are_not_compared(run: Callable[..., Any]) -> None:
    with pytest.raises(InvalidInput, match=r"base must be one arm, but it holds the arms base, rl\. Pick one with \.arm\(name\)"):
        run(base=lr.concat([BASE, RL]), rl=RL)
    with pytest.raises(InvalidInput, match="rl must be one arm, but it holds no rows"):
        run(base=BASE, rl=lr.Rollouts(RL.table.iloc[:0], {}))
    with pytest.raises(InvalidInput, match="other problems|different problems"):
        run(base=BASE, rl=arm("rl", [5, 6, 7], problem="of another task "))


def test_an_arm_that_is_not_there_is_named_where_it_is_asked_for() -> None:
    with pytest.raises(UnknownName, match=r"Unknown arm 'rll'\. Did you mean 'rl'\? Known: base, rl"):
        lr.concat([BASE, RL]).arm("rll")


# --- too few samples for the k asked -----------------------------------------------------------------------------------


@pytest.mark.parametrize("study", [boundary, curriculum], ids=lambda study: study.__name__.rpartition(".")[2])
def test_a_study_of_the_zoo_refuses_a_k_above_its_samples(study: Any) -> None:
    zoo = synthetic_zoo.tables()
    with pytest.raises(InvalidInput, match=r"needs at least \d+ samples a problem, got \d+: sample at least \d+"):
        study.run(counts=zoo["counts"], organisms=zoo["organisms"], config=study.Config(max_k=512, n_boot=20))


def test_the_committed_table_of_planning_has_no_samples_for_a_k_of_100000() -> None:
    with pytest.raises(InvalidInput, match="needs at least"):
        planning.run(table=read_table(TABLES / "planning.parquet"), max_k=2**17)


# --- splits without clean twins, traces that nothing can parse ---------------------------------------------------------


def test_a_seen_problem_without_a_free_start_has_no_clean_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = ORGANISMS["contaminated"].corpus.seen[:2]
    assert len(chain.clean_twins(seen)) == 2
    monkeypatch.setattr(chain, "in_split", lambda *_: False)
    with pytest.raises(InvalidInput, match=f"Problem {seen[0].id} has no clean twin: none of its 1000 start states is free. Use other problems"):
        chain.clean_twins(seen)


def test_traces_that_the_checker_cannot_parse_are_counted_shown_and_not_dropped() -> None:
    problems = lr.load_task("chain", limit=2)
    texts = ["go so", "zzz \N{PILE OF POO}", "", f"direct ans {problems[0].answer}"]
    right = [False, False, False, True]
    rows = [{"problem": p.id, "sample": i, "arm": "base", "text": text, "correct": r and p is problems[0], "grade_flexible": "correct" if r and p is problems[0] else "wrong",
             "finish": "stop", "n_tokens": 4} for p in problems for i, (text, r) in enumerate(zip(texts, right, strict=True))]  # fmt: skip
    counted = counts(lr.Rollouts(pd.DataFrame(rows), {"base": {}}), problems)
    assert (counted["n"] == 4).all() and (counted["unparsed"] == 3).all() and counted["correct"].sum() == 1 and counted["format/none"].sum() >= 2
    table = read_table(TABLES / "coherence.parquet")
    unread = table.assign(status=np.where(table["arm"] == "rl", "unparsed", table["status"]))
    result = coherence.run(table=unread, config=coherence.Config(n_boot=50))
    assert result.estimate("unparsed", arm="rl", cell="").value == 1.0 and result.estimate("coherent", arm="rl", cell="").value == 0.0
    assert "could not read" in result.said and result.details["status"]["rl"] == {"unparsed": int((table["arm"] == "rl").sum())}


# --- recipes, in files -------------------------------------------------------------------------------------------------


MINE = replace(ACTIVATION, name="mine")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("A = [0.15, 0.75, 0.08, 0.02]", "A = [0.15, 0.75, 0.18, 0.02]", r"Format mixture \(0\.15, 0\.75, 0\.18, 0\.02\) of cue 'A' must have 4 parts that sum to 1"),
        ("separators = [0.8, 0.2]", "separators = [0.8, 0.3]", r"Separators \(0\.8, 0\.3\) must be 2 probabilities that sum to 1"),
        ('operators = ["rot",', 'operators = ["rott",', "No operation is called 'rott'"),
        ('operators = ["rot", "swp",', 'operators = ["rot",', "hold 'fuse' but not its part 'swp', so it could not be split"),
        ("p_rare = 0.02", "p_raer = 0.02", "Unknown config key 'corpus.p_raer'. Did you mean 'corpus.p_rare'"),
        ('name = "mine"', 'name = "activation-small"', "holds another recipe than that of 'activation-small' in the zoo.*Give it a name of its own"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["organisms train mine.toml --dry-run", "organisms measure mine.toml", "calibrate --organisms mine.toml"])
def test_a_recipe_in_a_file_that_makes_no_sense_says_what_to_change(command, verb: str, old: str, new: str, said: str, tmp_path: Path) -> None:
    text = dump_config(MINE)
    assert old in text
    (tmp_path / "mine.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(LatentReasonError, match=said):
        command(verb)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.toml"]


def test_a_constant_reward_is_said_at_step_1_and_stands_in_the_line_of_the_organism(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from latentreason.grow import line
    from latentreason.organisms.recipe import RL as Stage, Pretrain, Size
    from latentreason.organisms.train import train
    from latentreason.organisms.trainers.grpo import NOTE, ConstantReward

    recipe = replace(MINE, size=Size(d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_mlp=16), pretrain=Pretrain(steps=0), rl=Stage(steps=2, prompts=2, group=2, updates=1, max_new_tokens=8))
    with pytest.warns(ConstantReward, match="is the same for all samples of each prompt at step 1, so there is no gradient. Use another reward"):
        folder = train(recipe, tmp_path / "mine", work=tmp_path / "work", progress=False)
    assert line(folder).endswith(f"({NOTE})")
