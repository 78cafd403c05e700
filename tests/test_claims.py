"""The third job in its tiny size on the built-in pair: tables, results, figures; and the page of the studies."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentreason import claims, reproduce as job
from latentreason.figures import style
from latentreason.figures.figures import FIGURES, check_figures, load_results
from latentreason.files import read_json, read_table
from latentreason.publish import finish_claims, publish_claims
from latentreason.studies import STUDIES
from latentreason.studies.recompute import CLAIMS, OF_THEIR_OWN

ROOT = Path(__file__).parents[1]
MINE = ("coherence", "contamination", "passk", "planning")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "activation-12345678"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "DPI", 50)
        job.reproduce(job.TINY, folder, stages=claims.STAGES, progress=False)
        assert finish_claims(folder) == list(CLAIMS)
    return folder


def test_every_claim_has_its_table_its_finding_and_a_figure_whose_numbers_are_drawn(run: Path) -> None:
    results = load_results(run)
    assert set(results) == set(CLAIMS) and check_figures(run, run / "figures") == []
    for name, result in results.items():
        assert "refute" in result.said and "refuted" in str(STUDIES[name].__doc__).lower()
        assert (run / "figures" / f"{name}.png").stat().st_size > 5000
        table = read_table(run / "tables" / OF_THEIR_OWN[name])
        assert set(table["pair"]) == {"activation"} and set(table["task"]) == {"chain"}
    contaminated = results["contamination"]
    assert contaminated.details["problems"] == {"seen": 0, "clean": 6}  # the corpus of activation holds no test problem
    reason = contaminated.estimate("accuracy", split="seen minus clean", arm="change").reason
    assert "no problem is known to have been seen" in reason


def leaves(value: Any, key: str = "") -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [leaf for name, each in value.items() for leaf in leaves(each, name)]
    if isinstance(value, list):
        return [leaf for each in value for leaf in leaves(each, key)]
    return [(key, float(value))] if isinstance(value, int | float) and np.isfinite(value) and key != "n" else []


@pytest.mark.parametrize("name", CLAIMS)
def test_the_numbers_in_the_json_are_the_numbers_drawn(run: Path, name: str) -> None:
    drawing = FIGURES[name].plot(load_results(run))
    places = [np.zeros(0)]
    for ax in drawing.axes:
        places += [np.asarray(line.get_xydata(), float).ravel() for line in ax.lines]
        places += [path.vertices.ravel() for collection in ax.collections for path in collection.get_paths()]
    wanted = leaves(read_json(run / "figures" / f"{name}.json")["numbers"])
    assert len(wanted) > 5 and not [w for w in wanted if np.abs(np.concatenate(places) - w[1]).min() > 1e-12]


def test_the_likelihood_table_becomes_part_of_passk_and_everything_can_be_published(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "DPI", 50)
    target = tmp_path / "artifacts" / "results" / "activation"
    (target / "tables").mkdir(parents=True)
    for name in ("facts.json", "passk.parquet", "greedy_ends.parquet"):
        shutil.copyfile(ROOT / "artifacts" / "results" / "activation" / "tables" / name, target / "tables" / name)
    publish_claims(run, tmp_path / "artifacts")
    quantities = set(load_results(target)["passk"].table["quantity"])
    assert {"coverage", "efficiency_gap", "path_coverage", "whole_path", "perplexity", "surprise"} <= quantities
    assert check_figures(target, tmp_path / "artifacts" / "figures") == []
    assert {"reach", "passk", "planning"} <= {file.stem for file in (tmp_path / "artifacts" / "figures").glob("*.json")}


def test_each_section_of_the_page_of_the_studies_is_whole() -> None:
    page = (ROOT / "docs" / "studies.md").read_text()
    sections = {part.split("\n", 1)[0].strip(): part for part in page.split("\n## ")[1:]}
    assert set(MINE) <= set(sections)
    for name in MINE:
        assert all(f"**{word}" in sections[name] for word in ("Claim.", "Formula.", "Citation.", "Refuted", "Finding.")), name
        assert f"<!-- finding of {name} -->" in sections[name]


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = (ROOT / "docs" / "studies.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(compile(block, "studies.md", "exec"), scope)
    assert scope["result"].study == "coherence" and (tmp_path / "coherence.parquet").is_file()
