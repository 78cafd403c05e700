"""The command line, as far as no other test runs it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from latentreason.cli import app
from latentreason.tables import Rollouts
from latentreason.tasks import registry
from latentreason.tasks.problem import Problem


def test_the_commands_explain_themselves() -> None:
    runner = CliRunner()
    for command in ("sample", "route", "extract", "study", "figures", "report", "reproduce"):
        result = runner.invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert "Example" in result.output


def test_the_command_line_runs_a_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, asked = registry.load_task, []

    def few(name: str, *, split: str = "test", limit: int = 100, seed: int = 0) -> list[Problem]:
        asked.append((split, limit))
        return whole(name, split=split, limit=min(limit, 12), seed=seed)

    monkeypatch.setattr(registry, "load_task", few)
    out = tmp_path / "hybrid.parquet"
    result = CliRunner().invoke(app, ["route", "--router", "on_entropy", "--limit", "5", "--n", "2", "--out", str(out), "--quiet"])
    assert result.exit_code == 0, result.output
    assert set(Rollouts.load(out).arms) == {"base", "rl", "hybrid", "matched_disagreement", "matched_random"}
    assert asked == [("calibration", 100), ("test", 5)]
