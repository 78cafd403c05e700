"""Figures: what is drawn is what the JSON says, the same bytes each time; the check finds what was changed behind its back."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing
from synthetic_run import MADE, SINGLE, SWEPT

from latentreason.errors import ArtifactWriteError, InvalidInput, UnknownName
from latentreason.figures.figures import FIGURES, check_figures, load_results, make_figures
from latentreason.figures.style import dots
from latentreason.files import read_table, write_table
from latentreason.studies import passk, recovery
from latentreason.studies.palette import ARMS, ROUTERS
from latentreason.tables import Rollouts

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
Copies = Callable[[], tuple[Path, Path]]


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers of nested plain data, with their key; counts are labels, not places."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each, key)
    elif isinstance(value, int | float) and math.isfinite(value) and key not in ("n", "changed", "tokens"):
        yield key, float(value)


def drawn(figure: Drawing) -> np.ndarray:
    """Every coordinate and image value in the artists of a drawing."""
    found = [np.zeros(0)]
    for ax in figure.axes:
        found += [np.asarray(line.get_xydata(), float).ravel() for line in ax.lines]
        found += [path.vertices.ravel() for collection in ax.collections for path in collection.get_paths()]
        found += [np.array([patch.get_height()]) for patch in ax.patches]
        found += [np.asarray(image.get_array(), float).ravel() for image in ax.images]
    return np.concatenate(found)


def words(figure: Drawing) -> str:
    """All text of a drawing."""
    return "\n".join(text.get_text() for ax in figure.axes for text in [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels()])


def test_every_figure_has_its_three_files_and_the_json_says_where_it_comes_from(run_dir: Path, figures_dir: Path) -> None:
    assert len(FIGURES) >= 8
    for name in MADE:
        figure = FIGURES[name]
        facts = json.loads((figures_dir / f"{name}.json").read_text())
        assert (figures_dir / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (figures_dir / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert facts["inputs"] == {
            f"{i}.{kind}": hashlib.sha256((run_dir / f"{i}.{kind}").read_bytes()).hexdigest()
            for i in figure.inputs
            for kind in ("parquet", "json")
        }
        assert "24 problems" in facts["caption"] and "nterval" in facts["caption"]


@pytest.mark.parametrize("name", MADE)
def test_the_numbers_in_the_json_are_the_numbers_drawn(run_dir: Path, figures_dir: Path, name: str) -> None:
    drawing = FIGURES[name].plot(load_results(run_dir))
    numbers = json.loads((figures_dir / f"{name}.json").read_text())["numbers"]
    places = drawn(drawing)
    wanted = [(key, value) for key, value in leaves(numbers)]
    assert len(wanted) > 5
    full = numbers.get("D", {}).values()  # D is the scale of the second axis, and stands in the caption
    missing = [(key, value) for key, value in wanted if value not in full and np.abs(places - value).min() > 1e-12]
    assert not missing


def test_the_audit_draws_its_numbers_with_the_kinds_of_training_apart() -> None:
    facts = json.loads((ARTIFACTS / "figures" / "published.json").read_text())
    drawing = FIGURES["published"].plot(load_results(ARTIFACTS / "results" / "activation"))
    places = drawn(drawing)
    wanted = list(leaves(facts["numbers"]))
    assert len(wanted) == 18 * 4 + 4 * 3 + 1  # rows with the reported value, means of several rows, the headline
    assert not [(key, value) for key, value in wanted if np.abs(places - value).min() > 1e-12]
    (ax,) = drawing.axes
    headings = {t.get_text(): t.get_position()[1] for t in ax.texts}
    assert {"RL-trained", "distilled", "SFT + RL"} <= {*headings}
    ticks = dict(zip((t.get_text() for t in ax.get_yticklabels()), ax.get_yticks(), strict=True))
    groups = [[y for label, y in ticks.items() if label.startswith(name)] for name in ("Open-Reasoner", "DeepSeek", "QwQ")]
    assert max(groups[0]) + 1 < headings["distilled"] < min(groups[1]) and max(groups[1]) + 1 < headings["SFT + RL"] < min(groups[2])
    assert sum(t.get_text() == "negative, reported as 0" for t in ax.texts) == 2
    assert any(t.get_text() == "headline 0.91" for t in ax.texts)
    assert "500 (MATH500), 1319 (GSM8K) problems; interval: parametric bootstrap" in facts["caption"]


def test_the_check_covers_the_audit_beside_a_run_and_a_run_without_it_lacks_nothing(copies: Copies, tmp_path: Path) -> None:
    run, figures = copies()  # tmp_path/run, tmp_path/figures
    assert "published" not in load_results(run)
    target = tmp_path / "artifacts"
    shutil.copytree(ARTIFACTS / "published", target / "published")
    shutil.copytree(ARTIFACTS / "results" / "published", target / "results" / "published")
    shutil.move(run, target / "results" / "synthetic")
    for kind in ("json", "png", "pdf"):
        shutil.copyfile(ARTIFACTS / "figures" / f"published.{kind}", figures / f"published.{kind}")
    assert check_figures(target / "results" / "synthetic", figures, ["published"]) == []
    table = target / "published" / "venhoff_2026.csv"
    table.write_text(table.read_text().replace("58.58,55.20", "58.58,45.20"))
    found = check_figures(target / "results" / "synthetic", figures)
    assert any(line.startswith("published.table.gap_recovered(dataset=MATH500, training=rl, pair=orz-1.5b).value: stored 0.82") for line in found)
    assert any(line.startswith("figure published.numbers.groups[0].rows[1].value: stored ") for line in found)
    assert all(line.startswith(("published.", "figure published.")) for line in found)
    with pytest.raises(InvalidInput, match="holds no results"):
        load_results(target / "results" / "misspelt")


def test_the_second_axis_of_a_recovery_curve_is_the_absolute_fraction(run_dir: Path) -> None:
    results = load_results(run_dir)
    drawing = FIGURES["recovery"].plot(results)
    drawing.draw_without_rendering()
    (second,) = drawing.axes[0].child_axes
    full = results["recovery"].estimate("D", arm="rl").value
    np.testing.assert_allclose(second.get_xlim(), np.array(drawing.axes[0].get_xlim()) * 100 * full)


def test_routers_are_those_that_were_swept_and_arms_those_at_one_budget(figures_dir: Path) -> None:
    routers = json.loads((figures_dir / "routers.json").read_text())["numbers"]["routers"]
    arms = json.loads((figures_dir / "arms.json").read_text())["numbers"]["arms"]
    assert {row["router"] for row in routers} == set(SWEPT)
    assert {row["router"] for row in arms} == set(SINGLE)
    assert {row["control"] for row in arms} == {"", *recovery.CONTROLS}


def test_a_figure_is_the_same_bytes_each_time_whatever_the_users_settings(run_dir: Path, figures_dir: Path, tmp_path: Path) -> None:
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 20, "savefig.transparent": True}):
        assert [p.name for p in make_figures(run_dir, tmp_path, ["shares", "arms"], progress=False)] == ["shares.json", "arms.json"]
        assert mpl.rcParams["lines.linewidth"] == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n}.{kind}" for n in ("arms", "shares") for kind in ("json", "pdf", "png")]
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (figures_dir / file.name).read_bytes()


def test_no_arm_has_the_colour_of_another() -> None:
    assert len({*ARMS.values()}) == 4
    assert not {*ROUTERS} & {ARMS["base"], ARMS["rl"], ARMS["control"]}


@pytest.mark.parametrize("study", [recovery, passk])
def test_a_plot_draws_on_the_axes_given_and_returns_them(run_dir: Path, study: Any) -> None:
    result = load_results(run_dir)[study.__name__.rpartition(".")[2]]
    ax = Drawing().subplots()
    assert study.plot(result, ax) is ax
    assert ax.lines and ax.get_xlabel() and ax.get_ylabel()
    own = study.plot(result)
    assert own is not ax and own.lines


def test_without_a_chosen_router_all_are_drawn(run_dir: Path) -> None:
    result = load_results(run_dir)["recovery"]
    plain = replace(result, config={**result.config, "best_oracle": "", "best_base_only": ""})
    assert [c["router"] for c in recovery.drawn(plain) if not c["control"]] == [*SWEPT, *SINGLE]
    assert len(FIGURES["recovery"].plot({"recovery": plain}).axes) == 1


def test_an_rl_model_no_better_than_the_base_gives_figures_that_say_so(no_gain_dir: Path, tmp_path: Path) -> None:
    results = load_results(no_gain_dir)
    for name in ("recovery", "routers", "shares"):
        assert "RL gain not above 0" in words(FIGURES[name].plot(results))
    make_figures(no_gain_dir, tmp_path, ["recovery"], progress=False)
    assert check_figures(no_gain_dir, tmp_path, ["recovery"]) == []


def test_an_infinite_bound_is_an_arrow_and_an_undefined_value_a_reason() -> None:
    ax = Drawing().subplots()
    rows = [{"value": 4.0, "lo": 2.0, "hi": "Infinity", "label": "a", "colour": "black"}]
    rows.append({"value": None, "lo": None, "hi": None, "reason": "no trials", "label": "b", "colour": "black"})
    dots(ax, rows)
    assert [line.get_marker() for line in ax.lines] == ["o", "None", ">"]
    assert ax.texts[0].get_text() == "undefined: no trials"


def test_a_strategy_table_that_is_not_there_is_said_to_be_missing(run_dir: Path) -> None:
    result = load_results(run_dir)["recovery"]
    bare = replace(result, details={k: v for k, v in result.details.items() if k != "changed_by_strategy"})
    assert "no table of changed tokens" in words(FIGURES["strategies"].plot({"recovery": bare}))


def test_unknown_names_and_missing_results_are_refused_with_the_fix(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"Unknown figure 'recovry'\. Did you mean 'recovery'"):
        make_figures(run_dir, tmp_path, ["recovry"])
    with pytest.raises(InvalidInput, match=r"holds no results\. Fix: give the folder of a run"):
        check_figures(tmp_path, tmp_path)
    load_results(run_dir)["passk"].save(tmp_path)
    with pytest.raises(InvalidInput, match="'shares' reads the result 'recovery', which is not there; there are passk"):
        make_figures(tmp_path, tmp_path, ["shares"])
    assert [p.stem for p in make_figures(tmp_path, tmp_path / "out", progress=False)] == ["passk", "ledger", "reach"]


def test_a_full_disk_leaves_the_old_figure_and_nothing_half_written(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_figures(run_dir, tmp_path, ["passk"], progress=False)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactWriteError, match=r"passk\.png: No space left on device\. What stood there is untouched\. Fix: free the disk"):
        make_figures(run_dir, tmp_path, ["passk"], progress=False)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_an_untouched_tree_has_no_differences(run_dir: Path, figures_dir: Path) -> None:
    assert check_figures(run_dir, figures_dir) == []


def test_one_corrupted_grade_is_found_in_the_result_and_in_the_figures(copies: Copies) -> None:
    run, figures = copies()
    file = run / "tables" / "t1_curves.parquet"
    rollouts = Rollouts.load(file)
    row = rollouts.table.index[rollouts.table["arm"] == "on_divergence(js)@0.5"][0]
    right = not rollouts.table.loc[row, "correct"]
    rollouts.table.loc[row, ["correct", "grade_strict"]] = [right, "correct" if right else "wrong"]
    rollouts.save(file)
    found = check_figures(run, figures)
    assert any(line.startswith("recovery.table.accuracy(arm=on_divergence(js)@0.5,") and ".value: stored 0." in line for line in found)
    assert any(line.startswith("figure recovery.numbers.curves[0].") for line in found)
    assert any(line.startswith("figure routers.numbers.routers[0].router_itself.area.value: stored ") and "recomputed" in line for line in found)
    assert not any(word in line for line in found for word in ("recovery_greedy", "passk", "ledger"))
    assert check_figures(run, figures, ["passk"]) == []


def test_a_grade_that_contradicts_itself_is_found(copies: Copies) -> None:
    run, figures = copies()
    file = run / "tables" / "passk.parquet"
    rollouts = Rollouts.load(file)
    rollouts.table.loc[3, "grade_strict"] = "correct" if rollouts.table.loc[3, "grade_strict"] == "wrong" else "wrong"
    rollouts.save(file)
    assert check_figures(run, figures, ["passk"]) == ["tables/passk.parquet: 1 rows where `correct` contradicts `grade_strict`"]


def test_an_edited_number_of_a_figure_is_named_with_both_values(copies: Copies) -> None:
    run, figures = copies()
    facts = json.loads((figures / "ledger.json").read_text())
    before = facts["numbers"]["flips"][0]["value"]
    facts["numbers"]["flips"][0]["value"] = 0.123
    facts["numbers"]["draws"][0]["both"]["hi"] += 1e-12  # rounding of another machine
    (figures / "ledger.json").write_text(json.dumps(facts))
    (figures / "arms.pdf").unlink()
    assert check_figures(run, figures) == [
        f"figure ledger.numbers.flips[0].value: stored 0.123, recomputed {before!r}",
        f"figure arms: arms.pdf not in {figures}; fix: make it with `latentreason figures arms`",
    ]


def test_an_edited_result_is_found_and_so_is_a_table_that_is_gone(copies: Copies) -> None:
    run, figures = copies()
    table = read_table(run / "passk.parquet")
    table.loc[0, "value"] += 0.01
    write_table(run / "passk.parquet", table)
    (run / "tables" / "greedy_ends.parquet").unlink()
    found = check_figures(run, figures)
    assert any(line.startswith("passk.table.pass@k(arm=base, kind=answer, k=1.0).value: stored 0.1") for line in found)
    assert any(line.startswith("figure passk.inputs.passk.parquet: stored ") for line in found)
    assert any(line.startswith("recovery_greedy: cannot be computed from ") and "greedy_ends.parquet" in line for line in found)
