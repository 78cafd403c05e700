"""Published benchmarks: a fixed set of problems each, from a file at hand or from the hub.

The rows are looked for in this order: the file that `source` names; `NAME.parquet` or `NAME.jsonl` in the folder that the environment
variable LATENTREASON_DATA names; the hub, at a pinned revision, through `datasets`. Example::

    lr.load_task("math500", split="all", limit=None)                        # all 500
    lr.load_task("gsm8k", source="gsm8k/main/test-00000-of-00001.parquet")

What is published may stand in any corpus: for a clean split, take a generated task.
"""

import json
import os
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentreason.errors import CorruptArtifact, InvalidInput, MissingData
from latentreason.tasks import styles
from latentreason.tasks.problem import Problem, content_hash, split_of

FOLDER = "LATENTREASON_DATA"
"""Environment variable: a folder with files of benchmarks."""


def after_hashes(answer: str) -> str:
    """The answer of a solution that ends in `#### 1,234`."""
    _, marked, last = answer.rpartition("####")
    if not marked:
        raise ValueError("there is no ####")
    return last.strip().replace(",", "")


def whole_number(answer: str) -> str:
    """A whole number without leading zeros."""
    return str(int(answer))


@dataclass(frozen=True)
class Benchmark:
    """Where the problems of a benchmark are and how to read a row.

    Attributes:
        about: one line, for lists.
        hub, revision, config, hub_split: the data set on the hub.
        file: the file of that data set with these rows.
        examples: worked examples for the style `few_shot`, of our own.
        question, answer: names of the columns.
        extract: the answer of a row from its answer column; raises ValueError.
        keep: further columns, for `Problem.meta`.
        n_answers: number of possible answers, None where there is no end of them.
    """

    about: str
    hub: str
    revision: str
    config: str | None
    hub_split: str
    file: str
    examples: tuple[tuple[str, str], ...]
    question: str = "problem"
    answer: str = "answer"
    extract: Callable[[str], str] = str.strip
    keep: tuple[str, ...] = ()
    n_answers: int | None = None

    @property
    def styles(self) -> Mapping[str, str]:
        """Prompt templates."""
        return {
            "boxed": styles.BOXED, "plain": styles.PLAIN, "few_shot": styles.few_shot(self.examples),
            "abel": styles.ABEL, "orz": styles.ORZ, "qa": styles.QA,
        }  # fmt: skip


BENCHMARKS = {
    "gsm8k": Benchmark(
        "1,319 word problems of grade school (arXiv 2110.14168)", "openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "main", "test",
        "main/test-00000-of-00001.parquet", styles.GRADE_SCHOOL, question="question", extract=after_hashes,
    ),
    "math500": Benchmark(
        "500 competition problems from MATH (arXiv 2103.03874, 2305.20050)", "HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", None, "test",
        "test.jsonl", styles.COMPETITION, keep=("subject", "level"),
    ),
    "aime24": Benchmark(
        "30 problems of AIME 2024, answers 0 to 999", "HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", None, "train",
        "data/train-00000-of-00001.parquet", styles.COMPETITION, extract=whole_number, n_answers=1000,
    ),
    "aime25": Benchmark(
        "30 problems of AIME 2025, answers 0 to 999", "math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", None, "test",
        "test.jsonl", styles.COMPETITION, extract=whole_number, n_answers=1000,
    ),
}  # fmt: skip
"""Name of the task -> benchmark."""


def load(name: str, *, split: str, limit: int | None, seed: int, source: str | Path | None = None) -> list[Problem]:
    """Problems of a benchmark, in an order fixed by the seed. A question that stands there twice counts once.

    Args:
        name: a key of `BENCHMARKS`.
        split: train, fit, calibration or test, by the hash of the question; `all` for the whole benchmark.
        limit: at most so many; None for all.
        seed: of the order.
        source: a parquet or JSONL file with the columns of the benchmark.

    Warns:
        UserWarning: there are fewer than `limit`.

    Raises:
        MissingData: neither a file nor the hub is within reach; names the command that gets the file.
        CorruptArtifact: a damaged file.
        InvalidInput: a row or column that is missing, another kind of file, or no problem in that split.
    """
    benchmark = BENCHMARKS[name]
    where, rows = _rows(name, benchmark, source)
    found: dict[str, Problem] = {}
    for number, row in enumerate(rows):
        problem = _problem(name, benchmark, row, number, where)
        found.setdefault(problem.id, problem)
    problems = [p for p in found.values() if split == "all" or split_of(p.id) == split]
    everything = f"split='all' with limit=None has all {len(found)}."
    if not problems:
        raise InvalidInput(f"No problem of {name!r} falls into split {split!r}; {everything}")
    if limit is not None and limit > len(problems):
        warnings.warn(f"{name} has {len(problems)} problems in split {split!r}, fewer than limit={limit}; {everything}", stacklevel=3)
    random.Random(f"{name}-{seed}").shuffle(problems)
    return problems[:limit]


def at_hand(name: str) -> Path | None:
    """The file of a benchmark in the folder LATENTREASON_DATA; None where there is none."""
    if FOLDER not in os.environ:
        return None
    candidates = [Path(os.environ[FOLDER]) / f"{name}{suffix}" for suffix in (".parquet", ".jsonl")]
    return next((path for path in candidates if path.is_file()), None)


def command(name: str) -> str:
    """The command that gets the file of a benchmark, into the folder `NAME`."""
    of = BENCHMARKS[name]
    return f"hf download {of.hub} {of.file} --repo-type dataset --revision {of.revision} --local-dir {name}"


def _rows(name: str, benchmark: Benchmark, source: str | Path | None) -> tuple[str, list[Mapping[str, Any]]]:
    """Where the rows come from, and the rows."""
    source = at_hand(name) if source is None else source
    if source is None:
        return f"the data set {benchmark.hub}", _from_hub(name, benchmark)
    path = Path(source)
    if not path.is_file():
        raise MissingData(f"No file {path} for {name!r}. {_fix(name)}")
    if path.suffix == ".parquet":
        from latentreason.files import read_table

        rows: list[Mapping[str, Any]] = read_table(path).to_dict("records")  # type: ignore[assignment]
    elif path.suffix == ".jsonl":
        rows = _json_lines(path, name)
    else:
        raise InvalidInput(f"{path} is neither a .parquet nor a .jsonl file, which is what {name!r} is read from. {_fix(name)}")
    return str(path), rows


def _json_lines(path: Path, name: str) -> list[Mapping[str, Any]]:
    """One JSON object a line; blank lines count for nothing."""
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise CorruptArtifact(f"{path}, line {number}: not JSON ({error}). Fetch the file again: {command(name)}") from error
        if isinstance(row, dict):
            rows.append(row)
        elif line.strip():
            raise CorruptArtifact(f"{path}, line {number}: not a JSON object. Fetch the file again: {command(name)}")
    return rows


def _from_hub(name: str, benchmark: Benchmark) -> list[Mapping[str, Any]]:
    """The rows through `datasets`, from its cache or from the hub."""
    try:
        from datasets import load_dataset

        rows = load_dataset(benchmark.hub, benchmark.config, split=benchmark.hub_split, revision=benchmark.revision)
    except Exception as error:  # no package, no network, no such revision, a full disk: errors of four packages, with one fix
        reason = " ".join(str(error).split())[:300]
        raise MissingData(f"No file of {name!r} at hand, and the hub is out of reach ({type(error).__name__}: {reason}). {_fix(name)}") from error
    return [dict(row) for row in rows]


def _fix(name: str) -> str:
    file = BENCHMARKS[name].file
    return (
        f"Where there is a network, run: {command(name)}\nThen load_task({name!r}, source='{name}/{file}'), "
        f"or keep that file as {name}{Path(file).suffix} in the folder that the environment variable {FOLDER} names."
    )


def _problem(name: str, benchmark: Benchmark, row: Mapping[str, Any], number: int, where: str) -> Problem:
    for column in (benchmark.question, benchmark.answer):
        if column not in row:
            raise InvalidInput(f"Row {number} of {where} has no column {column!r}, only {', '.join(map(repr, row))}: is it the file of {name!r}? {_fix(name)}")
        if not isinstance(row[column], str | int) or not str(row[column]).strip():
            raise InvalidInput(f"Row {number} of {where} has {row[column]!r:.60} as {column!r}, not a text. {_fix(name)}")
    question = str(row[benchmark.question]).strip()
    try:
        answer = benchmark.extract(str(row[benchmark.answer]))
    except ValueError as error:
        raise InvalidInput(f"Row {number} of {where}: no answer can be read from {row[benchmark.answer]!r:.60} ({error}). {_fix(name)}") from error
    meta = {"grader": "math", "row": number, **{column: row[column] for column in benchmark.keep if column in row}}
    return Problem(content_hash(question), question, answer, name, meta)
