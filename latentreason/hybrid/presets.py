"""The reference's two public algorithms as routers and actions of this package, and the controls that they were published without.

Venhoff et al. 2025 (arXiv 2510.07364). Both route where the two models' favourites differ, which at greedy is every token that always-RL changes; both
read the RL model at every token. Differences to the public code are in docs/reference.md::

    category = fit_category(capture_onsets(pair.rl, rl, lr.tag(rl), layers=[2]), layer=2, model="rl")
    first = venhoff_g1(pair, vectors, category)
    fitted = fit_optimised(pair.base, always_rl, categorised(pair, always_rl, category), layer=2, strength="learned")
    third = venhoff_g3(pair, fitted, category)
    arms = [first, third, *published_without(first, vectors, lambda v: steer_best(v, category)).values()]
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from latentreason.activations.capture import capture
from latentreason.activations.hf import edit
from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput
from latentreason.hybrid.actions import STEERED, Action, check_fit, rerank, swap
from latentreason.hybrid.decode import Hybrid
from latentreason.hybrid.steering import Category, steer_by, tables_of
from latentreason.models.decoding import Moment, sampled
from latentreason.models.pair import ModelPair
from latentreason.routing.oracle import on_disagreement
from latentreason.tables import Rollouts
from latentreason.vectors.optimised import Fitted, disagreements

if TYPE_CHECKING:
    from latentreason.vectors.steering_vector import VectorSet

STRENGTHS = tuple(round(0.1 * i, 1) for i in range(1, 11))
WINDOWS = (None, 1, 15, 50, 100)


def steer_best(vectors: "VectorSet", category: Category, *, strengths: Sequence[float] = STRENGTHS, windows: Sequence[int | None] = WINDOWS) -> Action:
    """Emit, of the base model's tokens under each strength and window, the one that the RL model finds likeliest. The unsteered token is no candidate.

    Args:
        vectors: of at least the labels of the category; one vector a layer is used at once.
        category: which strategy, by activation.
        strengths: in units of each vector's `scale`.
        windows: last tokens of the completion that are steered together, None for all of them; see `steer_persistent`.

    Raises:
        InvalidInput: no strength or window, or a window below 1.
    """
    if not strengths or not windows or any(w is not None and w < 1 for w in windows):
        raise InvalidInput(f"strengths={list(strengths)} and windows={list(windows)} must not be empty, and a window is at least 1 token (None for all).")
    tables = tables_of(vectors, category)

    def tokens(moment: Moment) -> Tensor:
        lm, n = moment.decoder.lms[0], len(strengths)
        check_fit(lm, tables)
        label = category(moment)[torch.unique(moment.slot)].cpu().repeat_interleave(n)
        size = torch.tensor(strengths).repeat(len(label) // n)[:, None]
        changes = [(site, lambda hidden, _, added=table[label] * size: hidden + added[:, None].to(hidden)) for site, table in tables.items()]
        candidates = []
        for window in dict.fromkeys(moment.t if w is None else min(w, moment.t) for w in windows):  # where the completion is short, windows coincide
            with edit(lm, changes):
                logits, place = moment.decoder.again(0, moment.slot, copies=n, tokens=moment.prefix[:, -window:] if window else None)
            candidates += [sampled(logits, replace(moment, slot=place + i)) for i in range(n)]
        found = torch.stack(candidates, 1)
        return found.gather(1, moment.logits[1][moment.slot].gather(1, found).argmax(1, keepdim=True))[:, 0]

    params = {**category.card(), "strengths": list(strengths), "windows": list(windows), "vectors": vectors.card()}
    return Action("steer_best", params, STEERED, frozenset({"rl", "again", category.place}) - {""}, tokens)


def venhoff_g1(pair: ModelPair, vectors: "VectorSet", category: Category, **grid: Any) -> Hybrid:
    """First generation: at a disagreement, the candidate of a grid of coefficients and windows with the lowest perplexity under the RL model.

    Args:
        pair: the two models.
        vectors: bias vector and category's vector added up, by category.
        category: read off the RL model.
        grid: `strengths` and `windows` of `steer_best`.
    """
    return Hybrid(pair, on_disagreement(), steer_best(vectors, category, **grid), name="venhoff_g1")


def venhoff_g3(pair: ModelPair, fitted: Fitted, category: Category) -> Hybrid:
    """Last generation: at a disagreement, the category's vector times a learned coefficient, at the last position only.

    Args:
        pair: the two models.
        fitted: vectors and coefficients, trained at the disagreements of always-RL rollouts: `fit_optimised(pair.base, rollouts, categorised(pair, rollouts,
            category), layer=..., strength="learned")`.
        category: read off the RL model.

    Raises:
        InvalidInput: vectors of a category that `category` does not know.
    """
    known = among(category, fitted.vectors.labels)
    return Hybrid(pair, on_disagreement(), steer_by(fitted.vectors, known, strength=1.0 if fitted.strength is None else fitted.strength), name="venhoff_g3")


def among(category: Category, labels: Sequence[str]) -> Category:
    """The same classifier with some of its labels: an activation of another gets the likeliest of these.

    Raises:
        InvalidInput: a label that it does not know.
    """
    if strange := sorted(set(labels) - set(category.labels)):
        raise InvalidInput(f"The category does not know {strange[0]!r}; it knows {', '.join(category.labels)}.")
    rows = [category.labels.index(label) for label in labels]
    return replace(category, labels=tuple(labels), weights=category.weights[rows], bias=category.bias[rows])


def categorised(pair: ModelPair, rollouts: Rollouts, category: Category, *, at_least: int = 1) -> pd.DataFrame:
    """The disagreements of always-RL rollouts with the category that the activation before each falls into, in the column `strategy`.

    Args:
        pair: the two models.
        rollouts: of Hybrid(pair, always()).
        category: read off either model.
        at_least: disagreements; categories with fewer are left out, so that `fit_optimised` finds each in all of its splits.

    Raises:
        InvalidInput: a category at random, rollouts of a model alone, or no category with so many disagreements.
    """
    model, _, layer = category.place.partition(":")
    if not model:
        raise InvalidInput("A category at random reads nothing: fit one with fit_category.")
    at = disagreements(rollouts)
    hidden = capture(pair.rl if model == "rl" else pair.base, rollouts, Site(int(layer)), at=at).values[Site(int(layer))]
    best = (hidden @ category.weights.T + category.bias).argmax(-1)
    found = at.assign(strategy=[category.labels[i] for i in best.tolist()])
    count = found["strategy"].map(found["strategy"].value_counts())
    if len(found) and not (count >= at_least).any():
        raise InvalidInput(f"No category has {at_least} disagreements; the most frequent one, {found['strategy'].mode()[0]!r}, has {int(count.max())}: give more rollouts, or a lower at_least.")
    return found[count >= at_least].reset_index(drop=True)


def published_without(hybrid: Hybrid, vectors: "VectorSet", action: Callable[["VectorSet"], Action], *, k: int = 5, seed: int = 0) -> dict[str, Hybrid]:
    """The controls of a preset: the RL model's token at the same positions (at greedy the RL model itself, by identity), its choice among the base's `k`
    likeliest tokens (the information without the steering), and random vectors of the same norms with the same coefficients and choices.

    Args:
        hybrid: the preset.
        vectors: those that it adds.
        action: its action as a function of the vectors, such as `lambda v: steer_best(v, category)`.
        k, seed: of the second and of the third control.
    """
    actions = {"swap": swap(), "rerank": rerank(k), "random vectors": action(vectors.random_like(seed))}
    return {name: replace(hybrid, action=what, name=f"{hybrid.arms[0]}: {name}") for name, what in actions.items()}
