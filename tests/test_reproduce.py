"""The main job in its tiny size: whole, resumable, and checked by `figures --check`; and the second job after it.

The tests share one folder, in the order in which they stand.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from latentreason import compare, reproduce as job, steered
from latentreason.errors import ArtifactConflict, CorruptArtifact, InvalidInput
from latentreason.figures import style
from latentreason.figures.figures import check_figures, load_results
from latentreason.files import read_json, read_table, write_table
from latentreason.hybrid import calibrate
from latentreason.publish import begin_from_published, finish, publish
from latentreason.studies import recovery
from latentreason.studies.recompute import OF_THEIR_OWN, RESULTS
from latentreason.tables import Rollouts

BESIDE = {"entropy", "log-odds of an opening token", "token and position", "untrained twin", "labels shuffled within position", "labels shuffled within position and first token"}
"""What a probe of the base is compared with on a task whose strategies have tokens."""


@pytest.fixture(scope="module", autouse=True)
def _small_change() -> Iterator[None]:
    """A coarse search of thresholds, few draws, small pictures: nobody reads these numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "ROUNDS", 1)
        patch.setattr(calibrate, "PARTS", 4)
        asked = recovery.Config
        patch.setattr(recovery, "Config", lambda *args, **kwargs: replace(asked(*args, **kwargs), n_boot=200))
        patch.setattr(style, "DPI", 50)
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    job.reproduce(job.TINY, folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def compared(unbroken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second job, in a folder that the first had finished."""
    folder = tmp_path_factory.mktemp("runs") / "compared"
    shutil.copytree(unbroken, folder)
    every = compare.rivals_for
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steered, "STRENGTHS", (1.0,))
        patch.setattr(compare, "rivals_for", lambda *asked: [replace(rival, grid=dict([*rival.grid.items()][-1:])) for rival in every(*asked)])
        job.reproduce(job.TINY, folder, stages=job.STAGES | compare.STAGES | steered.STAGES, progress=False)
    finish(folder, job.TINY, progress=False)
    return folder


@pytest.mark.slow
def test_a_killed_run_goes_on_and_equals_an_unbroken_one(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, calls = tmp_path / "killed", []
    original = job.sample

    def dies(*args: object, **kwargs: object) -> Rollouts:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(job, "sample", dies)
    with pytest.raises(KeyboardInterrupt):
        job.reproduce(job.TINY, folder, progress=False)
    job.reproduce(job.TINY, folder, progress=False)
    for file in sorted((unbroken / "tables").glob("*.parquet")):
        pd.testing.assert_frame_equal(read_table(file), read_table(folder / "tables" / file.name))


def test_a_folder_of_another_configuration_is_refused(unbroken: Path) -> None:
    with pytest.raises(ArtifactConflict):
        job.reproduce(job.RunConfig(seed=7), unbroken, progress=False)


@pytest.mark.slow
def test_results_figures_and_report_follow_from_the_tables(unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = finish(unbroken, job.TINY, progress=False)
    assert capsys.readouterr().err == ""  # as --quiet asks
    text = page.read_text()
    assert "<html" in text
    assert "http://" not in text
    assert "https://" not in text
    assert len(list((unbroken / "figures").glob("*.png"))) >= 6
    assert {f"{n}.json" for n in RESULTS if n not in OF_THEIR_OWN} <= {p.name for p in unbroken.glob("*.json")}
    assert check_figures(unbroken, unbroken / "figures") == []

    path = unbroken / "tables" / "t1_ends.parquet"
    kept = path.read_bytes()
    rollouts = Rollouts.load(path)
    table = rollouts.table.copy()
    table.loc[0, "correct"] = not table.loc[0, "correct"]
    Rollouts(table, rollouts.info).save(path)
    assert check_figures(unbroken, unbroken / "figures") != []
    path.write_bytes(kept)


def test_a_truncated_table_is_named(unbroken: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, pd.DataFrame({"a": [1, 2]}))
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(Exception, match=r"t\.parquet"):
        Rollouts.load(path)


@pytest.mark.slow
def test_the_second_job_goes_on_in_the_same_folder(unbroken: Path, compared: Path) -> None:
    assert all((compared / "tables" / file.name).read_bytes() == file.read_bytes() for file in (unbroken / "tables").glob("*.parquet"))
    results = load_results(compared)
    assert {"routing", "rivals", "steering", "trained"} <= set(results)
    for name in ("routing", "rivals", "steering", "trained"):
        assert results[name].finding
        assert (compared / "figures" / f"{name}.png").stat().st_size > 5000
    assert check_figures(compared, compared / "figures") == []
    sources = set(results["routing"].table["timing_source"])
    assert {"base alone", "trained on RL labels", "RL model live"} <= sources
    rivals, steering = (results[name].table[results[name].table["quantity"] == "recovery"].set_index("arm") for name in ("rivals", "steering"))
    assert set(rivals["timing_source"]) - {""} == {"none", "base alone", "RL model live"} and rivals.loc["temperature", "content_source"] == "base token"
    assert {"base-fitted vector", "RL-fitted vector", "random vector", "RL token", "logit bias"} <= set(steering["content_source"])
    assert steering.loc["entropy, base category, base vectors", ["timing_source", "category_source", "rl_logits"]].tolist() == ["base alone", "base alone", 0.0]
    assert steering.loc["js, RL category, RL vectors", ["timing_source", "category_source", "rl_logits"]].tolist() == ["RL model live", "RL model live", 1.0]
    assert 0 < steering.loc["entropy, RL category, base vectors", "rl_logits"] < 1
    facts = read_json(compared / "tables" / "steering.json")
    assert {"js, one vector", "js, logit delta", "js, RL category, base vectors, random places", "js, RL category, base vectors, natural scale"} <= set(facts)
    assert {3} < {each["layer"] for each in facts["js, RL category, base vectors"]["tried"]} and all(fact["layer"] != 3 for fact in facts.values() if fact.get("layer") is not None)
    assert facts["js, RL category, base vectors, natural scale"]["setting"] == 1.0 and steering.loc["js, one vector", "content_source"] == "base-fitted vector"
    assert {"on_probe(onset)"} <= {name for name, fact in results["routing"].details["facts"].items() if set(fact.get("baselines", {})) == BESIDE}
    assert "beside on_divergence(js)@" in results["rivals"].said and results["trained"].details["fits"]


@pytest.mark.slow
def test_the_second_job_goes_on_from_what_was_published(compared: Path, tmp_path: Path) -> None:
    done, artifacts, begun = tmp_path / "activation-12345678", tmp_path / "artifacts", tmp_path / "runs" / "activation-12345678"
    shutil.copytree(compared, done)
    publish(done, artifacts)
    run = job.identity(job.TINY, job.load_pair(job.TINY))
    for other in ({**run, "n_samples": 5}, {key: value for key, value in run.items() if key != "n_samples"}, {**run, "top_p": 0.9}):
        with pytest.raises(InvalidInput, match="differs from this one in (n_samples|top_p)"):
            begin_from_published(begun, other, artifacts, [])
    assert set(begin_from_published(begun, run, artifacts, ["rivals"])) >= {"calibrate", "passk", "routing"}
    before = {file.name: file.read_bytes() for file in (begun / "tables").iterdir()}
    assert before == {file.name: file.read_bytes() for file in (done / "tables").iterdir()}
    job.reproduce(job.TINY, begun, progress=False)  # no stage of the main job is left
    assert before == {file.name: file.read_bytes() for file in (begun / "tables").iterdir()}
    assert begin_from_published(begun, run, artifacts, ["rivals"]) == []
    (begun / "tables" / "rivals.json").unlink()  # as if the stage had not been run here
    shutil.copytree(done / "figures", begun / "figures")
    finish(begun, job.TINY)
    publish(begun, artifacts)
    assert (artifacts / "results" / "activation" / "tables" / "rivals.json").is_file()  # what was published of other stages stays
    assert read_json(begun / "stages.json")["routing"] == read_json(artifacts / "results" / "activation" / "run.json")["stages"]["routing"]
    table = artifacts / "results" / "activation" / "tables" / "passk.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptArtifact, match=r"passk\.parquet is not the table that was published"):
        begin_from_published(tmp_path / "runs" / "activation-87654321", run, artifacts, [])
    with pytest.raises(InvalidInput, match="No run of 'other' with seed 0 is committed"):
        begin_from_published(tmp_path / "runs" / "other-87654321", run, artifacts, [])
