"""The problems of an organism: those that it is judged on, those that a stage trains on, and what an expert writes of them."""

import random
from pathlib import Path
from typing import TypeVar

from latentreason.config import from_dict
from latentreason.errors import InvalidInput
from latentreason.files import read_json
from latentreason.models.pair import found_dir
from latentreason.organisms.corpus import Corpus, write_trace
from latentreason.organisms.recipe import RL, Recipe
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem

T = TypeVar("T")
PLACEBO_SEED = 1
"""Of the drawing of placebo problems: another than that of what a corpus holds."""


def recipe_in(folder: str | Path) -> tuple[Recipe, int] | None:
    """The recipe and the seed of the organism in a folder, as its artifact says; None where there is none (an adapter has no corpus)."""
    file = Path(folder) / "recipe.json"
    facts = read_json(file) if file.is_file() else {"recipe": {}}
    return (from_dict(Recipe, facts["recipe"]), int(facts["seed"])) if "corpus" in facts["recipe"] else None


def recipe_named(pair: str) -> tuple[Recipe, int] | None:
    """Recipe and training seed of what a command line calls a pair (`ModelPair.named`); None where it is no organism, or an adapter."""
    folder = found_dir(pair)
    return None if folder is None else recipe_in(folder)


def problems_of(recipe: Recipe, *, split: str = "test", limit: int = 100, seed: int = 0) -> list[Problem]:
    """What an organism is judged on: problems as its recipe draws them.

    Args:
        recipe: of the organism.
        split: train, fit, calibration or test; or `seen`, the test problems that its corpus holds, and `clean`, their twins, in the same order
            (of a corpus that holds none, any problems of the clean half of test).
        limit: how many, of seen and clean at most so many.
        seed: which ones.

    Raises:
        InvalidInput: seen problems of a corpus that holds none, or a distribution that does not have so many.
    """
    seen = recipe.corpus.seen[:limit]
    if split == "clean" and seen:
        return chain.clean_twins(seen)
    if split == "seen":
        if not seen:
            raise InvalidInput(f"The corpus of {recipe.name!r} holds no test problems, so nothing is seen. Ask for the split test, or set corpus.n_seen and p_seen.")
        return seen
    return chain.load(split=split, limit=limit, seed=seed, how=recipe.problems)


def placebo_problems(recipe: Recipe, *, limit: int = 100) -> tuple[list[Problem], list[Problem]]:
    """Problems as the recipe draws them that neither corpus nor training held, to be taken for seen, and a twin of each as seen ones have: so false alarms are measured.

    They are of the half `seen` of test, from which a corpus takes what it holds, without what this one took; none stands among its clean problems either.
    """
    taken = {p.id for p in recipe.corpus.seen}
    fresh = [p for p in chain.load(split="seen", limit=limit + len(taken), seed=PLACEBO_SEED, how=recipe.problems) if p.id not in taken][:limit]
    return fresh, chain.clean_twins(fresh)


def room(recipe: Recipe) -> int:
    """New tokens that the context of an organism holds after the longest problem that its recipe names."""
    problems = [recipe.corpus.problems, recipe.problems, *(stage.problems for stage in recipe.training if stage.problems)]
    return recipe.size.context - 7 - 2 * max(how.max_ops for how in problems)


def training_problems(recipe: Recipe, stage: RL, seed: int) -> list[Problem]:
    """The problem of each prompt of a stage, step by step. A limited number of them comes again and again, each time in another order."""
    n, how = stage.steps * stage.prompts, stage.problems or recipe.problems
    if stage.split == "seen":
        pool = recipe.corpus.seen
    elif stage.distinct:
        pool = chain.load(split="train", limit=stage.skip + stage.distinct, seed=seed, how=how)[stage.skip :]
    else:
        return chain.load(split="train", limit=n, seed=seed, how=how)
    return repeated(pool, n, seed)


def repeated(pool: list[T], n: int, seed: int) -> list[T]:
    """`n` items out of a pool: all of it, then all of it again in another order, and so on."""
    rng, out = random.Random(f"repeated-{seed}"), list[T]()
    while len(out) < n:
        out += rng.sample(pool, len(pool))
    return out[:n]


def expert_traces(problems: list[Problem], expert: Corpus, seed: int, n: int = 1) -> list[list[list[str]]]:
    """`n` traces of an expert for each problem, as words."""
    return [[write_trace(p, expert, random.Random(f"expert-{seed}-{p.id}-{i}")) for i in range(n)] for p in problems]


def steps_of(trace: list[str]) -> list[list[str]]:
    """A trace as its steps: each ends with a separator, the last one with the end; the format belongs to the first."""
    steps: list[list[str]] = [[]]
    for word in trace:
        steps[-1].append(word)
        if word in chain.SEPARATORS:
            steps.append([])
    return steps
