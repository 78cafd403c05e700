"""The worked examples of the documentation run as they stand."""

import re
from pathlib import Path

import pytest

from latentreason.tables import Rollouts

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.slow
def test_a_router_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "routing.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(block, "routing.md", "exec"), scope)
    rollouts = scope["rollouts"]
    assert isinstance(rollouts, Rollouts)
    assert rollouts.arms == ["on_surprise@0.50"] and rollouts.table["n_changed"].sum() > 0


def test_every_link_between_documents_leads_somewhere() -> None:
    for page in [DOCS.parent / "README.md", *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
