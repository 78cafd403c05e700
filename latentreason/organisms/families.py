"""Several organisms at once: each process trains on one core, and those that share a model are trained one after the other, so that nothing is made twice.

Organisms are so small that a second thread gains nothing, but a second process does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from latentreason.organisms.estimate import estimate
from latentreason.organisms.recipe import Recipe
from latentreason.organisms.train import needed
from latentreason.store import config_hash

Made = TypeVar("Made")


def families(recipes: Iterable[Recipe], seed: int, work: Path, known: Mapping[str, Recipe] | None = None) -> list[list[Recipe]]:
    """Recipes in groups that have no model in common; those that take longest first, so that the last to finish is a short one."""
    groups: list[tuple[set[str], list[Recipe]]] = []
    for recipe in recipes:
        models = {config_hash(model.config) for model in needed(recipe, seed, known)}
        kin = [group for group in groups if group[0] & models]
        groups = [group for group in groups if not group[0] & models]
        groups.append((models.union(*(theirs for theirs, _ in kin)), [each for _, theirs in kin for each in theirs] + [recipe]))
    minutes = [float(estimate(members, seed, work, known=known)["minutes"].sum()) for _, members in groups]
    return [members for _, (_, members) in sorted(zip(minutes, groups, strict=True), key=lambda each: -each[0])]


def in_processes(make: Callable[..., Made], groups: list[list[Recipe]], seed: int, jobs: int, **how: Any) -> Iterator[tuple[Recipe, Made | BaseException]]:
    """Call `make(recipe, seed, **how)` for each recipe, in `jobs` processes of one thread each; recipes of one group in their order.

    Yields each recipe as it is done, with what `make` returned or raised; what one raises does not hold up the others.
    """
    waiting, running = [list(group) for group in groups], dict[Future[Made], list[Recipe]]()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        while waiting or running:
            while waiting and len(running) < jobs:
                group = waiting.pop(0)
                running[pool.submit(make, group[0], seed, **how)] = group
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                recipe, *rest = running.pop(future)
                yield recipe, future.exception() or future.result()
                waiting[:0] = [rest] if rest else []


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
