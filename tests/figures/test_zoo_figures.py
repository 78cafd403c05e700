"""Figures of the zoo: what is drawn is what the JSON says, and the check finds an edited table."""

import json
import math
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_zoo
from matplotlib.figure import Figure as Drawing

from latentreason.figures.figures import FIGURES, check_figures, load_results, make_figures
from latentreason.files import read_table, write_table
from latentreason.studies import STUDIES
from latentreason.studies.recompute import ZOO


@pytest.fixture(scope="module", autouse=True)
def _few_draws() -> Iterator[None]:
    """Studies take 60 draws: these tests compare numbers, they do not read them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ZOO:
            if hasattr(STUDIES[name].Config(), "n_boot"):
                patch.setitem(ZOO, name, partial(_brief, name))
        yield


def _brief(name: str, tables: Path) -> Any:
    more = {"spurious": ("curves",), "difficulty": ("training", "kept", "projections")}.get(name, ())
    return STUDIES[name].run(**{table: read_table(tables / f"{table}.parquet") for table in ("organisms", "counts", *more)}, config=STUDIES[name].Config(n_boot=60))


@pytest.fixture(scope="module")
def zoo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, results and figures of a synthetic zoo, that nobody changes."""
    root = synthetic_zoo.write_zoo(tmp_path_factory.mktemp("zoo") / "zoo")
    make_figures(root, root / "figures", progress=False)
    return root


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers of nested plain data."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each, key)
    elif isinstance(value, int | float) and math.isfinite(value):
        yield key, float(value)


def drawn(figure: Drawing) -> np.ndarray:
    """Every coordinate in the artists of a drawing."""
    found = [np.zeros(0)]
    for ax in figure.axes:
        found += [np.asarray(line.get_xydata(), float).ravel() for line in ax.lines]
        found += [path.vertices.ravel() for collection in ax.collections for path in collection.get_paths()]
        found += [np.array([patch.get_height(), patch.get_width()]) for patch in ax.patches]
        found += [np.asarray(image.get_array(), float).ravel() for image in ax.images]
    return np.concatenate(found)


@pytest.mark.parametrize("name", ZOO)
def test_the_values_in_the_json_are_drawn_and_the_caption_has_n_and_the_interval(zoo_dir: Path, name: str) -> None:
    facts = json.loads((zoo_dir / "figures" / f"{name}.json").read_text())
    places = drawn(FIGURES[name].plot(load_results(zoo_dir)))
    wanted = [(key, value) for key, value in leaves(facts["numbers"]) if key == "value"]
    assert len(wanted) > 5 and not [(key, value) for key, value in wanted if np.abs(places - value).min() > 1e-9]
    assert "3 seeds; interval: Student's t over seeds" in facts["caption"]
    assert (zoo_dir / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ZOO)
def test_a_plot_draws_on_the_axes_given_and_returns_them(zoo_dir: Path, name: str) -> None:
    result = load_results(zoo_dir)[name]
    ax = Drawing().subplots()
    assert result.plot(ax) is ax and ax.lines and ax.get_xlabel()
    assert STUDIES[name].plot(result) is not ax


def test_results_of_the_zoo_stand_alone_and_an_edited_count_is_found(zoo_dir: Path, tmp_path: Path) -> None:
    assert set(load_results(zoo_dir)) == set(ZOO)
    root = Path(shutil.copytree(zoo_dir, tmp_path / "zoo"))
    table = read_table(root / "tables" / "counts.parquet")
    row = table.index[(table["organism"] == "explore") & (table["arm"] == "rl")][0]
    table.loc[row, ["correct", "correct_valid"]] += 60
    write_table(root / "tables" / "counts.parquet", table)
    found = check_figures(root, root / "figures")
    assert any(line.startswith("boundary.table.area(") for line in found) and any(line.startswith("figure boundary.numbers.") for line in found)
    assert not any(word in line for line in found for word in ("one_shot", "spurious", "formats", "curriculum"))


def test_a_study_without_its_organisms_has_a_figure_that_says_so(tmp_path: Path) -> None:
    for name, table in synthetic_zoo.tables().items():
        write_table(tmp_path / "tables" / f"{name}.parquet", table[table["organism"] == "too-hard"])
    ZOO["one_shot"](tmp_path / "tables").save(tmp_path)
    make_figures(tmp_path, tmp_path / "figures", progress=False)
    assert "undefined: no organism was trained on a single problem" in FIGURES["one_shot"].plot(load_results(tmp_path)).axes[0].texts[0].get_text()
    assert check_figures(tmp_path, tmp_path / "figures") == []
