"""From recipes to figures: tiny organisms are trained, measured, stacked and judged by every study of the zoo."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from latentreason import grow, publish
from latentreason.errors import ArtifactConflict, InvalidInput
from latentreason.figures.figures import check_figures
from latentreason.files import read_table
from latentreason.measure import organism
from latentreason.measure.organism import Measuring, measure
from latentreason.organisms.recipe import RL, Pretrain, Recipe, Size
from latentreason.organisms.train import train
from latentreason.organisms.trainers.grpo import ConstantReward
from latentreason.organisms.zoo import ORGANISMS
from latentreason.publish import publish_zoo
from latentreason.studies.recompute import ZOO

pytest.importorskip("trl")

SIZE, PRETRAIN = Size(d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_mlp=32, half=True), Pretrain(steps=40, batch=16, warmup=5, lr=1e-2)
HOW = Measuring(n_problems=6, n_samples=4, kept_samples=2, n_training=4, entropy_samples=2, fit_problems=12, fit_samples=4)
NAMES = ("activation-small", "spurious-random", "one-shot-a", "too-hard", "curriculum-sft", "curriculum-rlvr", "curriculum-sft-rlvr")


def tiny(name: str) -> Recipe:
    """A recipe of the zoo, so small that each stage takes a moment."""
    recipe = ORGANISMS[name]
    stages = [replace(s, steps=2, prompts=2, group=4, max_new_tokens=24, keep=min(s.keep, 1)) if isinstance(s, RL) else replace(s, steps=2, batch=4, traces=4) for s in recipe.training]
    return replace(recipe, size=SIZE, pretrain=PRETRAIN, stages=tuple(stages))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders NAME-0 of trained organisms."""
    root = tmp_path_factory.mktemp("trained")

    def grow_all() -> None:
        for name in NAMES:
            train(tiny(name), root / f"{name}-0", seed=0, work=root / "work", progress=False)

    with pytest.warns(ConstantReward):  # so small a model is seldom right
        grow_all()
    return root


@pytest.fixture(scope="module")
def measured(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders NAME-0 of their measurements."""
    root = tmp_path_factory.mktemp("measured")
    for name in NAMES:
        measure(tiny(name), trained / f"{name}-0", root / f"{name}-0", seed=0, cache=root / "models", how=HOW, progress=False)
    return root


def test_every_organism_has_its_tables_and_only_where_weights_were_kept_are_they_measured(measured: Path) -> None:
    for name in NAMES:
        made = {f.stem for f in (measured / f"{name}-0").glob("*.parquet")}
        assert made >= {"organisms", "counts", "curves"} and ("kept" in made) == (name == "too-hard")
        assert ("training" in made) == (name not in ("spurious-random", "curriculum-sft", "curriculum-sft-rlvr"))  # groups of a first stage with the true reward
        counts = read_table(measured / f"{name}-0" / "counts.parquet")
        assert counts.groupby("arm").size().to_dict() == {"base": 6, "rl": 6} and (counts["n"] == 4).all()
    kept = read_table(measured / "too-hard-0" / "kept.parquet")
    assert sorted(set(zip(kept["stage"], kept["step"], strict=True))) == [(0, 0), (0, 1), (0, 2)]
    projections = read_table(measured / "too-hard-0" / "projections.parquet")
    assert set(projections["step"]) == {0, 1, 2} and (projections["choices"] > 0).all()


def test_models_that_organisms_share_are_counted_once_and_what_is_there_is_left_as_it_is(trained: Path, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(organism, "sample", lambda *args, **more: calls.append(args))
    recipe, out = tiny("one-shot-a"), measured / "one-shot-a-0"
    before = (out / "manifest.json").read_bytes()
    assert measure(recipe, trained / "one-shot-a-0", out, seed=0, cache=measured / "models", how=HOW, progress=False) == out
    measure(recipe, trained / "one-shot-a-0", measured.parent / "again", seed=0, cache=measured / "models", how=HOW, progress=False)
    assert calls == [] and (out / "manifest.json").read_bytes() == before
    base = [read_table(measured / f"{name}-0" / "counts.parquet").query("arm == 'base'") for name in ("activation-small", "one-shot-a")]
    assert base[0].reset_index(drop=True).equals(base[1].reset_index(drop=True))
    with pytest.raises(ArtifactConflict, match="measuring"):
        measure(recipe, trained / "one-shot-a-0", out, seed=0, cache=measured / "models", how=replace(HOW, n_samples=8), progress=False)


def test_measurements_are_stacked_and_every_study_says_something_of_them(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentreason.studies import boundary, curriculum

    monkeypatch.setattr(publish, "ORGANISMS", {name: tiny(name) for name in NAMES})
    for study in (boundary, curriculum):  # 4 samples a problem
        brief = partial(study.run, config=study.Config(max_k=2))
        monkeypatch.setitem(ZOO, study.__name__.rpartition(".")[2], lambda tables, run=brief: run(**{name: read_table(tables / f"{name}.parquet") for name in ("counts", "organisms")}))
    results = publish_zoo([measured / f"{name}-0" for name in NAMES], tmp_path)
    assert set(results) == set(ZOO) and all(r.finding for r in results.values())
    tables = {f.stem: read_table(f) for f in (tmp_path / "results" / "zoo" / "tables").glob("*.parquet")}
    assert set(tables) == {"organisms", "counts", "curves", "training", "kept", "projections"}
    assert all(list(t.columns[:2]) == ["organism", "seed"] for t in tables.values())
    assert results["curriculum"].details["orders"] == ["base", "SFT", "RLVR", "SFT > RLVR"]
    assert {r["reward"] for r in results["spurious"].table.query("quantity == 'gain'").to_dict("records")} == {"true", "random"}
    assert results["boundary"].details["n_seeds"] == 1 and "one seed" in results["boundary"].estimate("area_change", organism="activation-small", kind="answer", seed="all").reason
    assert (tmp_path / "figures" / "zoo" / "spurious.png").is_file()
    assert check_figures(tmp_path / "results" / "zoo", tmp_path / "figures" / "zoo") == []


def test_what_was_published_before_stays_until_its_recipe_changes(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("recompute_zoo", "make_figures"):
        monkeypatch.setattr(publish, module, lambda *_: {})
    monkeypatch.setattr(publish, "ORGANISMS", {name: tiny(name) for name in NAMES})

    def stacked(names: tuple[str, ...]) -> dict[str, pd.DataFrame]:
        publish_zoo([measured / f"{name}-0" for name in names], tmp_path)
        return {f.stem: read_table(f) for f in sorted((tmp_path / "results" / "zoo" / "tables").glob("*.parquet"))}

    at_once = stacked(NAMES)
    for file in (tmp_path / "results" / "zoo").rglob("*.*"):
        file.unlink()
    stacked(NAMES[3:])
    stacked(NAMES[:4])  # one of them again
    for name, table in stacked(()).items():
        pd.testing.assert_frame_equal(table, at_once[name], check_dtype=False)
    changed = {**publish.ORGANISMS, "one-shot-a": replace(tiny("one-shot-a"), truth=None)}
    monkeypatch.setattr(publish, "ORGANISMS", changed)
    assert set(at_once["organisms"]["organism"]) - set(stacked(())["organisms"]["organism"]) == {"one-shot-a"}
    assert set(at_once["organisms"]["organism"]) - set(stacked(NAMES)["organisms"]["organism"]) == {"one-shot-a"}  # measured here, of the former recipe
    monkeypatch.setattr(publish, "ORGANISMS", {name: replace(tiny(name), truth=None) for name in NAMES if tiny(name).truth} | {name: replace(tiny(name), truth="timing") for name in NAMES if not tiny(name).truth})
    assert all(table.empty for table in stacked(()).values())  # nothing is left of what was published


def test_the_command_line_measures_what_is_trained_skips_what_is_not_and_publishes(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from latentreason.cli import app

    monkeypatch.setattr(grow, "RUNS", tmp_path)
    monkeypatch.setattr(grow, "MEASURED", tmp_path / "measured")
    monkeypatch.setattr(grow, "recipes_of", lambda *names: [tiny("activation-small"), tiny("explore")])
    shutil.copytree(trained / "activation-small-0", tmp_path / "activation-small-0")
    run = CliRunner()
    with pytest.raises(InvalidInput, match="Nothing has been measured"):
        publish_zoo(grow.all_measured(), tmp_path)
    said = run.invoke(app, ["organisms", "measure", "all", "--problems", "2", "--samples", "64", "--quiet"])
    assert said.exit_code == 0, said.output
    assert "[2/2] explore, seed 0: not trained yet, skipped; train it with: latentreason organisms train explore --seed 0" in said.output
    assert [f.name for f in grow.all_measured()] == ["activation-small-0"]
    monkeypatch.setattr(publish, "make_figures", lambda *_: [])
    monkeypatch.setattr(publish, "ORGANISMS", {"activation-small": tiny("activation-small")})
    published = run.invoke(app, ["organisms", "publish", "--out", str(tmp_path / "artifacts")])
    assert published.exit_code == 0, published.output
    assert "spurious: Undefined: no organism was trained with a spurious reward: train and measure activation-small, spurious-random" in " ".join(published.output.split())
    for command in ("measure", "publish"):
        assert "Example" in run.invoke(app, ["organisms", command, "--help"]).output


def test_a_measurement_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 1, n_samples and kept_samples at least 2"):
        Measuring(n_samples=1)
