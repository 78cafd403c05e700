"""The zoo as a page: what is done to make each organism, what is true of it and why, and what it costs. docs/zoo.md holds it."""

import ast
import inspect
from itertools import pairwise
from pathlib import Path

from latentreason.organisms import zoo
from latentreason.organisms.estimate import described, estimate
from latentreason.organisms.recipe import Recipe
from latentreason.organisms.train import models_of
from latentreason.store import config_hash

NOWHERE = Path("no-models-yet")


def reasons() -> dict[tuple[str, ...], str]:
    """Names of the organisms of each entry of zoo.py -> the text below it, which says why."""
    body = ast.parse(inspect.getsource(zoo)).body
    found: dict[tuple[str, ...], str] = {}
    for entry, text in pairwise(body):
        if isinstance(entry, ast.Assign) and isinstance(entry.targets[0], ast.Name) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            value = getattr(zoo, entry.targets[0].id)
            recipes = (value,) if isinstance(value, Recipe) else value if isinstance(value, tuple) and all(isinstance(each, Recipe) for each in value) else ()
            if recipes:
                found[tuple(recipe.name for recipe in recipes)] = " ".join(str(text.value.value).split())
    return found


def markdown() -> str:
    """Two tables: one row an organism, and one row a reason."""
    recipes = list(zoo.ORGANISMS.values())
    plan, owners = estimate(recipes, 0, NOWHERE), dict[str, str]()
    rows = ["| organism | truth | base | weights | what is done to it | minutes (of which base) |", "|---|---|---|---|---|---|"]
    for recipe, cost in zip(recipes, plan.to_dict("records"), strict=True):
        owner = owners.setdefault(config_hash(models_of(recipe, 0)[0].config), recipe.name)
        base = f"{recipe.pretrain.steps} x {recipe.pretrain.batch} traces" if owner == recipe.name else f"that of `{owner}`"
        minutes = f"{cost['minutes']:.1f}" + (f" ({cost['base']:.1f})" if cost["base"] else "")
        rows.append(f"| `{recipe.name}` | {recipe.truth or 'to be learned'} | {base} | {cost['parameters']:.2f}M | {described(recipe)} | {minutes} |")
    total = f"{len(plan)} organisms, about {plan['minutes'].sum():.0f} minutes a seed on one free core, {plan['megabytes'].sum():.1f} MB of weights as shipped."
    why = [f"| {', '.join(f'`{name}`' for name in names)} | {text.replace('|', '/')} |" for names, text in reasons().items()]
    return "\n".join([*rows, "", total, "", "| organisms | how they are made, and why that is true |", "|---|---|", *why])
