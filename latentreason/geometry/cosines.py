"""Cosine between the vectors of two models, with what it must be seen beside.

A vector is the mean activation before a strategy's token minus the mean before the other tokens of its family. It also holds what
goes with the strategy: the format of the trace, the position. Labels that are shuffled within format and position keep that part, and
have it in common in both models, so their cosine is high. Hence two versions of everything: plain vectors, and vectors "within" strata,
of activations from which the mean of their stratum is taken: there the shuffles leave nothing but chance.

Activations are summed by problem once; a bootstrap draw, or half of the problems, is then one product with weights. Knows no models.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from latentreason.activations.sites import Activations
from latentreason.geometry.rows import as_table, few, p_value, resampled, row, undefined
from latentreason.stats import Estimate, replicate_weights
from latentreason.vectors.contrast import diff_means, family, shuffled

Values = Float[np.ndarray, "row layer d_model"]


@dataclass(frozen=True, eq=False)
class ByProblem:
    """Sums of activations, and numbers of them, by problem and label."""

    labels: tuple[str, ...]
    sums: Float[np.ndarray, "problem label layer d_model"]
    counts: Float[np.ndarray, "problem label"]

    @classmethod
    def of(cls, values: Values, index: pd.DataFrame, problems: list[str], labels: tuple[str, ...]) -> "ByProblem":
        """Of all rows; `problems` and `labels` must hold those of the index."""
        problem, label = (index[column].map({name: i for i, name in enumerate(names)}) for column, names in (("problem", problems), ("strategy", labels)))
        group = (problem * len(labels) + label).to_numpy(np.int64)
        sums = np.zeros((len(problems) * len(labels), *values.shape[1:]))
        order = np.argsort(group, kind="stable")
        present, start = np.unique(group[order], return_index=True)
        if len(present):
            sums[present] = np.add.reduceat(values[order].astype(np.float64), start, axis=0)
        counts = np.bincount(group, minlength=len(sums)).astype(np.float64)
        shape = (len(problems), len(labels))
        return cls(labels, sums.reshape(*shape, *values.shape[1:]), counts.reshape(shape))

    def n(self, label: str) -> dict[str, int]:
        """Number of spans with the label, and of the others in its family."""
        k, others = self._sides(label)
        return {"with": int(self.counts[:, k].sum()), "without": int(self.counts[:, others].sum())}

    def vectors(self, label: str, weights: Float[np.ndarray, "draw problem"]) -> Float[np.ndarray, "draw layer d_model"]:
        """Difference of weighted means, one for each row of weights; NaN where a side has no weight."""
        k, others = self._sides(label)
        means = []
        for sums, counts in ((self.sums[:, k], self.counts[:, k]), (self.sums[:, others].sum(1), self.counts[:, others].sum(1))):
            total, count = np.tensordot(weights, sums, axes=1), (weights @ counts)[:, None, None]
            means.append(np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0))
        return np.asarray(means[0] - means[1])

    def _sides(self, label: str) -> tuple[int, list[int]]:
        others = [i for i, other in enumerate(self.labels) if family(other) == family(label) and other != label]
        return self.labels.index(label), others


def stacked(onsets: Activations) -> Values:
    """Activations of all sites in one array."""
    return np.stack([onsets.values[site].float().cpu().numpy() for site in onsets.sites], axis=1)


def centred(values: Values, index: pd.DataFrame) -> Values:
    """Each row minus the mean of its family and stratum."""
    group = pd.factorize(index["strategy"].map(family) + "|" + index["stratum"])[0]
    order = np.argsort(group, kind="stable")
    start = np.unique(group[order], return_index=True)[1]
    if len(start) == 0:
        return values
    means = np.add.reduceat(values[order].astype(np.float64), start, axis=0) / np.bincount(group)[:, None, None]
    return np.asarray(values - means[group].astype(values.dtype))


def cosine(a: Float[np.ndarray, "*shape d_model"], b: Float[np.ndarray, "*shape d_model"]) -> Float[np.ndarray, "*shape"]:
    """Cosine along the last axis; NaN where a vector is zero or NaN."""
    length = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray(np.divide((a * b).sum(-1), length, out=np.full_like(length, np.nan), where=length > 0))


def cosine_table(
    base: Activations, rl: Activations, twin: Activations, twin_rl: Activations, *,
    min_spans: int = 20, n_halves: int = 20, n_shuffles: int = 200, n_boot: int = 1000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """One row for each label, layer, quantity and kind.

    Args:
        base, rl: each model on its own traces; the index has `problem`, `strategy` and `stratum` (of format and position).
        twin, twin_rl: the untrained twin on the same two sets of traces, row by row.
        min_spans: fewest spans with the label, and without, in each model.
        n_halves: random halves of the problems for the split-half reliability.
        n_shuffles: label shuffles within strata, in both models.
        n_boot: draws of the bootstrap over problems, the same problems in both models.
        seed: of all of these.

    Returns:
        Quantity "cosine" of kind `base_rl`; `shuffled` (mean of |cosine| over the shuffles, lo and hi the 5th and 95th percentile);
        `untrained` (base against the twin, on the base's traces); `untrained_both` (the twin's two vectors: what the traces alone have in
        common). Quantity "reliability" of `base` and `rl`; "p_value" of `shuffled`. The same once more as "cosine_within",
        "reliability_within" and "p_value_within". `n_base` and `n_rl` are spans.
    """
    onsets = {"base": base, "rl": rl, "twin": twin, "twin_rl": twin_rl}
    index = {"base": base.index, "rl": rl.index, "twin": base.index, "twin_rl": rl.index}
    problems = sorted({str(p) for name in ("base", "rl") for p in index[name]["problem"]})
    labels = tuple(sorted({str(s) for name in ("base", "rl") for s in index[name]["strategy"]}))
    if not labels:
        return as_table([], "n_base", "n_rl")
    weights = replicate_weights(len(problems), n_boot, seed)
    halves = (np.random.default_rng(seed).random((n_halves, len(problems))).argsort(1) < len(problems) // 2).astype(np.float64)
    rows: list[dict[str, Any]] = []
    for suffix in ("", "_within"):
        values = {name: centred(stacked(o), index[name]) if suffix else stacked(o) for name, o in onsets.items()}
        sums = {name: ByProblem.of(values[name], index[name], problems, labels) for name in onsets}
        for label in labels:
            counts = {name: sums[name].n(label) for name in ("base", "rl")}
            lacking = {name: few({f"{name.replace('rl', 'RL')} {side}": n for side, n in c.items()}, min_spans) for name, c in counts.items()}
            either = lacking["base"] or lacking["rl"]
            vectors = {name: side.vectors(label, weights) for name, side in sums.items()}
            found = {
                ("cosine", "base_rl"): _each(cosine(vectors["base"], vectors["rl"]), len(problems), either),
                ("cosine", "untrained"): _each(cosine(vectors["base"], vectors["twin"]), len(problems), lacking["base"]),
                ("cosine", "untrained_both"): _each(cosine(vectors["twin"], vectors["twin_rl"]), len(problems), either),
                **{("reliability", name): _reliability(sums[name], label, halves, why) for name, why in lacking.items()},
            }
            null = None if either else cosine(*(_shuffled(values[name], index[name], label, n_shuffles, 2 * seed + i) for i, name in enumerate(("base", "rl"))))
            found["cosine", "shuffled"], found["p_value", "shuffled"] = _against(null, [e.value for e in found["cosine", "base_rl"]], len(problems), either)
            rows += [
                row(quantity + suffix, label, site.layer, kind, estimates[i], n_base=counts["base"]["with"], n_rl=counts["rl"]["with"])
                for (quantity, kind), estimates in found.items() for i, site in enumerate(base.sites)
            ]  # fmt: skip
    return as_table(rows, "n_base", "n_rl")


def _each(replicates: Float[np.ndarray, "replicate layer"], n: int, why: str) -> list[Estimate]:
    """Estimates by layer. Resampling adds noise to both vectors, so draws of a cosine lie too near 0, and their percentiles may leave the
    estimate out; their spread is right. Hence the estimate plus and minus 1.96 deviations of the draws, on Fisher's z scale.
    """
    out = []
    for column in replicates.T:
        plain = undefined(why, n) if why else resampled(column, n)
        if math.isnan(plain.lo):
            out.append(plain)
            continue
        z = np.arctanh(column * (1 - 1e-12))  # two equal vectors have a cosine of 1, but no z
        half = 1.96 * float(np.nanstd(z[1:]))
        lo, hi = np.tanh([z[0] - half, z[0] + half])
        out.append(replace(plain, lo=float(lo), hi=float(hi), method=plain.method.replace("percentile 95%", "normal 95% on Fisher's z")))
    return out


def _reliability(sums: ByProblem, label: str, halves: np.ndarray, why: str) -> list[Estimate]:
    """Mean cosine between the vectors of two random halves of the problems."""
    n, out = halves.shape[1], []
    for column in cosine(sums.vectors(label, halves), sums.vectors(label, 1 - halves)).T:
        known = column[~np.isnan(column)]
        if why or 2 * len(known) < len(column):
            out.append(undefined(why or f"undefined in {len(column) - len(known)} of {len(column)} random halves", n))
        else:
            lo, hi = np.quantile(known, [0.025, 0.975])
            out.append(Estimate(float(known.mean()), float(lo), float(hi), n, f"mean of {len(known)} random halves; lo and hi are percentiles over them"))
    return out


def _shuffled(values: Values, index: pd.DataFrame, label: str, n: int, seed: int) -> Float[np.ndarray, "shuffle layer d_model"]:
    """Vectors of labels that are shuffled within strata."""
    rows = (index["strategy"].map(family) == family(label)).to_numpy(bool)
    masks = shuffled((index["strategy"] == label).to_numpy(bool)[rows], n=n, seed=seed, strata=index["stratum"].to_numpy(object)[rows])
    return diff_means(values[rows].reshape(int(rows.sum()), -1), masks).reshape(n, *values.shape[1:])


def _against(null: np.ndarray | None, found: list[float], n: int, why: str) -> tuple[list[Estimate], list[Estimate]]:
    """Summary of the shuffles, and p-values against them, by layer."""
    spread, p_values = [], []
    for i, value in enumerate(found):
        size = np.empty(0) if null is None else np.abs(null[:, i][~np.isnan(null[:, i])])
        if len(size) == 0 or math.isnan(value):
            spread.append(undefined(why or "every shuffled vector is zero", n))
            p_values.append(undefined(why or "nothing to compare with", n))
            continue
        lo, hi = np.quantile(size, [0.05, 0.95])
        how = f"{len(size)} label shuffles within format and position"
        spread.append(Estimate(float(size.mean()), float(lo), float(hi), n, f"{how}: mean of |cosine|; lo and hi are its 5th and 95th percentile"))
        p_values.append(p_value(int((size >= abs(value)).sum()), len(size), n, how))
    return spread, p_values
