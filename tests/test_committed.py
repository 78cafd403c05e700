"""What is committed under `artifacts/` holds together."""

import re
from pathlib import Path
from shutil import copytree

import pytest

from latentreason.errors import CorruptArtifact
from latentreason.figures.figures import check_figures, load_results
from latentreason.files import read_json
from latentreason.publish import figures_of, remake
from latentreason.store import sha256
from latentreason.studies.recompute import recompute
from latentreason.studies.result import Result

ROOT = Path(__file__).parents[1] / "artifacts"


@pytest.mark.slow
@pytest.mark.parametrize("pair", sorted(f.parent.name for f in (ROOT / "results").glob("*/tables")))
def test_the_committed_figures_follow_from_the_committed_tables(pair: str) -> None:
    results = ROOT / "results" / pair
    assert check_figures(results, figures_of(results)) == []


@pytest.mark.parametrize("folder", sorted((ROOT / "results").glob("*/seed-*")), ids=lambda f: f"{f.parent.name}-{f.name}")
def test_the_results_of_further_seeds_of_sampling_follow_from_their_tables(folder: Path, tmp_path: Path) -> None:
    again = recompute(folder / "tables", list(load_results(folder)))
    for name in load_results(folder):
        again[name].save(tmp_path, name)
        assert (tmp_path / f"{name}.json").read_bytes() == (folder / f"{name}.json").read_bytes()


@pytest.mark.parametrize("file", [f for f in sorted((ROOT / "results").rglob("*.json")) if f.with_suffix(".parquet").is_file() and f.parent.name != "tables"], ids=lambda f: f.relative_to(ROOT / "results").as_posix())
def test_a_finding_is_one_sentence_with_an_interval_and_what_would_have_refuted_it(file: Path) -> None:
    result = Result.load(file.parent, file.stem)
    assert result.finding.endswith(".") and not re.search(r"[a-z)\]]\. [A-Z]", result.finding) and len(result.finding) < 520
    assert re.search(r"\[[<>]?-?\d[\d.]*, [<>]?-?\d[\d.]*\]", result.finding) and re.search("refute|would show", result.finding)
    assert all(note.endswith(".") for note in result.notes)


@pytest.mark.parametrize("manifest", sorted((ROOT / "results").rglob("run.json")), ids=lambda f: f.parent.name)
def test_a_committed_manifest_lists_what_lies_there_and_how_the_models_were_asked(manifest: Path) -> None:
    facts = read_json(manifest)
    assert {name: sha256(manifest.parent / name) for name in facts["files"]} == facts["files"]
    assert {f.name for f in manifest.parent.glob("*.parquet")} <= set(facts["files"]) and facts["prompt"]["template"]


def test_results_are_made_anew_from_their_tables_and_a_damaged_table_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "artifacts" / "results" / "contaminated"  # `claims` alone ran here, so there is neither main job nor manifest
    copytree(ROOT / "results" / "contaminated", target)
    (target / "planning.json").write_text((target / "planning.json").read_text().replace("RL alone solves", "nobody solves"))
    remake(target, progress=False)
    assert {f.name: f.read_bytes() for f in target.glob("*.json")} == {f.name: f.read_bytes() for f in (ROOT / "results" / "contaminated").glob("*.json")}
    run = tmp_path / "seed-1"
    copytree(ROOT / "results" / "activation" / "seed-1", run)
    (run / "tables" / "passk.parquet").write_bytes(b"damaged")
    with pytest.raises(CorruptArtifact, match="is not the table that was published"):
        remake(run)
