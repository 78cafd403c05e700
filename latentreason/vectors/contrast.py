"""Steering vectors by contrast: activations that predict the opening token of a strategy against those that predict another's.

A choice is compared with choices of its own family only: formats ("format:think") among formats, strategies among strategies.
Below `fit_vectors` stand plain functions on arrays, for studies that fit many times on activations captured once::

    onsets = capture_onsets(lm, rollouts, lr.tag(rollouts), layers=[2])
    values, side = onsets.values[Site(2)].numpy(), contrast_table(onsets.index["strategy"])["split"]
    chosen = values[side != 0], (side[side != 0] == 1).to_numpy()
    null = diff_means(chosen[0], shuffled(chosen[1], n=100, seed=0))      # 100 label-shuffled vectors at once
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Shaped

from latentreason.activations.capture import capture
from latentreason.activations.sites import Activations, Site
from latentreason.errors import InvalidInput, unknown_name
from latentreason.tables import Rollouts, Spans
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

if TYPE_CHECKING:
    from latentreason.models.language_model import LM

AT_LEAST = 2
"""Fewest spans on either side that a vector is fitted on."""

ROUNDING = 1e-6
"""A gap between means below this share of the mean norm is rounding, such as between formats chosen after one and the same prompt."""

Fit = Callable[..., Float[np.ndarray, "d_model"]]


def diff_means(values: Float[np.ndarray, "row d_model"], labels_mask: Bool[np.ndarray, "*fit row"]) -> Float[np.ndarray, "*fit d_model"]:
    """Mean of the rows where the mask is true minus mean of the others; its length is the mean projection gap.

    Args:
        values: activations.
        labels_mask: "with"; leading axes fit many vectors at once.

    Raises:
        InvalidInput: a mask with nothing on one side.
    """
    n_with = labels_mask.sum(-1, keepdims=True)
    n_without = labels_mask.shape[-1] - n_with
    if not (n_with.all() and n_without.all()):
        raise InvalidInput("A difference of means needs rows with and rows without; a mask here is all true or all false.")
    weights = np.where(labels_mask, 1 / n_with, -1 / n_without).astype(values.dtype)
    vectors: np.ndarray = weights @ values
    return vectors


def logistic(values: Float[np.ndarray, "row d_model"], labels_mask: Bool[np.ndarray, "row"]) -> Float[np.ndarray, "d_model"]:
    """Normal of the boundary of a logistic regression on standardised activations, mapped back; as long as the mean projection gap.

    Raises:
        InvalidInput: a mask with nothing on one side.
    """
    from sklearn.linear_model import LogisticRegression

    gap = diff_means(values, labels_mask)
    spread = values.std(0)
    spread[spread == 0] = 1
    fit = LogisticRegression(class_weight="balanced", max_iter=1000).fit((values - values.mean(0)) / spread, labels_mask)
    normal = (fit.coef_[0] / spread).astype(values.dtype)
    unit = normal / max(float(np.linalg.norm(normal)), np.finfo(values.dtype).tiny)
    vector: np.ndarray = unit * (unit @ gap)
    return vector


def pca(
    values: Float[np.ndarray, "row d_model"], labels_mask: Bool[np.ndarray, "row"], groups: Shaped[np.ndarray, "row"] | None = None
) -> Float[np.ndarray, "d_model"]:
    """First principal component of paired differences, about zero; its sign is that of the mean gap, its length the mean projection gap.

    A group with rows on both sides (a problem, a pair of prompts) gives one difference, the mean of its rows with minus that of those without; one that is
    `ROUNDING`, as between formats chosen after one and the same prompt, is none. Where fewer than two groups have one, it is the component of all rows about the midpoint of both means, either side weighing half.

    Raises:
        InvalidInput: a mask with nothing on one side.
    """
    from sklearn.decomposition import TruncatedSVD

    gap = diff_means(values, labels_mask)
    rows = paired_differences(values, labels_mask, groups)
    rows = rows[np.linalg.norm(rows, axis=1) > ROUNDING * np.linalg.norm(values, axis=1).mean()]
    if len(rows) < AT_LEAST:
        sides = np.where(labels_mask, labels_mask.sum(), (~labels_mask).sum())
        rows = (values - (values[labels_mask].mean(0) + values[~labels_mask].mean(0)) / 2) / np.sqrt(sides)[:, None]
    unit = np.zeros_like(gap)
    if rows.any():
        first = TruncatedSVD(1, algorithm="arpack", random_state=0).fit(rows.astype(np.float64)).components_[0]
        unit = (first / np.linalg.norm(first)).astype(values.dtype)
    vector: np.ndarray = unit * (unit @ gap)
    return vector


def paired_differences(
    values: Float[np.ndarray, "row d_model"], labels_mask: Bool[np.ndarray, "row"], groups: Shaped[np.ndarray, "row"] | None
) -> Float[np.ndarray, "group d_model"]:
    """Mean of the rows with minus mean of those without, for each group that has both."""
    if groups is None:
        return values[:0]
    names, number = np.unique(groups, return_inverse=True)
    sums, counts = [], []
    for mask in (labels_mask, ~labels_mask):
        total = np.zeros((len(names), values.shape[1]), dtype=values.dtype)
        np.add.at(total, number[mask], values[mask])
        sums.append(total)
        counts.append(np.bincount(number[mask], minlength=len(names))[:, None])
    both = (np.minimum(*counts) > 0)[:, 0]
    differences: np.ndarray = (sums[0][both] / counts[0][both] - sums[1][both] / counts[1][both]).astype(values.dtype)
    return differences


METHODS: dict[str, Fit] = {"diff_means": diff_means, "logistic": logistic, "pca": pca}
"""Name -> function of (activations, mask of "with") that gives a raw vector."""

PAIRED = frozenset({"pca"})
"""Methods that take, as a third argument, which rows belong together."""


def family(label: str) -> str:
    """What kind of choice a label is: "format" for "format:think", "" for a strategy."""
    return label.split(":")[0] if ":" in label else ""


def contrast_table(labels: pd.Series, *, against: str = "family") -> pd.DataFrame:
    """Which rows stand on which side: a column a label, a row an onset, 1 with, -1 without, 0 not compared.

    Args:
        labels: the strategy that opens at each onset.
        against: "family" compares with other strategies at the same kind of choice, "all" with every other onset.

    Raises:
        UnknownName: another value of `against`.
    """
    if against not in ("family", "all"):
        raise unknown_name("value of `against`", against, ["family", "all"])
    kinds = labels.map(family)
    sides = {
        label: np.where(labels == label, 1, np.where((kinds == family(label)) | (against == "all"), -1, 0)).astype(np.int8)
        for label in sorted(labels.unique())
    }
    return pd.DataFrame(sides, index=labels.index)


def shuffled(
    labels_mask: Bool[np.ndarray, "row"], *, n: int, seed: int, strata: Shaped[np.ndarray, "row"] | None = None
) -> Bool[np.ndarray, "n row"]:
    """The mask in `n` random orders, within strata (such as position and format) where they are given."""
    rng = np.random.default_rng(seed)
    groups = np.zeros(len(labels_mask), dtype=np.int64) if strata is None else pd.factorize(strata)[0]
    blocks = np.argsort(groups, kind="stable")
    # rows ordered by stratum, and at random within it: position i of either order lies in the same stratum
    orders = [np.lexsort((rng.random(len(groups)), groups)) for _ in range(n)]
    out = np.empty((n, len(labels_mask)), dtype=bool)
    for row, order in zip(out, orders, strict=True):
        row[blocks] = labels_mask[order]
    return out


def capture_onsets(lm: "LM", rollouts: Rollouts, spans: Spans, *, layers: str | int | Sequence[int] = "all", **how: Any) -> Activations:
    """Activations that predict the opening token of each span that was a choice; the index keeps the column `strategy`.

    Args:
        lm: the model.
        rollouts: what it reads.
        spans: from `tag`; where there is a column `choice`, spans without one (nobody chose them) are left out.
        layers: numbers of blocks.
        how: further arguments of `capture`.
    """
    table = spans.table[spans.table["choice"].to_numpy(bool)] if "choice" in spans.table else spans.table
    return capture(lm, rollouts, layer_sites(lm, layers), at=table, **how)


def layer_sites(lm: "LM", layers: str | int | Sequence[int]) -> list[Site]:
    """The residual stream after these blocks: one number, several, or "all".

    Raises:
        UnknownName: another word.
    """
    if isinstance(layers, str) and layers != "all":
        raise unknown_name("value of `layers`", layers, ["all"])
    return [Site(layer) for layer in (range(lm.n_layers) if isinstance(layers, str) else [layers] if isinstance(layers, int) else layers)]


def fit_onsets(
    onsets: Activations, *, method: str = "diff_means", against: str = "family", control: bool = True, seed: int = 0
) -> VectorSet:
    """One vector for each label and site from captured onsets; arguments and errors as `fit_vectors`."""
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    problems = onsets.index["problem"].to_numpy(str)
    first_half = halves_of(problems, seed) if control else None
    values = {site: onsets.values[site].float().cpu().numpy() for site in onsets.sites}
    vectors: list[SteeringVector] = []
    skipped: dict[str, str] = {}
    table = contrast_table(onsets.index["strategy"], against=against)
    for label in map(str, table):
        rows, mask = (table[label] != 0).to_numpy(), (table[label] == 1).to_numpy()
        n_with, n_without = int(mask.sum()), int(rows.sum() - mask.sum())
        if min(n_with, n_without) < AT_LEAST:
            skipped[label] = f"{n_with} spans with and {n_without} without: at least {AT_LEAST} of each are needed"
            continue
        fitted, flat = fit_label(values, mask, rows, label, method=method, first_half=first_half, seed=seed, groups=problems)
        if flat:
            skipped[label] = f"the activations with and without have the same mean at {', '.join(flat)}"
        else:
            vectors += fitted
    if not vectors:
        raise InvalidInput(f"No strategy has a vector: {skipped or 'no spans'}. Give more rollouts, or spans of at least two strategies.")
    return VectorSet(tuple(vectors), {"method": method, "against": against}, skipped)


def halves_of(groups: Shaped[np.ndarray, "row"], seed: int) -> Bool[np.ndarray, "row"]:
    """Whether each row is in the first of two random halves of the groups (problems, or pairs)."""
    names, number = np.unique(groups, return_inverse=True)
    chosen: np.ndarray = (np.random.default_rng(seed).permutation(len(names)) < len(names) // 2)[number]
    return chosen


def fit_label(
    values: dict[Site, Float[np.ndarray, "row d_model"]], mask: Bool[np.ndarray, "row"], rows: Bool[np.ndarray, "row"], label: str, *,
    method: str, first_half: Bool[np.ndarray, "row"] | None, seed: int, groups: Shaped[np.ndarray, "row"] | None = None,
) -> tuple[list[SteeringVector], list[str]]:  # fmt: skip
    """The vectors of one label, one a site, and the sites where it has none because both sides have the same mean.

    Args:
        values: activations.
        mask: "with".
        rows: those that take part.
        label: the strategy.
        method: a key of `METHODS`.
        first_half: `halves_of` the rows; None leaves out reliability and control.
        seed: of the control.
        groups: which rows belong together, for the methods of `PAIRED`; `info["n_pairs"]` says how many groups have rows on both sides.
    """
    n_with = int((mask & rows).sum())
    info: dict[str, Any] = {"method": method, "n_without": int(rows.sum()) - n_with}
    together = groups if method in PAIRED else None
    if together is not None:
        info["n_pairs"] = len(set(together[rows & mask]) & set(together[rows & ~mask]))
    fitted, flat = [], []
    for site, read in values.items():
        vector = _fitted(read, mask, rows, method, together)
        if float(np.linalg.norm(vector)) <= ROUNDING * float(np.linalg.norm(read[rows], axis=1).mean()):
            flat.append(str(site))
        if first_half is not None:
            halves = [_fit_or_none(read, mask, rows & part, method, together) for part in (first_half, ~first_half)]
            info = {**info, "control_seed": seed, "split_half": _cosine(*halves)}
        fitted.append(SteeringVector.of(site, torch.from_numpy(vector), label, n_with, **info))
    return fitted, flat


def fit_vectors(
    lm: "LM", rollouts: Rollouts, spans: Spans, *, layers: str | int | Sequence[int] = "all", method: str = "diff_means", control: bool = True,
    against: str = "family", seed: int = 0, backend: str = "hf", batch_tokens: int = 16_384,
) -> VectorSet:  # fmt: skip
    """One steering vector for each strategy and layer, from "without" to "with".

    Args:
        lm: the model whose activations are used.
        rollouts: what it reads; for evidence about a model, its own.
        spans: of these rollouts, from `tag`.
        layers: one number or several of blocks, or "all".
        method: a key of `METHODS`.
        control: keep with each vector `info["control_seed"]`, for its norm-matched twin `vector.random_like(seed)`, and
            `info["split_half"]`, the cosine between the vectors of two random halves of the problems (None where a half has too few spans).
        against: "family" = other strategies at the same kind of choice (formats among formats), "all" = all other spans.
        seed: of the halves and the control.
        backend: of `capture`.
        batch_tokens: of `capture`.

    Returns:
        The set; `skipped` says why a label with fewer than 2 spans on either side has none.

    Raises:
        UnknownName: no such method.
        InvalidInput: no label can be fitted.
    """
    if method not in METHODS:  # before the model runs
        raise unknown_name("method", method, METHODS)
    onsets = capture_onsets(lm, rollouts, spans, layers=layers, backend=backend, batch_tokens=batch_tokens)
    fitted = fit_onsets(onsets, method=method, against=against, control=control, seed=seed)
    return VectorSet(fitted.vectors, {**fitted.info, **model_info(lm), **_written_by(lm, rollouts)}, fitted.skipped)


def _written_by(lm: "LM", rollouts: Rollouts) -> dict[str, str]:
    """Whose traces the model read, where the rollouts say it: evidence about a model comes from its own."""
    wrote = {weights for arm in rollouts.arms if isinstance(weights := rollouts.info.get(arm, {}).get("weights"), str)}
    return {"traces": "its own" if wrote == {lm.fingerprint} else "another model's"} if wrote else {}


def model_info(lm: "LM") -> dict[str, Any]:
    """What a set says of the model that it was fitted on."""
    return {"model": lm.name, "revision": lm.revision, "model_type": lm.model.config.model_type, "weights": lm.fingerprint}


def _fitted(values: np.ndarray, mask: np.ndarray, rows: np.ndarray, method: str, groups: np.ndarray | None) -> np.ndarray:
    return METHODS[method](values[rows], mask[rows], *([] if groups is None else [groups[rows]]))


def _fit_or_none(values: np.ndarray, mask: np.ndarray, rows: np.ndarray, method: str, groups: np.ndarray | None) -> np.ndarray | None:
    n_with = int(mask[rows].sum())
    return _fitted(values, mask, rows, method, groups) if min(n_with, int(rows.sum()) - n_with) >= AT_LEAST else None


def _cosine(a: np.ndarray | None, b: np.ndarray | None) -> float | None:
    if a is None or b is None or not (a.any() and b.any()):
        return None
    return float(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))
