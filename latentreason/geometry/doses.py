"""Dose and response: the base model with a vector (or a logit bias) at every position. WHEN is everywhere, WHAT is a dose.

Two measurements. On prefixes that end at the base's own choice points: the log-probability of the strategy's token, after the same
prefixes under every dose. In free decoding: how often the strategy is opened, accuracy, malformed and truncated traces, repetition.
Vectors are fitted on one half of the problems, and so are the layer and the unit of the bias; responses are measured on the other half.
"""

import math
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from latentreason.activations.sites import Activations, Site
from latentreason.geometry.decoders import Dose, Doses, Points, logodds, logprob
from latentreason.geometry.rows import as_table, few, p_value, resampled, row, undefined
from latentreason.sampling.local import Sampling, sample
from latentreason.stats import Estimate, mean_estimate, pooled_ratio, replicate_weights
from latentreason.strategies.language import Language
from latentreason.tables import Rollouts
from latentreason.tasks.problem import Problem
from latentreason.vectors.contrast import contrast_table, family, fit_onsets
from latentreason.vectors.steering_vector import SteeringVector

if TYPE_CHECKING:
    from latentreason.models.language_model import LM

STRENGTHS = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
"""In units of `unit`: the vector's scale, or the nats of a bias."""

DECODED = ("check", "split", "leap")
"""Labels whose doses are decoded; where none of them can be fitted, the three most frequent strategies."""

CONTENT = {"vector": "base-fitted vector", "rl_vector": "RL-fitted vector", "random": "random vector", "logit_bias": "logit bias"}
"""Kind of dose -> content source."""

BEHAVIOUR = ("frequency", "accuracy", "malformed", "truncated", "repetition")
"""Spans of the strategy a trace; shares of traces that are right, leave the grammar, hit the length limit; share of 8-grams of tokens that
repeat an earlier one of their trace."""

POINTS = 2
"""Choice points of a problem at which log-probabilities are read."""

NGRAM = 8


@dataclass(frozen=True, eq=False)
class Plan:
    """The doses of one label: a layer, raw vectors of strength 1 by kind (several random ones), the bias of strength 1 in nats."""

    label: str
    token: int
    site: Site | None = None
    vectors: dict[str, list[Float[Tensor, "..."]]] = field(default_factory=dict)
    nats: float = math.nan
    lacking: dict[str, str] = field(default_factory=dict)

    def unit(self, kind: str) -> float:
        """What strength 1 is: the length of the vector, or nats."""
        return self.nats if kind == "logit_bias" else float(self.vectors[kind][0].norm()) if kind in self.vectors else math.nan


def dose_table(
    lm: "LM", base: Activations, rl: Activations, rollouts: Rollouts, problems: list[Problem], fitting: list[str], tokens: dict[str, int], *,
    language: Language, sampling: Sampling, min_spans: int = 20, n_random: int = 20, n_problems: int = 40, n_samples: int = 4, n_boot: int = 1000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """One row for each label, kind of dose, strength and quantity.

    Args:
        lm: the base model.
        base, rl: each model's activations on its own traces; the index of `base` has `row`, the row of `rollouts`.
        rollouts: of the base model.
        problems: all that were sampled.
        fitting: those that vectors, layers and the unit of the bias are fitted on; responses are measured on the others.
        tokens: label -> the token that opens it.
        language: how to read what is decoded.
        sampling: how it is drawn; the number of samples, the seed and the rows at once are set here.
        min_spans: fewest spans with the label, and without; half as many in the fitting half.
        n_random: norm-matched random directions; their mean is the kind `random`, and the first of them is decoded.
        n_problems, n_samples: of the free decoding.
        n_boot: draws over problems.
        seed: of all of these.

    Returns:
        Quantity "logprob" and those of `BEHAVIOUR`, of the kinds of `CONTENT`. Also "logodds_change" at strength 1 on the fitting half, by
        layer (the layer is the one where it is largest, the last one left out: there a vector IS a bias on logits; the unit of the logit
        bias is its value); "logprob_above_random", paired, and "p_random", the rank of the vector among the random directions. Labels
        that are not decoded have the log-probability at strengths 0 and 1 only.
    """
    labels = sorted({str(s) for onsets in (base, rl) for s in onsets.index["strategy"]})
    families, halves = dict.fromkeys(map(family, labels)), ("fitting", "held out")
    points = {(name, half): _points(lm, base, rollouts, name, fitting, half, seed) for name in families for half in halves}
    fits = {kind: _fitted(onsets, labels, fitting, max(1, min_spans // 2)) for kind, onsets in (("vector", base), ("rl_vector", rl))}
    rows: list[dict[str, Any]] = []
    plans: dict[str, Plan] = {}
    for label in labels:
        effects, plans[label] = _plan(label, tokens[label], points[family(label), "fitting"], fits, base.sites, n_random, n_boot, seed)
        rows += effects
    strategies = base.index["strategy"][base.index["strategy"].map(family) == ""].value_counts().index
    usual = [x for x in DECODED if x in plans]
    decoded = usual if any(plans[x].site for x in usual) else [x for x in strategies if plans[x].site][:3] or usual
    for label, plan in plans.items():
        rows += _logprobs(plan, points[family(label), "held out"], STRENGTHS if label in decoded else (0.0, 1.0), n_boot, seed)
    chosen = [p for p in problems if p.id not in set(fitting)][:n_problems]
    rows += _decoded(lm, [plans[x] for x in decoded], chosen, language, replace(sampling, n=n_samples, seed=seed, max_rows=min(2048, sampling.max_rows or 2048)), n_boot, seed)  # a slot for each row: the caches of more would be large
    return as_table(rows, "strength", "unit", "directions", "timing_source", "content_source")


def _dose_row(quantity: str, plan: Plan, kind: str, strength: float, estimate: Estimate, layer: int | None = None) -> dict[str, Any]:
    where = layer if layer is not None else plan.site.layer if plan.site else math.nan
    directions = len(plan.vectors.get(kind, [])) if quantity.startswith("log") else int(kind in plan.vectors)
    sources = {"timing_source": "none (every position)", "content_source": CONTENT[kind]}
    return row(quantity, plan.label, where, kind, estimate, strength=strength, unit=plan.unit(kind), directions=directions, **sources)


def _fitted(onsets: Activations, labels: list[str], fitting: list[str], at_least: int) -> tuple[dict[tuple[str, int], SteeringVector], dict[str, str]]:
    """Vectors of the fitting half by label and layer, and why others have none."""
    half = onsets.select(onsets.index["problem"].isin(fitting).to_numpy(bool))
    sides = contrast_table(half.index["strategy"])
    lacking = {x: few({"with": int((sides[x] == 1).sum()), "without": int((sides[x] == -1).sum())} if x in sides else {"with": 0}, at_least) for x in labels}
    if all(lacking.values()):
        return {}, lacking
    found = fit_onsets(half, control=False)
    lacking |= {x: found.skipped[x] for x in labels if not lacking[x] and x in found.skipped}
    return {(v.label, v.site.layer): v for v in found.vectors if not lacking[v.label]}, lacking


def _points(lm: "LM", base: Activations, rollouts: Rollouts, name: str, fitting: list[str], half: str, seed: int) -> Points | None:
    """Some choice points of a family in the base's traces; None where there are none."""
    index = base.index[(base.index["strategy"].map(family) == name) & (base.index["problem"].isin(fitting) == (half == "fitting"))]
    if index.empty:
        return None
    some = index.sample(frac=1, random_state=seed).groupby("problem").head(POINTS if name == "" else 1).sort_values("problem", kind="stable")
    traces = rollouts.table.iloc[some["row"]]
    prefixes = [[*map(int, p), *map(int, t[:start])] for p, t, start in zip(traces["prompt_ids"], traces["token_ids"], some["position"], strict=True)]
    return Points.of(lm, prefixes, torch.from_numpy(np.unique(some["problem"].to_numpy(str), return_inverse=True)[1]))


def _by_problem(values: Float[Tensor, "point"], points: Points) -> Float[np.ndarray, "problem"]:
    """Mean over each problem's points."""
    problem = points.problem.numpy()
    return np.asarray(np.bincount(problem, values.double().cpu().numpy()) / np.bincount(problem))


def _plan(label: str, token: int, points: Points | None, fits: dict[str, tuple[dict[tuple[str, int], SteeringVector], dict[str, str]]], sites: list[Site],
          n_random: int, n_boot: int, seed: int) -> tuple[list[dict[str, Any]], Plan]:  # fmt: skip
    """Choose the layer and the unit of the bias on the fitting half; the rows that they were chosen by."""
    lacking = {kind: why[label] for kind, (_, why) in fits.items() if why[label]}
    if points is None:
        lacking["vector"] = "the base opens nothing of this family in the fitting half"
    if points is None or "vector" in lacking:
        plan = Plan(label, token, lacking=dict.fromkeys(CONTENT, lacking["vector"]))
        return [_dose_row("logodds_change", plan, "vector", 1.0, undefined(lacking["vector"]))], plan
    before = logodds(points.logits(), token)
    candidates = {site: fits["vector"][0][label, site.layer] for site in (sites[:-1] or sites)}
    change = {s: mean_estimate(_by_problem(logodds(points.logits(s, v.vector), token) - before, points), n_boot=n_boot, seed=seed) for s, v in candidates.items()}
    site = max(change, key=lambda s: change[s].value)
    vector = candidates[site]
    vectors = {"vector": [vector.vector], "random": [vector.random_like(seed + i).vector for i in range(n_random)]}
    if "rl_vector" not in lacking:
        vectors["rl_vector"] = [fits["rl_vector"][0][label, site.layer].vector]
    plan = Plan(label, token, site, vectors, change[site].value, lacking)
    return [_dose_row("logodds_change", plan, "vector", 1.0, e, layer=s.layer) for s, e in change.items()], plan


def _logprobs(plan: Plan, points: Points | None, strengths: tuple[float, ...], n_boot: int, seed: int) -> list[dict[str, Any]]:
    """Log-probability of the label's token at held-out choice points under every dose."""
    rows: list[dict[str, Any]] = []
    at_one: dict[str, np.ndarray] = {}
    for kind in CONTENT:
        why = plan.lacking.get(kind, "") or ("" if points else "no choice points in the held-out half")
        for strength in strengths:
            if why or points is None:
                rows.append(_dose_row("logprob", plan, kind, strength, undefined(why)))
                continue
            values = np.stack([_by_problem(v, points) for v in _responses(plan, points, kind, strength)])
            at_one |= {kind: values} if strength == 1.0 else {}
            over = "problems and random directions" if kind == "random" else "problems"
            rows.append(_dose_row("logprob", plan, kind, strength, resampled(_replicates(values, n_boot, seed), values.shape[1], over)))
    if "vector" in at_one and points is not None:
        gap, n = at_one["vector"] - at_one["random"], at_one["random"].shape[1]
        stronger = int((at_one["random"].mean(1) >= at_one["vector"].mean()).sum())
        rows.append(_dose_row("logprob_above_random", plan, "vector", 1.0, resampled(_replicates(gap, n_boot, seed), n, "problems and random directions")))
        rows.append(_dose_row("p_random", plan, "vector", 1.0, p_value(stronger, len(gap), n, f"rank among {len(gap)} norm-matched random directions")))
    else:
        why = plan.lacking.get("vector", "") or "no choice points in the held-out half"
        rows += [_dose_row(quantity, plan, "vector", 1.0, undefined(why)) for quantity in ("logprob_above_random", "p_random")]
    return rows


def _responses(plan: Plan, points: Points, kind: str, strength: float) -> list[Float[Tensor, "point"]]:
    """Log-probability at each point, once for each direction."""
    if kind == "logit_bias":
        logits = points.logits().clone()
        logits[:, plan.token] += strength * plan.nats
        return [logprob(logits, plan.token)]
    if strength == 0:
        return [logprob(points.logits(), plan.token)] * len(plan.vectors[kind])
    return [logprob(points.logits(plan.site, strength * v), plan.token) for v in plan.vectors[kind]]


def _replicates(values: Float[np.ndarray, "direction problem"], n_boot: int, seed: int) -> Float[np.ndarray, "replicate"]:
    """Mean over directions and problems, then the same for resampled ones."""
    directions = replicate_weights(len(values), n_boot, seed + 1)
    return np.asarray(((directions @ values) * replicate_weights(values.shape[1], n_boot, seed)).sum(1))


def _decoded(lm: "LM", plans: list[Plan], problems: list[Problem], language: Language, sampling: Sampling, n_boot: int, seed: int) -> list[dict[str, Any]]:
    """Free decoding under every dose."""
    steered, biased = [], [Dose("base")]
    names: dict[tuple[str, str, float], str] = {}
    for plan, kind, strength in product(plans, CONTENT, STRENGTHS):
        if kind in plan.lacking or not problems:
            continue
        names[plan.label, kind, strength] = name = f"{plan.label} {kind} {strength:g}" if strength else "base"
        if strength and kind == "logit_bias":
            biased.append(Dose(name, token=plan.token, bias=strength * plan.nats))
        elif strength:
            steered.append(Dose(name, plan.site, strength * plan.vectors[kind][0]))
    tables = [sample(Doses(lm, doses), problems, sampling, progress=False).table for doses in (steered, biased) if doses and names]
    found = _behaviour(pd.concat(tables, ignore_index=True), [p.label for p in plans], language, n_boot, seed) if tables else {}
    why = "no held-out problems"
    rows = []
    for plan, kind, strength, quantity in product(plans, CONTENT, STRENGTHS, BEHAVIOUR):
        arm, column = names.get((plan.label, kind, strength)), plan.label if quantity == "frequency" else quantity
        rows.append(_dose_row(quantity, plan, kind, strength, found[arm, column] if arm else undefined(plan.lacking.get(kind, why))))
    return rows


def _behaviour(table: pd.DataFrame, labels: list[str], language: Language, n_boot: int, seed: int) -> dict[tuple[str, str], Estimate]:
    """(arm, quantity) -> estimate, where the frequency of a label is the quantity of its name."""
    table = table.sort_values(["arm", "problem", "sample"], ignore_index=True)
    spans = language.spans(Rollouts(table)).table
    counts = spans[spans["strategy"].isin(labels)].groupby(["arm", "problem", "sample", "strategy"]).size().unstack(fill_value=0)
    counts = counts.reindex(pd.MultiIndex.from_frame(table[["arm", "problem", "sample"]]), fill_value=0)
    grams = [len(t) - NGRAM + 1 for t in table["token_ids"]]
    distinct = [len({*zip(*(t[i:] for i in range(NGRAM)), strict=False)}) for t in (ids.tolist() for ids in table["token_ids"])]
    columns = {
        "accuracy": table["correct"], "truncated": table["finish"] == "length", "malformed": language.malformed(table["token_ids"].tolist()),
        **{label: counts[label] if label in counts else np.zeros(len(table)) for label in labels},
        "repeated": np.maximum(grams, 0) - np.array(distinct), "grams": np.maximum(grams, 0),
    }  # fmt: skip
    arms, shape = table["arm"].unique(), (table["arm"].nunique(), table["problem"].nunique(), -1)
    values = {name: np.asarray(column, dtype=np.float64).reshape(shape) for name, column in columns.items()}
    out = {}
    for i, arm in enumerate(arms):
        for name in ("accuracy", "truncated", "malformed", *labels):
            out[arm, name] = mean_estimate(values[name][i], n_boot=n_boot, seed=seed, share=name not in labels)
        out[arm, "repetition"] = pooled_ratio(values["repeated"][i].sum(1), values["grams"][i].sum(1), n_boot=n_boot, seed=seed)
    return out
