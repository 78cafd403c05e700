"""The third job on a pair: the studies that need generations of their own. Goes on in the folder of `reproduce`, and needs nothing of it.

Stages as there: each writes its table once, whole; a run that is started again goes on with what is missing.
"""

from collections.abc import Callable
from typing import Any

from latentreason.organisms.problems import placebo_problems, problems_of
from latentreason.reproduce import Run, recipe_for
from latentreason.studies import coherence, contamination, passk, planning, taxonomy
from latentreason.tables import Rollouts
from latentreason.tasks.registry import TASKS


def _own(run: Run) -> Callable[..., Rollouts]:
    """`Run.sample` for one model alone, which is asked in the prompt of its own if the run gives it one."""
    return lambda name, model, problems, how: run.sample(name, model, problems, how.alone("rl" if model is run.pair.rl else "base"))


def _likelihood(run: Run) -> None:
    """How likely each model's traces are to the other: a part of the study `passk`."""
    problems = run.problems("test", run.config.passk_problems)
    passk.collect(run.pair, run.tables, problems=problems, n_samples=run.config.strategy_samples, sampling=run.sampling(1), draw=run.sample)


def _contamination(run: Run) -> None:
    """On an organism the problems that its corpus held, and their twins; on another pair the test problems: clean where they are generated, else with a generated twin."""
    config = contamination.Config(n_samples=2 * max(1, min(16, run.config.n_samples) // 2), seed=run.config.seed)
    recipe, n = recipe_for(run.config), run.config.n_problems
    known: dict[str, Any]
    if recipe is None:
        known = {"seen" if TASKS[run.config.task].fixed else "clean": run.problems("test", n)}
    else:
        known = {split: problems_of(recipe, split=split, limit=n) for split in (("seen", "clean") if recipe.corpus.n_seen else ("clean",))}
        known["placebo"] = placebo_problems(recipe, limit=n)
    contamination.collect(run.pair, config, run.tables, sampling=run.sampling(1), draw=_own(run), **known)


def _coherence(run: Run) -> None:
    config = coherence.Config(n_samples=run.config.n_samples, seed=run.config.seed)
    coherence.collect(run.pair, config, run.tables, problems=run.problems("test", run.config.passk_problems), sampling=run.sampling(1), draw=_own(run))


def _planning(run: Run) -> None:
    config = planning.Config(n_samples=min(256, max(2, run.config.passk_samples // 2)), seed=run.config.seed)
    planning.collect(run.pair, config, run.tables, problems=run.problems("test", run.config.passk_problems), sampling=run.sampling(1), draw=_own(run))


def _taxonomy(run: Run) -> None:
    """On problems of the split fit, as vectors are."""
    small: dict[str, Any] = {"among": (4, 8), "methods": ("kmeans", "gmm")} if run.config.geometry_problems < 50 else {}
    config = taxonomy.Config(seeds=tuple(run.config.seed + i for i in range(1 if small else 3)), seed=run.config.seed, **small)
    taxonomy.collect(run.pair, config, run.tables, problems=run.problems("fit", run.config.geometry_problems), sampling=run.sampling(1))


STAGES: dict[str, Callable[[Run], None]] = {"likelihood": _likelihood, "contamination": _contamination, "coherence": _coherence, "planning": _planning, "taxonomy": _taxonomy}
