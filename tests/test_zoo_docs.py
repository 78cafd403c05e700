"""The page of the zoo and the findings of the studies are what recipes and committed results say."""

from pathlib import Path

import pytest

from latentreason.files import write_json
from latentreason.organisms.about import markdown, reasons
from latentreason.organisms.zoo import ORGANISMS
from latentreason.publish import blocks, with_blocks, write_docs
from latentreason.studies import STUDIES
from latentreason.studies.recompute import ZOO

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["zoo.md", "studies.md"])
def test_the_blocks_of_the_documents_are_current(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    assert with_blocks(text, blocks(ROOT / "artifacts")) == text, "run latentreason organisms publish, or write_docs('artifacts')"


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
    page.write_text("before\n<!-- finding of spurious -->\nold\n<!-- end of finding of spurious -->\n<!-- finding of passk -->\nkept\n<!-- end of finding of passk -->\n")
    write_json(tmp_path / "artifacts" / "results" / "zoo" / "spurious.json", {"finding": "new"})
    assert write_docs(tmp_path / "artifacts") == [page] and write_docs(tmp_path / "artifacts") == []
    assert page.read_text() == "before\n<!-- finding of spurious -->\nnew\n<!-- end of finding of spurious -->\n<!-- finding of passk -->\nkept\n<!-- end of finding of passk -->\n"
