"""Benchmarks from files made here and from a hub that is a function: rows, splits, and every way in which a file can be wrong."""

import json
import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from latentreason.errors import CorruptArtifact, InvalidInput, MissingData, UnknownName
from latentreason.tasks import benchmarks
from latentreason.tasks.benchmarks import BENCHMARKS, command
from latentreason.tasks.grading import grade
from latentreason.tasks.problem import SPLITS, split_of
from latentreason.tasks.registry import TASKS, load_task

ALL = {"split": "all", "limit": None}


def rows(name: str, n: int = 60) -> list[dict]:
    """Rows as the data sets have them."""
    if name == "gsm8k":
        return [{"question": f"Ann has {i} pears and buys {1200 + i} more. How many?", "answer": f"{i} + {1200 + i} = <<{i}+{1200 + i}={1200 + 2 * i}>>\n#### {1200 + 2 * i:,}"} for i in range(n)]
    if name == "math500":
        return [{"problem": f"What is $\\frac{{{i}}}{{7}}$?", "solution": "so", "answer": f"\\frac{{{i}}}{{7}}", "subject": "Algebra", "level": i % 5, "unique_id": f"{i}"} for i in range(n)]
    answers = [f"{i:03d}" for i in range(n)] if name == "aime24" else list(range(n))
    return [{"id": i, "problem": f"Find {i}.", "answer": a} for i, a in enumerate(answers)]


def written(path: Path, of: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pd.DataFrame(of).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in of), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    monkeypatch.delenv(benchmarks.FOLDER, raising=False)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_file_gives_all_problems_with_answers_that_the_grader_reads(tmp_path, name, suffix):
    problems = load_task(name, **ALL, source=written(tmp_path / f"any{suffix}", rows(name)))
    assert len({p.id for p in problems}) == 60 and {p.task for p in problems} == {name}
    by_row = {p.meta["row"]: p for p in problems}
    expected = {"gsm8k": "1210", "math500": r"\frac{5}{7}", "aime24": "5", "aime25": "5"}[name]
    assert by_row[5].answer == expected and by_row[5].question == rows(name)[5][BENCHMARKS[name].question]
    assert grade(rf"so \boxed{{{expected}}}", by_row[5]).correct and grade(r"so \boxed{6}", by_row[5]).status == "wrong"
    assert by_row[5].meta == {"grader": "math", "row": 5, **({"subject": "Algebra", "level": 0} if name == "math500" else {})}


def test_splits_are_disjoint_by_hash_and_make_up_all(tmp_path):
    file = written(tmp_path / "x.jsonl", rows("gsm8k", 200))
    parts = {split: load_task("gsm8k", split=split, limit=None, source=file) for split in SPLITS}
    everything = load_task("gsm8k", **ALL, source=file)
    assert sorted(p.id for part in parts.values() for p in part) == sorted(p.id for p in everything) and len(everything) == 200
    assert all(split_of(p.id) == split for split, part in parts.items() for p in part)


def test_the_seed_fixes_the_order_and_the_limit_cuts(tmp_path):
    file = written(tmp_path / "x.parquet", rows("math500"))
    first = load_task("math500", **ALL, source=file)
    assert load_task("math500", split="all", limit=7, source=file) == first[:7]
    assert load_task("math500", **ALL, seed=1, source=file) != first
    with pytest.warns(UserWarning, match=r"math500 has 60 problems in split 'all', fewer than limit=100; split='all' with limit=None has all 60"):
        assert load_task("math500", split="all", source=file) == first
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_task("math500", split="all", limit=60, source=file)


def test_a_question_that_stands_there_twice_counts_once(tmp_path):
    file = written(tmp_path / "x.jsonl", rows("aime25", 5) + rows("aime25", 5))
    assert len(load_task("aime25", **ALL, source=file)) == 5


def test_a_split_without_a_problem_is_said(tmp_path):
    one = rows("aime25", 1)
    file = written(tmp_path / "x.jsonl", one)
    (home,) = [split_of(p.id) for p in load_task("aime25", **ALL, source=file)]
    other = next(split for split in SPLITS if split != home)
    with pytest.raises(InvalidInput, match=f"No problem of 'aime25' falls into split '{other}'; split='all' with limit=None has all 1"):
        load_task("aime25", split=other, source=file)


def test_the_folder_of_the_environment_comes_before_the_hub(tmp_path, monkeypatch):
    written(tmp_path / "gsm8k.jsonl", rows("gsm8k", 8))
    monkeypatch.setenv(benchmarks.FOLDER, str(tmp_path))
    assert len(load_task("gsm8k", **ALL)) == 8
    written(tmp_path / "gsm8k.parquet", rows("gsm8k", 9))
    assert len(load_task("gsm8k", **ALL)) == 9
    assert len(load_task("gsm8k", **ALL, source=tmp_path / "gsm8k.jsonl")) == 8
    with pytest.raises(MissingData):
        load_task("math500", **ALL)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_hub_is_asked_for_the_pinned_revision(monkeypatch, name):
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return iter(rows(name))

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    of = BENCHMARKS[name]
    assert len(load_task(name, **ALL)) == 60
    assert asked == [((of.hub, of.config), {"split": of.hub_split, "revision": of.revision})]
    assert len(of.revision) == 40 and set(of.revision) <= set("0123456789abcdef")


@pytest.mark.parametrize("broken", [ConnectionError("no route"), ValueError("no such config"), None])
def test_without_file_and_hub_the_error_names_the_command(monkeypatch, broken):
    def load_dataset(*_, **__):
        raise broken

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset) if broken else None)  # None: not installed
    with pytest.raises(MissingData) as caught:
        load_task("gsm8k")
    said = str(caught.value)
    assert "hf download openai/gsm8k main/test-00000-of-00001.parquet --repo-type dataset --revision 740312add88f781978c0658806c59bc2815b9866 --local-dir gsm8k" in said
    assert "source='gsm8k/main/test-00000-of-00001.parquet'" in said and "gsm8k.parquet in the folder that the environment variable LATENTREASON_DATA names" in said
    assert isinstance(caught.value, FileNotFoundError)


def test_the_real_datasets_package_offline_gives_the_same_error():
    with pytest.raises(MissingData, match="hf download HuggingFaceH4/MATH-500 test.jsonl"):
        load_task("math500")


def test_the_command_is_one_that_the_installed_tool_takes():
    """Its options, not the network: a dry run would ask the hub."""
    tool = Path(sys.executable).with_name("hf")
    if not tool.exists():
        pytest.skip("no hf beside this python")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    text = subprocess.run([tool, "download", "--help"], capture_output=True, text=True, env=environment, timeout=120).stdout
    for name in BENCHMARKS:
        options = [word for word in shlex.split(command(name)) if word.startswith("--")]
        assert options == ["--repo-type", "--revision", "--local-dir"] and all(option in text for option in options)


def test_a_file_that_is_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(MissingData, match=r"No file .*nowhere\.parquet for 'gsm8k'\. Where there is a network, run: hf download"):
        load_task("gsm8k", source=tmp_path / "nowhere.parquet")
    (tmp_path / "x.csv").write_text("question,answer")
    with pytest.raises(InvalidInput, match=r"x\.csv is neither a \.parquet nor a \.jsonl file"):
        load_task("gsm8k", source=tmp_path / "x.csv")


def test_a_parquet_cut_short_is_named(tmp_path):
    file = written(tmp_path / "x.parquet", rows("gsm8k"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CorruptArtifact, match=r"Cannot read table .*x\.parquet"):
        load_task("gsm8k", source=file)


@pytest.mark.parametrize(
    ("line", "said"), [('{"question": "cut sho', "not JSON"), ("[1, 2]", "not a JSON object"), ("\udcff", "not JSON"), ("[" * 100_000, "not JSON")]
)
def test_a_broken_line_is_named_by_number(tmp_path, line, said):
    file = tmp_path / "x.jsonl"
    file.write_bytes((json.dumps(rows("gsm8k")[0]) + "\n\n" + line + "\n").encode("utf-8", "surrogateescape"))
    with pytest.raises(CorruptArtifact, match=rf"x\.jsonl, line 3: {said}.*Fetch the file again: hf download"):
        load_task("gsm8k", source=file)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"problem": "Ann?", "answer": "#### 3"}, r"Row 0 of .* has no column 'question', only 'problem', 'answer': is it the file of 'gsm8k'\?"),
        ({"question": "Ann?"}, "has no column 'answer'"),
        ({"question": None, "answer": "#### 3"}, "has None as 'question', not a text"),
        ({"question": "  ", "answer": "#### 3"}, "as 'question', not a text"),
        ({"question": "Ann?", "answer": ["#### 3"]}, "as 'answer', not a text"),
        ({"question": "Ann?", "answer": "it is 3"}, r"no answer can be read from 'it is 3' \(there is no ####\)"),
    ],
)
def test_a_row_that_is_not_one_of_the_benchmark(tmp_path, row, said):
    with pytest.raises(InvalidInput, match=said):
        load_task("gsm8k", **ALL, source=written(tmp_path / "x.jsonl", [row]))


def test_an_answer_of_aime_that_is_no_whole_number_is_refused(tmp_path):
    file = written(tmp_path / "x.jsonl", [{"problem": "Find it.", "answer": "1/2"}])
    with pytest.raises(InvalidInput, match=r"no answer can be read from '1/2'"):
        load_task("aime25", **ALL, source=file)


def test_only_benchmarks_have_all_and_a_source(tmp_path):
    with pytest.raises(UnknownName, match=r"Unknown split 'all'\. .*Known: calibration, fit, test, train\."):
        load_task("chain", split="all")
    with pytest.raises(UnknownName, match=r"Unknown split 'al'\. Did you mean 'all'\?"):
        load_task("gsm8k", split="al")
    with pytest.raises(InvalidInput, match=r"Task 'chain_sum' is generated, not read: limit=None has no end"):
        load_task("chain_sum", limit=None)
    with pytest.raises(InvalidInput, match=r"Task 'chain' is generated, not read: source='x.jsonl' is for benchmarks"):
        load_task("chain", source="x.jsonl")


def test_the_number_of_answers_stands_with_the_task():
    assert {name: TASKS[name].n_answers for name in ("chain", "aime24", "gsm8k", "syllogism")} == {"chain": 1000, "aime24": 1000, "gsm8k": None, "syllogism": 2}


def test_the_documentation_names_every_task_and_has_every_command():
    documented = (Path(__file__).parents[2] / "docs" / "tasks_and_grading.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in documented for name in TASKS)
    assert all(command(name) in documented for name in BENCHMARKS)
