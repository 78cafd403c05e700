"""The code block of the README runs as it stands, with fewer problems."""

import re
from pathlib import Path

import pytest

from latentreason.tables import Rollouts


@pytest.mark.slow
def test_the_readme_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)
    assert found is not None
    block = found.group(1)
    for whole, part in (("limit=200", "limit=40"), ('split="calibration")', 'split="calibration", limit=20)')):
        assert block.count(whole) == 1
        block = block.replace(whole, part)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), scope)
    assert (tmp_path / "recovery.png").stat().st_size > 10_000
    result = scope["result"]
    difference = result.estimate("recovery_difference", control="matched_disagreement")  # type: ignore[attr-defined]
    assert difference.lo <= difference.value <= difference.hi
    steered = scope["steered"]
    assert isinstance(steered, Rollouts)
    assert len(steered) == 40 * 16
