"""The tasks by name, and `load_task`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from latentreason.errors import InvalidInput, unknown_name
from latentreason.tasks import arith, benchmarks, chain, countdown, reasoning_gym, styles
from latentreason.tasks.problem import SPLITS, Problem


@dataclass(frozen=True)
class Task:
    """A source of problems.

    Attributes:
        about: one line, for lists.
        load: called with split, limit and seed; that of a fixed task with source, too.
        styles: name -> prompt template that holds `{question}`; the first one is the task's own.
        n_answers: number of possible answers, for the guessing floor of pass@k; None where there is no end of them.
        stop: a completion also ends with the first token that holds this text.
        fixed: a published set of problems, not generated without end: it has a split `all` and may be read from a file.
    """

    about: str
    load: Callable[..., list[Problem]]
    styles: Mapping[str, str]
    n_answers: int | None = None
    stop: str = ""
    fixed: bool = False


TASKS: dict[str, Task] = {
    "chain": Task("operations on three digits, for the organisms", chain.load, chain.STYLES, chain.N_ANSWERS),
    "arith": Task("sums, differences and products of small numbers, for SmolLM2", arith.load, arith.STYLES, stop=arith.STOP),
    "countdown": Task("reach a target with given numbers, each exactly once", countdown.load, countdown.STYLES),
    **{n: Task(b.about, partial(benchmarks.load, n), b.styles, b.n_answers, fixed=True) for n, b in benchmarks.BENCHMARKS.items()},
    **{n: Task(f.about, partial(reasoning_gym.load, n), reasoning_gym.STYLES, f.n_answers) for n, f in reasoning_gym.FAMILIES.items()},
}
"""Name -> task."""

TWINS = {"gsm8k": "gsm_symbolic", "math500": "simple_equations", "aime24": "simple_equations", "aime25": "simple_equations"}
"""Benchmark -> generated task of the same kind, whose problems can stand in no corpus. Of gsm8k it is a close one; competition problems have
none as hard as they are. Generated tasks need none.
"""


def load_task(name: str, *, split: str = "test", limit: int | None = 100, seed: int = 0, source: str | Path | None = None) -> list[Problem]:
    """Problems of a task.

    Args:
        name: a key of `TASKS`.
        split: train, fit, calibration or test; disjoint by the hash of a problem, whatever the seed. A benchmark also has `all`.
        limit: how many problems; of a benchmark at most so many, and None for all of the split.
        seed: which ones, and their order.
        source: the parquet or JSONL file of a benchmark; by default one in the folder LATENTREASON_DATA, else the hub.

    Warns:
        UserWarning: a benchmark has fewer problems in that split.

    Raises:
        UnknownName: no such task or split.
        InvalidInput: limit below 1, or a limit of None or a source for a task that is generated.
        MissingData: a benchmark is neither in a file nor within reach on the hub.
        CorruptArtifact: the file of a benchmark is damaged.
        MissingDependency: the task needs an optional package.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    task = TASKS[name]
    if split not in SPLITS and not (task.fixed and split == "all"):
        raise unknown_name("split", split, [*SPLITS, "all"] if task.fixed else SPLITS)
    if limit is not None and limit < 1:
        raise InvalidInput(f"limit={limit} gives no problems; ask for at least 1.")
    if not task.fixed and (limit is None or source is not None):
        wrong = f"source={str(source)!r} is for benchmarks" if source is not None else "limit=None has no end"
        raise InvalidInput(f"Task {name!r} is generated, not read: {wrong}. Give a limit and a seed alone.")
    more = {"source": source} if task.fixed else {}
    return task.load(split=split, limit=limit, seed=seed, **more)


def styles_of(task: str) -> Mapping[str, str]:
    """Prompt templates of a task by name; of problems of one's own `plain` and `boxed`."""
    return TASKS[task].styles if task in TASKS else styles.DEFAULT
