"""Each notebook runs from top to bottom, in its tiny mode, and says what its paired script says."""

import os
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from latentreason.errors import InvalidInput
from latentreason.files import read_json
from latentreason.models.smollm2 import fetched
from latentreason.studies import STUDIES

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(script: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENTREASON_TINY", "1")
    notebook = jupytext.read(script)
    executed(notebook, tmp_path, timeout=300)


@pytest.mark.slow
def test_your_own_pair_runs_on_smollm2_where_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In small sizes; in its own (eight minutes) with LATENTREASON_SLOW=1."""
    try:
        fetched()
    except InvalidInput as missing:
        pytest.skip(str(missing))
    monkeypatch.delenv("LATENTREASON_TINY", raising=False)
    if not os.environ.get("LATENTREASON_SLOW"):
        monkeypatch.setenv("LATENTREASON_TINY", "smollm2")
    notebook = jupytext.read(next(script for script in NOTEBOOKS if script.stem.startswith("02_")))
    executed(notebook, tmp_path, timeout=1800)
    said = "".join(output.get("text", "") + str(output.get("data", "")) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "smollm2-arith: base 134.5M parameters" in said  # not the random pair that stands in


def executed(notebook: nbformat.NotebookNode, folder: Path, timeout: int) -> None:
    """Execute it in place; `timeout` seconds for a cell."""
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()


@pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_and_script_say_the_same(script: Path) -> None:
    paired = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert [c.source for c in paired.cells] == [c.source for c in jupytext.read(script).cells]
    assert any(c.get("outputs") for c in paired.cells), "commit the notebook with its outputs: make notebooks"


def test_an_organism_of_ones_own_is_no_stranger_to_the_studies() -> None:
    script = next(script for script in NOTEBOOKS if script.stem.startswith("06_"))
    said = "".join(output.get("text", "") for cell in nbformat.read(script.with_suffix(".ipynb"), as_version=4).cells for output in cell.get("outputs", []))
    assert "RL ends with 90% of its rollouts in one format in" in said and "RL minus base at k=16" in said and "Undefined:" not in said


@pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_committed_output_is_a_warning_an_error_or_names_a_machine(script: Path) -> None:
    outputs = [output for cell in nbformat.read(script.with_suffix(".ipynb"), as_version=4).cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not [output for output in outputs if any(mark in str(output) for mark in ("site-packages", str(Path.home()) + "/", str(script.parents[1])))]


QUOTED = {"03_routing_and_rivals": ("activation/routing", "activation/rivals"), "04_steering": ("activation/steering", "published/published"), "05_twelve_claims": ("*",)}
"""Notebook -> committed results whose findings it prints; of the fifth, those of every study."""


@pytest.mark.parametrize("name", QUOTED)
def test_a_notebook_quotes_the_committed_findings_as_they_are(name: str) -> None:
    results = NOTEBOOKS[0].parents[1] / "artifacts" / "results"
    files = [file for study in STUDIES for file in results.glob(f"*/{study}.json")] if QUOTED[name] == ("*",) else [results / f"{which}.json" for which in QUOTED[name]]
    outputs = [output for cell in nbformat.read(NOTEBOOKS[0].parent / f"{name}.ipynb", as_version=4).cells for output in cell.get("outputs", [])]
    said = "\n".join(text for output in outputs for text in (output.get("text", ""), *output.get("data", {}).values()) if isinstance(text, str))
    assert [file.stem for file in files if read_json(file)["finding"] not in said] == [], "run the notebook again: make notebooks"
