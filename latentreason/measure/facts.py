"""What a study may know of an organism beside its measurements: one row of its recipe, by what was done and not by its name."""

import random
from typing import Any

import pandas as pd

from latentreason.organisms.corpus import write_trace
from latentreason.organisms.problems import problems_of
from latentreason.organisms.recipe import RL, SFT, Recipe, config_of
from latentreason.store import config_hash
from latentreason.strategies.grammar import parse
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem

AUTHORS = 8
"""Traces of the corpus's authors that say what is latent in it, a problem."""


def facts(recipe: Recipe, seed: int, problems: list[Problem]) -> pd.DataFrame:
    """One row.

    Returns:
        truth ("" where it is not known), base and judged (hashes: organisms with equal ones share a base, or the problems they are judged on), parameters,
        stages (such as "SRL > RLVR"), and of the last stage of RL: reward, clip, scale, updates, beta, external, group, prompts, steps, lr, n_training
        (different problems), skip, split, own_problems (it trains on problems like those it is judged on); latent (share of the corpus's
        authors' traces on the judged problems that are valid), prior/F (share of trace format F among authors).
    """
    kinds = ["SFT" if isinstance(stage, SFT) else "SRL" if stage.by_step else "RLVR" for stage in recipe.training]
    stage = next((s for s in reversed(recipe.training) if isinstance(s, RL)), None)
    row: dict[str, Any] = {
        "truth": recipe.truth or "", "base": config_hash({part: config_of(getattr(recipe, part)) for part in ("corpus", "size", "pretrain")})[:12], "judged": config_hash({"problems": [p.id for p in problems]})[:12],
        "parameters": recipe.size.parameters, "stages": " > ".join(kinds), "latent": _latent(recipe, problems), **_prior(recipe),
    }  # fmt: skip
    if stage is not None:
        drawn = stage.steps * stage.prompts
        row |= {
            **{name: getattr(stage, name) for name in ("reward", "clip", "scale", "updates", "beta", "external", "group", "prompts", "steps", "lr", "skip", "split")},
            "n_training": recipe.corpus.n_seen if stage.split == "seen" else stage.distinct or drawn, "own_problems": stage.problems in (None, recipe.problems),
        }  # fmt: skip
    return pd.DataFrame([row])


def _latent(recipe: Recipe, problems: list[Problem]) -> float:
    """A base's authors may know fewer operations than it is judged on (new skills): such problems have no author, and nothing valid is said of them."""
    rng, valid = random.Random("latent"), 0
    for problem in problems:
        if set(problem.meta["operations"]) <= set(recipe.corpus.operators):
            valid += sum(parse(" ".join(write_trace(problem, recipe.corpus, rng)[:-1]), problem.meta).valid for _ in range(AUTHORS))
    return valid / (AUTHORS * len(problems))


def _prior(recipe: Recipe) -> dict[str, float]:
    corpus = recipe.corpus
    weights = {"": 1.0 - corpus.p_cue, **dict.fromkeys(chain.CUES, corpus.p_cue / len(chain.CUES))}
    return {f"prior/{name}": sum(w * corpus.formats[cue][i] for cue, w in weights.items()) for i, name in enumerate(chain.FORMATS)}


def judged_on(recipe: Recipe, limit: int) -> list[Problem]:
    """The test problems of an organism, all of them under one seed, so that organisms which share a base are compared on the same ones."""
    return problems_of(recipe, split="test", limit=limit, seed=0)
