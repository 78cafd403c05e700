"""Several organisms at once: each process trains on one core, and those that share a model are trained one after the other, so that nothing is made twice.

Organisms are so small that a second thread gains nothing, but a second process does.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from latentreason.organisms.estimate import estimate
from latentreason.organisms.recipe import Recipe
from latentreason.organisms.train import needed
from latentreason.store import config_hash

Each = TypeVar("Each")
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


def in_processes(make: Callable[..., Made], groups: list[list[Each]], seed: int, jobs: int, **how: Any) -> Iterator[tuple[Each, Made | BaseException]]:
    """Call `make(recipe, seed, **how)` for each recipe (or whatever `make` takes), in `jobs` processes of one thread each; those of one group in their order.

    Yields each as it is done, with what `make` returned or raised; neither that nor a process that dies holds up the others. The processes end with this one.
    """
    waiting, running = [list(group) for group in groups], dict[Future[Made], list[Each]]()
    pools = [_pool() for _ in range(jobs)]  # one a process: a pool is broken as a whole where one of its processes dies
    free, of = [*pools], dict[Future[Made], ProcessPoolExecutor]()
    try:
        while waiting or running:
            while waiting and free:
                group, pool = waiting.pop(0), free.pop()
                future = pool.submit(make, group[0], seed, **how)
                running[future], of[future] = group, pool
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                (recipe, *rest), pool, error = running.pop(future), of.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool):
                    pools[pools.index(pool)] = pool = _pool()
                free.append(pool)
                yield recipe, error or future.result()
                waiting[:0] = [rest] if rest else []
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """One thread, no bars of others, and no life after the parent: a worker that went on would train beside the run that resumes."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    disable_progress_bar()
    parent = parent_process()
    if parent is not None:
        Thread(target=lambda: (wait_for([parent.sentinel]), os._exit(1)), daemon=True).start()
