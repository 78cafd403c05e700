"""Routers that read the residual stream: a linear probe, and the nearest strategy vector.

A Probe is plain data; what it was trained on decides the timing source of its router: "base alone" only where neither the RL model's
activations nor its decisions had a part in it::

    probe = fit_probe({"base:2": activations}, labels, label="onset", timing_source="base alone")
    router = lr.calibrated(on_probe(probe), pair, problems, changed=0.5)
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from latentreason.errors import InvalidInput, NonFinite
from latentreason.routing.router import Router, Step, by_threshold, read_at

if TYPE_CHECKING:
    from latentreason.vectors.steering_vector import VectorSet


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear readout of residual streams.

    Attributes:
        weights: by place, such as "base:2" (the output of block 2 of the base model).
        bias: added to the sum.
        label: what it predicts.
        timing_source: "base alone", "trained on RL labels" or "RL model live": the column of every table.
        info: how it was fitted and how well it does on problems of its own.

    Raises:
        NonFinite: NaN or Inf in the weights.
    """

    weights: Mapping[str, Float[Tensor, "d_model"]]
    bias: float
    label: str
    timing_source: str
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(torch.isfinite(w).all() for w in self.weights.values()) or not abs(self.bias) < float("inf"):
            raise NonFinite(f"The probe {self.label!r} holds NaN or Inf; fit it on finite activations.")

    def __call__(self, resid: Mapping[str, Float[Tensor, "*row d_model"]]) -> Float[Tensor, "*row"]:
        """The readout: log-odds of a logistic probe, the predicted number of a ridge probe."""
        total: Tensor = sum((read_at(resid, place, len(w), f"The probe {self.label!r}") @ w.to(resid[place].device) for place, w in self.weights.items()), torch.tensor(self.bias))
        return total

    def card(self) -> dict[str, Any]:
        """What it is, as plain data, with a hash of the weights."""
        digest = hashlib.sha256(b"".join(place.encode() + w.cpu().numpy().tobytes() for place, w in sorted(self.weights.items())))
        return {"label": self.label, "timing_source": self.timing_source, "places": sorted(self.weights), "sha256": digest.hexdigest(), **self.info}


def fit_probe(activations: Mapping[str, Float[np.ndarray, "row d_model"]], target: Shaped[np.ndarray, "row"], *, label: str, timing_source: str,
              groups: Shaped[np.ndarray, "row"] | None = None, seed: int = 0, fitted_on: str | Mapping[str, str] | None = None) -> Probe:  # fmt: skip
    """A probe of standardised activations: logistic regression for a boolean target, ridge regression for numbers.

    Args:
        activations: by place; the rows are the same tokens.
        target: booleans, or numbers.
        label: what it predicts.
        timing_source: as in `Probe`.
        groups: problem of each row. A fifth of the problems is held out for `info`: AUROC (of numbers, that they are above 0) and R^2 (numbers), and the calibration
            curve: predicted, observed and rows, by predicted probability or by tenths of the prediction.
        seed: of the held-out problems.
        fitted_on: fingerprint of the model whose activations these are (`lm.fingerprint`), or "base" and "rl" -> fingerprint; a Hybrid of others refuses the probe.

    Raises:
        InvalidInput: a boolean target with one class only.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.metrics import r2_score, roc_auc_score

    places, x = list(activations), np.concatenate([np.asarray(v, dtype=np.float64) for v in activations.values()], axis=1)
    binary = target.dtype == bool
    if binary and (target.all() or not target.any()):
        raise InvalidInput(f"The probe {label!r} has only one class: {int(target.sum())} of {len(target)} rows are true. Give it rows of both kinds.")
    mean, spread = x.mean(0), np.maximum(x.std(0), 1e-8)
    x = (x - mean) / spread

    def fitted(rows: np.ndarray) -> Any:
        model = LogisticRegression(C=0.1, max_iter=2000) if binary else RidgeCV(np.logspace(0, 5, 11))
        return model.fit(x[rows], target[rows])

    everything = np.ones(len(x), dtype=bool)
    info: dict[str, Any] = {"n": len(x), **({"fitted_on": fitted_on if isinstance(fitted_on, str) else dict(fitted_on)} if fitted_on else {})}
    if groups is not None:
        problems = np.random.default_rng(seed).permutation(np.unique(groups))
        out = np.isin(groups, problems[: max(1, len(problems) // 5)])
        info["n_held_out"] = int(out.sum())
        if binary and len(np.unique(target[out])) == len(np.unique(target[~out])) == 2:
            chance = fitted(~out).predict_proba(x[out])[:, 1]
            bins = np.clip((chance * 10).astype(int), 0, 9)
            info["auroc"] = float(roc_auc_score(target[out], chance))
            info["auroc_interval"] = auroc_interval(target[out], chance, groups[out], seed)
            info["calibration_curve"] = [[float(chance[bins == b].mean()), float(target[out][bins == b].mean()), int((bins == b).sum())] for b in np.unique(bins)]
        elif not binary:
            guess = fitted(~out).predict(x[out])
            info["r2"] = float(r2_score(target[out], guess))
            tenths = np.array_split(np.argsort(guess, kind="stable"), 10)
            info["calibration_curve"] = [[float(guess[rows].mean()), float(target[out][rows].mean()), len(rows)] for rows in tenths if len(rows)]
            if len(np.unique(target[out] > 0)) == 2:
                info["auroc"] = float(roc_auc_score(target[out] > 0, guess))
                info["auroc_interval"] = auroc_interval(target[out] > 0, guess, groups[out], seed)
    model = fitted(everything)
    weight = np.ravel(model.coef_) / spread
    bias = float(np.ravel(model.intercept_)[0] - weight @ mean)
    widths = np.cumsum([np.shape(v)[1] for v in activations.values()])[:-1]
    parts = np.split(weight.astype(np.float32), widths)
    return Probe({place: torch.from_numpy(part.copy()) for place, part in zip(places, parts, strict=True)}, bias, label, timing_source, info)


def auroc_interval(target: Shaped[np.ndarray, "row"], score: Shaped[np.ndarray, "row"], groups: Shaped[np.ndarray, "row"], seed: int = 0, n_boot: int = 500) -> list[float]:
    """95% of the AUROC when problems are drawn again with replacement; draws with one class only are left out."""
    from sklearn.metrics import roc_auc_score

    rng, (names, number) = np.random.default_rng(seed), np.unique(groups, return_inverse=True)
    found = []
    for _ in range(n_boot):
        weight = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[number]
        if len(np.unique(target[weight > 0])) == 2:
            found.append(roc_auc_score(target, score, sample_weight=weight))
    return [float(x) for x in np.quantile(found, [0.025, 0.975])] if found else [float("nan")] * 2


def readout_baselines(target: Shaped[np.ndarray, "row"], groups: Shaped[np.ndarray, "row"], *, seed: int = 0, inputs: Mapping[str, Any], n_boot: int = 500) -> dict[str, dict[str, Any]]:
    """What a probe's AUROC stands beside: the same target read off something plainer, on the same held-out problems.

    Args:
        target: booleans.
        groups: problem of each row.
        seed: as of `fit_probe`.
        inputs: name -> numbers [row] that are taken as they are (such as the base's entropy); categories [row, several] of integers, which become indicators of
            a logistic probe (such as current token and position); or activations [row, d_model] of floats (such as those of an untrained twin).
        n_boot: draws of the interval; 0 for none (nan).

    Returns:
        name -> `auroc`, `auroc_interval`. Empty where the held-out problems have one class only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    problems = np.random.default_rng(seed).permutation(np.unique(groups))
    out = np.isin(groups, problems[: max(1, len(problems) // 5)])
    if not len(np.unique(target[out])) == len(np.unique(target[~out])) == 2:
        return {}
    found = {}
    for name, given in inputs.items():
        x = np.asarray(given)
        score = x[out]
        if x.ndim == 2:
            first = OneHotEncoder(handle_unknown="ignore") if np.issubdtype(x.dtype, np.integer) else StandardScaler()
            score = make_pipeline(first, LogisticRegression(C=0.1, max_iter=2000)).fit(x[~out], target[~out]).predict_proba(x[out])[:, 1]
        found[name] = {"auroc": float(roc_auc_score(target[out], score)), "auroc_interval": auroc_interval(target[out], score, groups[out], seed, n_boot)}
    return found


def on_probe(probe: Probe, threshold: float = 0.0) -> Router:
    """Route where a probe's readout exceeds a threshold (log-odds, or the predicted number)."""

    def score(step: Step) -> Tensor:
        return probe(step.resid)

    models = {place.split(":")[0] for place in probe.weights}
    return by_threshold(f"on_probe({probe.label})", score, threshold, frozenset({*models, *probe.weights}), (-20.0, 20.0), probe=probe.card())


def on_value(value: Probe, cost: Probe, threshold: float = 0.1) -> Router:
    """Route where a swap is worth its price: predicted value above a price (accuracy a changed token) times predicted cost.

    The score is the angle of (cost, value), in radians, so that one threshold stands for one price: value > price * cost where the angle
    exceeds atan(price). A swap of positive value that saves other swaps has an angle beyond pi/2, above every price.

    Args:
        value: predicts the effect of the swap on the answer, in accuracy.
        cost: predicts how many more tokens are changed in all, the swap included.
        threshold: atan of the price.
    """

    def score(step: Step) -> Tensor:
        return torch.atan2(value(step.resid), cost(step.resid))

    places = {*value.weights, *cost.weights}
    models = {place.split(":")[0] for place in places}
    name = "on_value" if "rl" in models else "on_value(base)"
    return by_threshold(name, score, threshold, frozenset({*models, *places}), (-math.pi, math.pi), value=value.card(), cost=cost.card())


def on_nearest(vectors: "VectorSet", layer: int, threshold: float = 0.5, *, center: Float[Tensor, "d_model"] | None = None) -> Router:
    """Route where the base model's residual stream lies far along one of the base's own strategy vectors: the nearest-vector router.

    The score is the largest projection onto a direction of the set, in units of that vector's scale.

    Args:
        vectors: of the base model.
        layer: number of the block.
        threshold: in those units; `calibrated` chooses it.
        center: where projections are counted from, such as the mean activation of the base's own completions: without one the largest projection may be that of
            a direction along which every activation lies.
    """
    chosen = vectors.at(layer)
    directions = torch.stack([v.direction.float() / max(v.scale, 1e-9) for v in chosen.vectors])
    offset = torch.zeros(len(directions)) if center is None else directions @ center.float().cpu()

    def score(step: Step) -> Tensor:
        resid = read_at(step.resid, f"base:{layer}", directions.shape[1], "The set of vectors")
        found: Tensor = (resid @ directions.T.to(resid.device) - offset.to(resid.device)).amax(-1)
        return found

    return by_threshold("on_nearest", score, threshold, frozenset({"base", f"base:{layer}"}), (-20.0, 20.0), vectors=vectors.card(), layer=layer, offset=[round(x, 6) for x in offset.tolist()])
