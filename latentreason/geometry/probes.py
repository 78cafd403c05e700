"""AUROC of "which strategy is opened here?" read off activations, beside its baselines, on the same held-out rows. Knows no models.

AUROC over problems is a quadratic form: with A[p, q] the pairs in which a positive row of problem p is ranked above a negative row
of q (ties half), every bootstrap draw w of problems has AUROC w'Aw / (w'n+ w'n-). So A is counted once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from latentreason.activations.sites import Activations
from latentreason.geometry.rows import as_table, few, resampled, row, undefined
from latentreason.stats import replicate_weights
from latentreason.vectors.contrast import family, shuffled

BASELINES = ("logprob", "untrained", "token_position", "shuffled")
"""The base model's own log-probability; the same probe on the untrained twin; a probe on tokens and positions; the same probe fitted on
labels shuffled within format and position."""

INVERSE_PENALTY = 0.1
"""C of the logistic regression on standardised activations; never tuned."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out rows of one label: what a score is judged by."""

    positive: Bool[np.ndarray, "row"]
    problem: Int[np.ndarray, "row"]
    weights: Float[np.ndarray, "replicate problem"]

    def auroc(self, scores: Float[np.ndarray, "row"]) -> Float[np.ndarray, "replicate"]:
        """AUROC under each row of weights; ties count half, NaN where a side is empty."""
        n, (_, rank) = self.weights.shape[1], np.unique(scores, return_inverse=True)
        counts = np.zeros((2, int(rank.max(initial=-1)) + 1, n))  # without and with, by rank and problem
        np.add.at(counts, (self.positive.astype(np.int64), rank, self.problem), 1.0)
        pairs = counts[1].T @ (counts[0].cumsum(0) - counts[0] / 2)
        right, total = ((self.weights @ pairs) * self.weights).sum(1), np.prod(counts.sum(1) @ self.weights.T, axis=0)
        return np.asarray(np.divide(right, total, out=np.full_like(total, np.nan), where=total > 0))


def auroc_table(
    base: Activations, twin: Activations, fitting: list[str], *, min_spans: int = 20, n_shuffles: int = 3, n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """One row for each label, layer and kind.

    Args:
        base: the base model on its own traces. The index has `problem`, `strategy`, `stratum`, `position` (in the completion), `absolute`
            (in the sequence), `previous` (the token that is read) and, for each label, `logprob:LABEL`.
        twin: the untrained twin on the same traces, row by row.
        fitting: the problems that probes are fitted on; the others are scored.
        min_spans: fewest spans with the label, and without; half as many in each half of the problems.
        n_shuffles: of the labels, for the shuffled probe; their AUROCs are averaged.
        n_boot: draws over the held-out problems.
        seed: of these.

    Returns:
        Quantity "auroc" of kind `probe` and of each of `BASELINES` (those that read no activation are repeated for every layer), and
        "auroc_difference": probe minus each baseline, paired. `n_with` and `n_rows` are held-out rows.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # a dependency of scikit-learn

    rows: list[dict[str, Any]] = []
    names = base.index["strategy"].map(family)
    with threadpool_limits(limits=1):  # fits this small are ten times as slow on several threads, where other work runs too
        for name in names.unique():
            mine = (names == name).to_numpy(bool)
            rows += _of_family(base.select(mine), twin.select(mine), fitting, max(1, min_spans // 2), n_shuffles, n_boot, seed)
    return as_table(rows, "n_with", "n_rows")


def _of_family(base: Activations, twin: Activations, fitting: list[str], at_least: int, n_shuffles: int, n_boot: int, seed: int) -> list[dict[str, Any]]:
    kinds = [("auroc", "probe"), *((q, b) for q in ("auroc", "auroc_difference") for b in BASELINES)]
    index, held = base.index, ~base.index["problem"].isin(fitting).to_numpy(bool)
    problems, problem = np.unique(index["problem"].to_numpy(str)[held], return_inverse=True)
    n = len(problems)
    weights = replicate_weights(n, n_boot, seed) if n else np.empty((0, 0))
    models = {"probe": base, "untrained": twin}
    seen = {kind: [_standardised(onsets.values[site].float().cpu().numpy(), held) for site in base.sites] for kind, onsets in models.items()}
    context = _one_hot(index[["previous", "position", "absolute"]].to_numpy(), held)
    rows: list[dict[str, Any]] = []
    for label in sorted(index["strategy"].unique()):
        positive = (index["strategy"] == label).to_numpy(bool)
        more = {"n_with": int(positive[held].sum()), "n_rows": int(held.sum())}
        sides = {"fitted on with": positive[~held], "fitted on without": ~positive[~held], "held out with": positive[held], "held out without": ~positive[held]}
        if why := few({side: int(mask.sum()) for side, mask in sides.items()}, at_least):
            rows += [row(quantity, label, site.layer, kind, undefined(why, n), **more) for quantity, kind in kinds for site in base.sites]
            continue
        judge = HeldOut(positive[held], problem, weights)
        fixed = {"logprob": judge.auroc(index[f"logprob:{label}"].to_numpy(float)[held]), "token_position": judge.auroc(_probe(context, positive[~held], held))}
        masks = shuffled(positive[~held], n=n_shuffles, seed=seed, strata=index["stratum"].to_numpy(object)[~held])
        for i, site in enumerate(base.sites):
            found = {**fixed, **{kind: judge.auroc(_probe(values[i], positive[~held], held)) for kind, values in seen.items()}}
            found["shuffled"] = np.mean([judge.auroc(_probe(seen["probe"][i], mask, held)) for mask in masks], axis=0)
            for quantity, kind in kinds:
                replicates = found[kind] if quantity == "auroc" else found["probe"] - found[kind]
                rows.append(row(quantity, label, site.layer, kind, resampled(replicates, n, "held-out problems"), **more))
    return rows


def _standardised(values: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and deviation 1 on the rows that are fitted on."""
    fit = values[~held] if (~held).any() else values
    spread = fit.std(0)
    return np.asarray((values - fit.mean(0)) / np.where(spread > 0, spread, 1))


def _one_hot(values: np.ndarray, held: np.ndarray) -> Any:
    """A sparse matrix; what was not seen while fitting has no column."""
    from sklearn.preprocessing import OneHotEncoder

    fit = values[~held] if (~held).any() else values
    return OneHotEncoder(handle_unknown="ignore").fit(fit).transform(values)


def _probe(features: Any, positive: Bool[np.ndarray, "row"], held: np.ndarray) -> Float[np.ndarray, "held"]:
    """Scores of the held-out rows by a logistic regression on the others."""
    from sklearn.linear_model import LogisticRegression

    scores = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit(features[~held], positive).decision_function(features[held])
    return np.asarray(scores, dtype=np.float64)
