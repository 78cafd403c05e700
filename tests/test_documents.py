"""What stands between two marks in README and docs/ is what recipes and committed results say."""

import re
from pathlib import Path

import pandas as pd
import pytest

from latentreason.documents import with_blocks, write_docs
from latentreason.errors import InvalidInput, UnknownName
from latentreason.files import read_json
from latentreason.organisms.about import markdown, reasons
from latentreason.organisms.zoo import ORGANISMS
from latentreason.plan import overview
from latentreason.studies import STUDIES
from latentreason.studies.recompute import ZOO
from latentreason.studies.result import Result

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "artifacts" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_document_is_current(page: Path) -> None:
    text = page.read_text()
    assert with_blocks(text, RESULTS) == text, "run latentreason organisms publish, or documents.write_docs(Path('artifacts'))"
    begun, ended = (re.findall(rf"<!-- {end}([a-z ]+ [\\w-]+) -->", text) for end in ("(?!end of )", "end of "))
    assert begun == ended


def test_every_headline_table_and_benchmark_has_its_place() -> None:
    text = {page.name: page.read_text() for page in PAGES}
    area = Result.load(RESULTS / "activation", "recovery").estimate("area", router="on_divergence(js)", control="")
    assert f"| best oracle: area | {area} | " in text["README.md"]
    assert read_json(RESULTS / "smollm2-arith" / "recovery.json")["finding"] in text["smollm2_arith.md"]
    assert overview() in text["recipes.md"] and markdown() in text["zoo.md"]
    for file in (RESULTS / "benchmarks").glob("*.md"):
        assert f"<!-- benchmark {file.stem} -->" in text["benchmarks.md"] and file.with_suffix(".json").is_file()


def test_every_organism_has_a_row_and_a_reason() -> None:
    assert {name for names in reasons() for name in names} == set(ORGANISMS)
    page = markdown()
    for name, recipe in ORGANISMS.items():
        assert f"| `{name}` | {recipe.truth or 'to be learned'} |" in page


def test_every_study_of_the_zoo_has_its_section_in_alphabetical_order_with_its_citation() -> None:
    text = (ROOT / "docs" / "studies.md").read_text()
    sections = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert set(ZOO) <= set(sections) and sections == sorted(sections)
    for name in ZOO:
        (cited,) = {word.strip("(),.:") for word in (STUDIES[name].__doc__ or "").split() if word.startswith(("2", "(2")) and word.strip("(),.:").count(".") == 1 and len(word.strip("(),.:")) == 10}
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        assert cited in section and "**Refuted**" in section and f"<!-- finding of {name} -->" in section


def test_a_finding_takes_its_place_and_nothing_else_moves(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "studies.md"
    page.write_text("before\n<!-- finding of spurious -->\nold\n<!-- end of finding of spurious -->\n<!-- finding of passk -->\n<!-- end of finding of passk -->\nafter\n")
    Result("spurious", {}, pd.DataFrame({"quantity": ["gain"]})).saying(["new", "", "and more"]).save(tmp_path / "artifacts" / "results" / "zoo")
    assert write_docs(tmp_path / "artifacts") == [page] and write_docs(tmp_path / "artifacts") == []
    found = "<!-- finding of spurious -->\n- **zoo**: new\n  - and more\n<!-- end of finding of spurious -->\n<!-- finding of passk -->\nNo result is committed yet.\n<!-- end of finding of passk -->"
    assert page.read_text() == f"before\n{found}\nafter\n"


def test_a_block_that_nobody_makes_is_refused() -> None:
    with pytest.raises(UnknownName, match="headline of"):
        with_blocks("<!-- headlines of activation -->\n<!-- end of headlines of activation -->", RESULTS)


def test_a_mark_without_its_other_end_is_refused() -> None:
    with pytest.raises(InvalidInput, match="finding of passk"):
        with_blocks("<!-- finding of passk -->\nold\n<!-- end of finding of pask -->\n", RESULTS)
