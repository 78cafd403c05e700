"""The tasks by name, and `load_task`."""

from types import ModuleType

from latentreason.errors import InvalidInput, unknown_name
from latentreason.tasks import arith, chain
from latentreason.tasks.problem import SPLITS, Problem

TASKS: dict[str, ModuleType] = {"chain": chain, "arith": arith}
"""Name -> module with `load(*, split, limit, seed) -> list[Problem]`."""


def load_task(name: str, *, split: str = "test", limit: int = 100, seed: int = 0) -> list[Problem]:
    """Problems of a task.

    Args:
        name: a key of `TASKS`.
        split: train, fit, calibration or test; disjoint by the hash of a problem, whatever the seed.
        limit: how many problems.
        seed: which ones.

    Raises:
        UnknownName: no such task or split.
        InvalidInput: limit below 1.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if limit < 1:
        raise InvalidInput(f"limit={limit} gives no problems; ask for at least 1.")
    problems: list[Problem] = TASKS[name].load(split=split, limit=limit, seed=seed)
    return problems
