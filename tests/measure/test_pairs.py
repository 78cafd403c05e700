"""Any pairs in the tables of the zoo: organisms by name as their own measurement has them, pairs of text with kept weights, and lists that make no sense."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from latentreason.cli import app
from latentreason.config import from_dict, load_config
from latentreason.errors import InvalidInput, UnknownName
from latentreason.figures.figures import check_figures, load_results
from latentreason.files import read_json, read_table
from latentreason.measure import organism, projections
from latentreason.measure.organism import Measuring, measure
from latentreason.measure.pairs import Kept, Pairs, Trained, measure_pairs
from latentreason.models.language_model import LM
from latentreason.models.pair import organism_dir
from latentreason.organisms.zoo import ORGANISMS
from latentreason.publish import finish_pairs
from latentreason.sampling.local import Sampling
from latentreason.studies.recompute import ZOO, recompute_zoo, zoo_configs
from latentreason.studies.stacked import ALL
from latentreason.tables import Rollouts
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import load_task

HOW = Measuring(n_problems=5, n_samples=4, kept_samples=2, n_training=3, entropy_samples=2, fit_problems=12, fit_samples=4, read_samples=1)
TEXT = """
task = "arith"
max_new_tokens = 10

[measuring]
n_problems = 4
n_samples = 4
kept_samples = 2
n_training = 3
entropy_samples = 1
fit_problems = 4
fit_samples = 2
read_samples = 1

[studies.boundary]
max_k = 2

[studies.formats]
learnt = -1.0   # random models learn nothing

[[pairs]]
name = "full"
pair = "{root}/base,{root}/rl"
n_training = 100
steps = 40
training_split = "train"
group = 4
latent = 0.3
prior = {{code = 0.6, text = 0.4}}
kept = [{{step = 10, model = "{root}/kept"}}]

[[pairs]]
name = "one"
pair = "{root}/base,{root}/kept"
n_training = 1
few = true

[[pairs]]
name = "random"
pair = "{root}/base,{root}/other"
reward = "random"
n_training = 100

[[pairs]]
name = "plus"
pair = "{root}/base,{root}/other"
external = 1
n_training = 100

[[pairs]]
name = "imitated"
pair = "{root}/base,{root}/kept"
stages = "SFT"
n_training = 100

[[pairs]]
name = "both"
pair = "{root}/base,{root}/rl"
stages = "SFT > RLVR"
n_training = 100
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, save_byte_llamas: Callable[[Path, Sequence[str]], None]) -> Path:
    """Four random Llamas that read bytes."""
    folder = tmp_path_factory.mktemp("models")
    save_byte_llamas(folder, ("base", "kept", "rl", "other"))
    return folder


@pytest.fixture(scope="module")
def of_text(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command line makes of the list above."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "mine.toml").write_text(TEXT.format(root=root))
    said = CliRunner().invoke(app, ["measure", str(folder / "mine.toml"), "--out", str(folder / "out"), "--quiet"])
    assert said.exit_code == 0, said.output
    assert all(f"{name}: " in said.output for name in ZOO)
    return folder / "out"


def tables_of(folder: Path) -> dict[str, pd.DataFrame]:
    return {file.stem: read_table(file) for file in (folder / "tables").glob("*.parquet")}


def test_an_organism_by_name_is_measured_as_the_zoo_measures_it(tmp_path: Path) -> None:
    names = ("activation-small", "one-shot-a")
    config = Pairs(tuple(Trained(name, name) for name in names), measuring=HOW)
    found = tables_of(measure_pairs(config, tmp_path / "pairs", progress=False))
    for name in names:
        measure(ORGANISMS[name], organism_dir(name), tmp_path / name, seed=0, cache=tmp_path / "zoo", how=HOW, progress=False)
        for table in ("counts", "training", "organisms"):
            mine, theirs = found[table].query("organism == @name").reset_index(drop=True), read_table(tmp_path / name / f"{table}.parquet")
            assert len(mine) == len(theirs) > 0
            for column in theirs:
                left, right = mine[column], theirs[column]
                same = np.allclose(left.astype(float), right.astype(float), equal_nan=True) if pd.api.types.is_numeric_dtype(right) else left.tolist() == right.tolist()
                assert same, (name, table, column)
    assert found["organisms"]["few"].tolist() == [False, True] and found["organisms"]["latent_from"].tolist() == ["corpus"] * 2
    results = recompute_zoo(tmp_path / "pairs" / "tables")
    assert results["one_shot"].details["organisms"] == ["one-shot-a"] and results["one_shot"].estimate("gain", seed=ALL, n_training=360).defined
    assert {c["organism"] for c in results["boundary"].details["curves"]} == set(names) and results["boundary"].details["curves"][0]["k"] == [1, 2]
    assert read_json(tmp_path / "pairs" / "tables" / "settings.json")["boundary"] == {"organisms": sorted(names), "max_k": 2}
    assert "one-shot-a (on few problems, so it says nothing of RLVR)" in results["boundary"].said


def test_pairs_of_text_have_every_table_with_what_is_stated_in_it(of_text: Path) -> None:
    found = tables_of(of_text)
    assert set(found) == {"organisms", "counts", "curves", "training", "kept"}  # no strategy in random bytes: nothing to project on
    facts = found["organisms"].set_index("organism")
    assert facts["base"].nunique() == facts["judged"].nunique() == 1
    assert facts["few"].to_dict() == {"full": False, "one": True, "random": False, "plus": False, "imitated": False, "both": False}
    assert facts.loc["full", ["latent", "latent_from", "prior/code", "prior_from", "rollouts"]].tolist() == [0.3, "stated", 0.6, "stated", 8]
    base = found["counts"].query("organism == 'one' and arm == 'base'")
    assert facts.loc["one", "latent"] == base["correct_valid"].sum() / base["n"].sum() and facts.loc["one", "prior/text"] == base["format/text"].sum() / 16
    kept, curve = found["kept"], found["curves"].query("organism == 'full'")
    assert curve["at"].tolist() == [0, 10, 40] == sorted(set(kept["step"])) and found["curves"].query("organism == 'one'")["at"].isna().all()
    for step, share in zip(curve["step"], curve["format/text"], strict=True):
        part = kept[kept["step"] == step]
        assert share == part["format/text"].sum() / part["n"].sum() and len(part) == 4 and (part["n"] == 2).all()
    assert set(found["training"]["organism"]) == {"full"} and (found["training"]["n"] == 4).all() and len(found["training"]) == 3 * 3
    assert found["counts"].groupby(["organism", "arm"]).size().eq(4).all()


def test_every_study_speaks_of_pairs_of_text_and_its_figure_follows_from_the_tables(of_text: Path) -> None:
    results = load_results(of_text)
    assert set(results) == set(ZOO) and check_figures(of_text, of_text / "figures") == []
    assert results["boundary"].estimate("remedy_area", organism="plus", against="full", kind="answer", seed=ALL).defined
    assert results["curriculum"].details["orders"] == ["base", "SFT", "RLVR", "SFT > RLVR"]
    assert results["one_shot"].estimate("gain", seed=ALL, n_training=1).defined
    assert results["spurious"].estimate("gain", reward="random", clip="clip", seed=ALL).defined and results["spurious"].config["behaviour"] == "format/code"
    full = next(b for b in results["spurious"].details["behaviour"] if b["reward"] == "true")
    assert full["step"] == [0, 10, 40]
    (run,) = [r for r in results["formats"].details["runs"] if r["organism"] == "full"]
    assert run["steps"] == [0, 10, 40] and run["prior"] == {"code": 0.6, "text": 0.4} and run["leader"] == "code"
    assert results["formats"].estimate("passes_at", organism="full", seed=ALL).value == 0  # random models write no code from the start
    assert results["difficulty"].details["trainings"][0]["organism"] == "full" and {k["step"] for k in results["difficulty"].details["kept"]} == {0, 10, 40}


def test_what_was_counted_is_not_counted_again_and_pairs_can_be_added(of_text: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, whole = [], organism.sample
    monkeypatch.setattr(organism, "sample", lambda *args, **more: counted.append(args[0].name) or whole(*args, **more))
    before = tables_of(of_text)["counts"]
    pairs = tuple(Trained(name, f"{root}/base,{root}/{rl}", n_training=100) for name, rl in (("random", "other"), ("again", "base")))
    small = from_dict(Measuring, {"n_problems": 4, "n_samples": 4, "kept_samples": 2, "n_training": 3, "entropy_samples": 1, "fit_problems": 4, "fit_samples": 2, "read_samples": 1})
    after = tables_of(measure_pairs(Pairs(pairs, task="arith", max_new_tokens=10, measuring=small), of_text, progress=False))
    assert counted == [] and set(after) == {"organisms", "counts", "curves"}
    pd.testing.assert_frame_equal(after["counts"].query("organism == 'random'").reset_index(drop=True), before.query("organism == 'random'").reset_index(drop=True))
    both = after["counts"].query("organism == 'again'").drop(columns="arm")
    assert both.iloc[:4].reset_index(drop=True).equals(both.iloc[4:].reset_index(drop=True))  # base against base
    assert finish_pairs(of_text)["boundary"].estimate("area_change", organism="again", kind="answer", seed=ALL).value == 0


def test_projections_read_the_strategies_of_text(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The traces are ours: each opens every strategy of the rules."""
    base, kept = (LM.from_pretrained(root / name, name="base") for name in ("base", "kept"))
    text = "Let us see. 2 + 3 = 5. Check it again. Wait, no. So the answer is 5."

    def written(lm: LM, problems: list[Problem], how: Sampling, **_: object) -> Rollouts:
        rows = [{"problem": p.id, "sample": s, "arm": "base", "text": text, "prompt_ids": np.arange(9 + i), "token_ids": np.array(base.tokenizer(text)["input_ids"])} for i, p in enumerate(problems) for s in range(4)]
        return Rollouts(pd.DataFrame(rows))

    monkeypatch.setattr(projections, "sample", written)
    problems = load_task("arith", limit=6)
    table = projections.projections(base, [(0, 10, kept)], problems, problems, fit=Sampling(n=4), read=Sampling(n=4), layer=None)
    assert table is not None and set(table["label"]) == {"set up", "compute", "check", "restart", "answer"} and set(table["step"]) == {0, 10}
    assert (table["choices"] == 5 * 4).all() and table.groupby("step")["value"].mean().nunique() == 2


ONE = Trained("a", "x,y", n_training=8)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Pairs(()), "at least one pair"),
        (lambda: Pairs((ONE, ONE)), "a name of its own, or a seed of its own"),
        (lambda: Pairs((Trained("few", "x,y", few=True, n_training=1), Trained("whole", "x,y"))), "n_training of the others must be stated, too: whole"),
        (lambda: Trained("a", "x,y", few=True), "say how many, n_training = 1 or more"),
        (lambda: Trained("a", "x,y", kept=(Kept(10, "m"),)), "steps = N says at which later one the RL model stands"),
        (lambda: Trained("a", "x,y", kept=(Kept(10, "m"),), steps=10), "steps = N says"),
    ],
)
def test_lists_that_make_no_sense_are_refused(make, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        make()


def test_a_misspelt_fact_task_or_study_is_named_before_anything_is_sampled(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="'atith'.*Did you mean 'arith'"):
        Pairs((ONE,), task="atith")
    for text, name in (("[[pairs]]\nname = 'a'\npair = 'activation'\nn_trainings = 3", "n_trainings"), ("[studies.boundry]\nmax_k = 2\n[[pairs]]\nname = 'a'\npair = 'activation'", "boundry"),
                       ("[studies.boundary]\nmax_l = 2\n[[pairs]]\nname = 'a'\npair = 'activation'", "max_l")):  # fmt: skip
        (tmp_path / "mine.toml").write_text(text)
        failed = CliRunner().invoke(app, ["measure", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out")])
        assert isinstance(failed.exception, UnknownName) and name in str(failed.exception) and not (tmp_path / "out").exists()
    assert "Example" in CliRunner().invoke(app, ["measure", "--help"]).output


def test_the_list_on_the_page_of_the_studies_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    (tmp_path / "mine.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    config = load_config(Pairs, tmp_path / "mine.toml")
    assert [p.name for p in config.pairs] == ["true", "random", "one", "imitation"] and config.pairs[0].kept[1] == Kept(100, "runs/grpo-true/step-100")
    assert zoo_configs(config.settings())["boundary"].max_k == 16 and zoo_configs(config.settings())["curriculum"].max_k == 16
