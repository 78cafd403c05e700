"""Fixtures of the figures' tests: one synthetic run and its figures."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from synthetic_run import few_draws, write_run


@pytest.fixture(autouse=True)
def _few_draws() -> Iterator[None]:
    """What a test computes again has as many draws as what `write_run` wrote."""
    with few_draws():
        yield


@pytest.fixture(scope="session")
def no_gain_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose RL model is no better than the base, that nobody changes."""
    return write_run(tmp_path_factory.mktemp("no_gain") / "run", gap=0.0)


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody changes."""
    return write_run(tmp_path_factory.mktemp("run") / "synthetic")


@pytest.fixture(scope="session")
def figures_dir(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The figures of `run_dir`, that nobody changes."""
    from latentreason.figures.figures import make_figures

    out = tmp_path_factory.mktemp("figures")
    make_figures(run_dir, out, progress=False)
    return out


@pytest.fixture
def copies(run_dir: Path, figures_dir: Path, tmp_path: Path) -> Callable[[], tuple[Path, Path]]:
    """copies() -> a run and its figures, to damage."""
    return lambda: (Path(shutil.copytree(run_dir, tmp_path / "run")), Path(shutil.copytree(figures_dir, tmp_path / "figures")))
