"""The report: one page with everything in it, no network, what a model wrote as text, what is undefined with its reason."""

import base64
import hashlib
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_run import EVIL, MADE, Page, tokens

from latentreason.documents import of_pair
from latentreason.errors import InvalidInput
from latentreason.figures import display
from latentreason.figures.figures import FIGURES, load_results
from latentreason.figures.report import headline, write_report
from latentreason.files import write_json
from latentreason.studies.recompute import recompute


@pytest.fixture(scope="module")
def page(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = Path(shutil.copytree(run_dir, tmp_path_factory.mktemp("report") / "run"))
    manifest = {"config": {"seed": 7, "note": EVIL}, "env": {"torch": "2.10"}, "seconds": 12.5, "models": [{"id": EVIL}]}
    write_json(run / "run.json", manifest)
    return write_report(run).read_text(encoding="utf-8")


def test_the_page_needs_no_network(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|<iframe", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    for tag in ("img", "script", "a"):
        for attributes, _ in Page(page).all(tag):
            assert attributes.get("src", "data:").startswith("data:") and "href" not in attributes
    assert len(page) < 5_000_000


def test_only_our_script_runs_and_the_policy_knows_its_hash(page: str) -> None:
    ((attributes, script),) = Page(page).all("script")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for a, _ in Page(page).all("meta") if "content" in a and "default-src" in a["content"])
    assert script == display.SCRIPT and not attributes
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_what_a_model_wrote_is_text(page: str) -> None:
    assert "<b>bold</b>" not in page and EVIL not in page
    assert EVIL in [text for _, text in tokens(page)]
    assert f"{EVIL} 4 7 1 : a rot =" in [text for attributes, text in Page(page).all("p") if attributes.get("class") == "question"]
    assert EVIL in [text for _, text in Page(page).all("code")]  # the manifest's


def test_figures_findings_facts_and_traces_are_all_there(page: str, run_dir: Path) -> None:
    results, found = load_results(run_dir), Page(page)
    text = "".join("".join(part) for _, _, part in found.found)
    assert [a["id"] for a, _ in found.all("figure")] == MADE
    for name in MADE:
        figure = FIGURES[name]
        assert figure.caption(results) in text, name
    for attributes, _ in found.all("img"):
        assert base64.b64decode(attributes["src"].partition(",")[2]).startswith(b"\x89PNG") and attributes["alt"]
    assert all(result.finding in text for result in results.values())
    assert {"config.seed", "seconds", "models[0].id", "t1.best_oracle"} <= {content for _, content in found.all("code")}
    assert len(found.all("section")) == 2 and len(tokens(page)) == 2 * 2 * 3 * 8


def test_the_headline_has_what_the_question_needs(run_dir: Path) -> None:
    results = load_results(run_dir)
    table = headline(results).set_index("quantity")
    assert list(table) == ["value", "lo", "hi", "n", "text"] and table.index.is_unique
    for temperature, name in (("T=1", "recovery"), ("greedy", "recovery_greedy")):
        expected = results[name].estimate("area_difference", router="on_divergence(js)", control="matched_disagreement")
        row = table.loc[f"best oracle: area minus matched disagreements, {temperature}"]
        assert (row["value"], row["lo"], row["hi"], row["n"], row["text"]) == (expected.value, expected.lo, expected.hi, 24, str(expected))
        for what in ("base accuracy", "RL accuracy", "timing share of the gain", "content share of the gain"):
            assert not math.isnan(table.loc[f"{what}, {temperature}", "value"])
        for kind in ("best oracle", "best base-only"):
            assert all(f"{kind}: recovery at {b} D, {temperature}" in table.index for b in (0.25, 0.5, 0.75))
    assert table.loc["best base-only router, T=1", "text"] == "on_entropy"
    last = results["passk"].estimate("rl_minus_base", kind="answer and trace", k=8)
    assert table.loc["RL minus base, pass@8, answer and trace", "value"] == last.value
    assert "crossover k, answer" in table.index


def test_what_is_undefined_is_printed_with_its_reason(no_gain_dir: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(no_gain_dir, tmp_path / "run"))
    (run / "tables" / "traces.parquet").unlink()
    (run / "passk.json").unlink()
    text = headline(load_results(run)).set_index("quantity").loc["best oracle: area, T=1", "text"]
    assert re.fullmatch(r"undefined \(RL gain not above 0: .*\)", text)
    page = write_report(run).read_text(encoding="utf-8")
    assert text in page and "This run kept no traces." in page and "No facts" not in page


def test_a_run_that_measured_less_still_has_a_headline(run_dir: Path) -> None:
    result = load_results(run_dir)["recovery"]
    bare = result.table[~result.table["quantity"].isin(["timing_share", "content_share", "area_difference"])]
    table = headline({"recovery": replace(result, table=bare, config={**result.config, "best_base_only": ""})}).set_index("quantity")
    assert table.loc["timing share of the gain, T=1", "text"] == "undefined (not measured in this run)"
    assert table.loc["best oracle: area minus matched disagreements, T=1", "text"] == "undefined (not measured in this run)"
    assert table.loc["best base-only: area, T=1", "text"] == "undefined (no router was chosen on calibration problems)"


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds no results"):
        write_report(tmp_path)


def test_a_run_at_another_temperature_is_called_by_it(run_dir: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    facts = json.loads((run / "tables" / "facts.json").read_text())
    facts["t1"]["routers"] = [{"name": "on_entropy", "params": {"calibration": {"temperature": 0.6}}}]
    (run / "tables" / "facts.json").write_text(json.dumps(facts))
    for name, result in recompute(run / "tables", ["recovery", "recovery_greedy", "passk"]).items():
        result.save(run, name)
    results = load_results(run)
    assert results["recovery"].config["temperature"] == 0.6 and "temperature" not in results["recovery_greedy"].config
    names = set(headline(results)["quantity"])
    assert {"base accuracy, T=0.6", "base accuracy, greedy"} <= names and not any("T=1" in name for name in names)
    captions = {name: figure.caption(results) for name, figure in FIGURES.items() if all(i in results for i in figure.inputs)}
    assert not any("T=1" in caption for caption in captions.values())
    assert all("T=0.6" in captions[name] for name in ("recovery", "routers", "shares", "strategies", "arms")) and "T=0.6" not in captions["recovery_greedy"]
    assert "samples at T=0.6" in of_pair(run)
