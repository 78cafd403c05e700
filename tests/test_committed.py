"""What is committed under `artifacts/` holds together."""

from pathlib import Path

import pytest

from latentreason.figures.figures import check_figures


@pytest.mark.slow
def test_the_committed_figures_follow_from_the_committed_tables() -> None:
    root = Path(__file__).parents[1] / "artifacts"
    assert check_figures(root / "results" / "activation", root / "figures") == []
