"""Steering with the vector of a category that is read off an activation, token by token: which strategy's vector is added.

A Category is a linear classifier of a residual stream. Read off the base model it is "base alone"; read off the RL model it is an oracle,
as in the reference (Venhoff et al. 2025, arXiv 2510.07364, A4: the category that the thinking model's activation falls into)::

    onsets = capture_onsets(pair.base, rollouts, lr.tag(rollouts), layers=2)
    category = fit_category(onsets, layer=2, model="base")
    hybrid = lr.Hybrid(pair, router, action=steer_by(vectors, category, strength=1.0))
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentreason.activations.sites import Activations, Site
from latentreason.errors import InvalidInput, unknown_name
from latentreason.hybrid.actions import STEERED, Action, Added, check_fit
from latentreason.models.decoding import Moment, sampled
from latentreason.routing.controls import uniform
from latentreason.routing.router import read_at

if TYPE_CHECKING:
    from latentreason.vectors.optimised import Strength
    from latentreason.vectors.steering_vector import VectorSet


@dataclass(frozen=True, eq=False)
class Category:
    """Which strategy an activation belongs to.

    Attributes:
        place: of the residual stream, such as "rl:2"; empty for a category at random.
        labels: the strategies.
        weights, bias: a linear score for each label.
        accuracy: share of right labels on problems held out; NaN where none were.
        seed: of a category at random.
        fitted_on: fingerprint of the model whose activations it was fitted on; a Hybrid of others refuses it. Empty where nobody said.
    """

    place: str
    labels: tuple[str, ...]
    weights: Float[Tensor, "label d_model"]
    bias: Float[Tensor, "label"]
    accuracy: float = float("nan")
    seed: int = 0
    fitted_on: str = ""

    def card(self) -> dict[str, Any]:
        """What it is, as plain data."""
        return {"category": self.place or f"random, seed {self.seed}", "labels": list(self.labels), **({"category_fitted_on": self.fitted_on} if self.fitted_on else {})}

    def __call__(self, moment: Moment) -> Int[Tensor, "slot"]:
        """Number of the label of each slot."""
        model, _, layer = self.place.partition(":")
        if not model:  # a function of prompt and completion alone, so that rows of one slot agree
            key = moment.decoder.prompt_keys[moment.decoder.origin]
            key[moment.slot] += (moment.prefix * (torch.arange(moment.prefix.shape[1], device=key.device) * 7919 + 104_729)).sum(-1)
            return (uniform(key, moment.t, self.seed) * len(self.labels)).long()
        resid = read_at(moment.decoder.resid, (("base", "rl").index(model), int(layer)), self.weights.shape[1], "The category")
        return (resid @ self.weights.to(resid.device).T + self.bias.to(resid.device)).argmax(-1)


def fit_category(onsets: Activations, *, layer: int, model: str, labels: "tuple[str, ...] | None" = None, seed: int = 0, fitted_on: str = "") -> Category:
    """A logistic classifier of the strategy that opens, from the activations before it (`capture_onsets` of that model's own reading).

    Args:
        onsets: with the column `strategy`.
        layer: number of the block.
        model: "base" or "rl", whose activations these are and which is read while decoding.
        labels: the strategies; all unless given.
        seed: of the held-out problems.
        fitted_on: as in `Category` (`lm.fingerprint`).

    Raises:
        InvalidInput: fewer than two strategies.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    strategy = onsets.index["strategy"].to_numpy(str)
    rows = np.isin(strategy, labels) if labels else np.ones(len(strategy), dtype=bool)
    x, y, problem = onsets.values[Site(layer)].float().numpy()[rows], strategy[rows], onsets.index["problem"].to_numpy(str)[rows]
    if len(np.unique(y)) < 2:
        raise InvalidInput(f"A category needs spans of at least two strategies, found {sorted(set(y))}. Give more rollouts.")
    problems = np.random.default_rng(seed).permutation(np.unique(problem))
    out = np.isin(problem, problems[: max(1, len(problems) // 5)])

    def fitted(chosen: np.ndarray) -> "object":
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(x[chosen], y[chosen])

    accuracy = float(fitted(~out).score(x[out], y[out])) if len(np.unique(y[~out])) > 1 and out.any() else float("nan")  # type: ignore[attr-defined]
    scaler, classifier = (step for _, step in fitted(np.ones(len(y), dtype=bool)).steps)  # type: ignore[attr-defined]
    weights, bias = classifier.coef_ / scaler.scale_, classifier.intercept_ - (classifier.coef_ * scaler.mean_ / scaler.scale_).sum(1)
    if len(weights) == 1:  # two labels have one boundary
        weights, bias = np.concatenate([0 * weights, weights]), np.array([0.0, bias[0]])
    return Category(f"{model}:{layer}", tuple(map(str, classifier.classes_)), torch.tensor(weights, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32), accuracy, fitted_on=fitted_on)


def random_category(labels: "tuple[str, ...]", *, seed: int = 0) -> Category:
    """A category at random, as a function of prompt and completion so far, each label as often: the control of `fit_category`."""
    return Category("", labels, torch.zeros(len(labels), 1), torch.zeros(len(labels)), seed=seed)


def steer_by(vectors: "VectorSet", category: Category, *, strength: "float | Strength" = 1.0) -> Action:
    """Emit the base model's token with the vector of the category added at the last position only; the cache stays unsteered.

    Args:
        vectors: of at least the labels of the category; one vector a layer is used at once.
        category: which strategy, by activation.
        strength: in units of each vector's `scale`; or a coefficient network of the same labels, from `vectors.optimised.fit_optimised`.

    Raises:
        InvalidInput: a strength that is not finite, a network of other labels, or (UnknownName) a category without a vector.
    """
    fixed, learned = (float(strength), None) if isinstance(strength, int | float) else (1.0, strength)
    if not abs(fixed) < float("inf"):
        raise InvalidInput(f"strength={strength} is not finite; 1.0 adds the mean difference that the vector was fitted on.")
    if learned is not None and learned.labels != category.labels:
        raise InvalidInput(f"The coefficient network knows {learned.labels}, the category {category.labels}: fit both on the same strategies.")
    tables = tables_of(vectors, category)

    def adds(moment: Moment) -> Added:
        check_fit(moment.decoder.lms[0], tables)
        label = category(moment)[moment.slot]
        size = torch.tensor(fixed) if learned is None else learned(moment.decoder.resid[0, learned.site.layer][moment.slot], label)[:, None]
        return {site: table.to(label.device)[label] * size.to(label.device) for site, table in tables.items()}

    params = {**category.card(), "strength": fixed if learned is None else "learned", "vectors": vectors.card()}
    reads = {"again", category.place, *([] if learned is None else [f"base:{learned.site.layer}"])}
    return Action("steer", params, STEERED, frozenset(reads) - {""}, adds=adds)


def bias_by(opening: Mapping[str, int], category: Category, *, bias: float) -> Action:
    """Emit the base model's token with `bias` nats added to the logit of the token that opens the category's strategy: `steer_by` without vectors.

    Args:
        opening: label -> token id, such as `Language.tokens`; of at least the labels of the category.
        category: which strategy, by activation.
        bias: in nats at temperature 1.

    Raises:
        InvalidInput: a bias that is not finite, or (while decoding) a token that the models do not have.
        UnknownName: a category without a token.
    """
    if not abs(bias) < float("inf"):
        raise InvalidInput(f"bias={bias} is not finite; give nats, 1.0 multiplies the token's odds by e.")
    if missing := [label for label in category.labels if label not in opening]:
        raise unknown_name("strategy with a token of its own", missing[0], opening)
    ids = torch.tensor([opening[label] for label in category.labels])

    def tokens(moment: Moment) -> Tensor:
        logits = moment.logits[0].clone()
        if not 0 <= int(ids.min()) <= int(ids.max()) < logits.shape[1]:
            raise InvalidInput(f"There are no tokens {ids.tolist()} to bias: the models share tokens 0 to {logits.shape[1] - 1}.")
        logits[torch.arange(len(logits), device=logits.device), ids.to(logits.device)[category(moment)]] += bias
        return sampled(logits, moment)

    params = {**category.card(), "token_ids": ids.tolist(), "bias": bias}
    return Action("logit_bias", params, STEERED, frozenset({category.place}) - {""}, tokens)


def tables_of(vectors: "VectorSet", category: Category) -> dict[Site, Float[Tensor, "label d_model"]]:
    """The vectors of a category's labels by site, in the order of the labels."""
    return {site: torch.stack([vectors[label, site].vector for label in category.labels]) for site in vectors.for_label(category.labels[0]).sites}
