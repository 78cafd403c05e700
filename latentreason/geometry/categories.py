"""The model half of the study `taxonomy`: categories found without labels, counted against the labels that `tag` gives, on held-out problems; and the same of controls."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from latentreason.activations.sites import Activations, Site
from latentreason.errors import InvalidInput
from latentreason.geometry.measure import untrained
from latentreason.models.pair import ModelPair
from latentreason.sampling.local import Sampling, sample
from latentreason.strategies.language import Language
from latentreason.tables import Rollouts, Spans
from latentreason.tasks import chain
from latentreason.tasks.problem import Problem
from latentreason.vectors.discovery import METHODS, discover
from latentreason.vectors.taxonomy import capture_spans

RARE = 0.005
"""A strategy with a smaller share of the spans does not count as one that is there to be found; its spans stay."""

SCORES = ("arm", "kind", "target", "layer", "by", "split", "asked", "n_true", "n", "n_problems", "completeness", "consistency", "independence", "score", "chosen")
"""Columns of the table of scores."""

NOWHERE = Site(0)
"""Where features that are no activations are kept."""


def targets(labels: np.ndarray, language: Language) -> dict[str, np.ndarray]:
    """Which spans are judged: all that have a tag, and, where a grammar says which those are, the steps alone (no format, no answer)."""
    every = np.ones(len(labels), dtype=bool)
    return {"tags": every, "steps": np.isin(labels, chain.STRATEGIES)} if language.exact else {"tags": every}


def depths(n_layers: int) -> list[int]:
    """All of a few layers; of many, those at a tenth, a quarter, three eighths, a half and three quarters."""
    return list(range(n_layers)) if n_layers <= 8 else sorted({round(share * n_layers) for share in (0.1, 0.25, 0.37, 0.5, 0.75)})


def measure_categories(
    pair: ModelPair, problems: list[Problem], language: Language, sampling: Sampling = Sampling(), *, seeds: Sequence[int], among: Sequence[int], methods: Sequence[str] = tuple(METHODS),
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Each method at each layer of both models, on their own traces.

    With as many categories as there are strategies (`asked` "true"): on the model for each seed; for the first seed on three controls: an untrained twin that
    reads the same traces, the words of the span (how often each token that is read occurs), and the token and the position just before the span. With the number
    chosen without labels (`asked` "chosen"): on the model for the first seed, at the layer with the best scores.

    Returns:
        Counts: a row for each strategy and category of the held-out spans; where nothing could be found, one row with the reason. Scores: a row for
        each number of categories tried.
    """
    counts, scores = list[dict[str, Any]](), list[dict[str, Any]]()
    twin, layers = untrained(pair.base, seeds[0]), depths(pair.base.n_layers)
    for arm, lm in (("base", pair.base), ("rl", pair.rl)):
        own = sample(replace(lm, name=arm), problems, sampling.alone(arm), progress=False)
        spans = language.spans(own)
        if not len(spans):
            counts += [_none({"arm": arm, "kind": "model", "target": "tags", "layer": 0, "by": method, "split": seeds[0], "asked": "true", "n_true": 0}, "no spans in these traces") for method in methods]
            continue
        seen = {"model": capture_spans(lm, own, spans, layers=layers), "untrained": capture_spans(twin, own, spans, layers=layers)}
        seen |= {"words": _words(own, spans, seen["model"].index), "token_position": _before(own, spans, seen["model"].index)}
        wanted = targets(seen["model"].index["strategy"].to_numpy(str), language)
        for (target, mask), method in tqdm(list(product(wanted.items(), methods)), desc=f"taxonomy, {arm}", disable=None):
            judged = dict[Site, list[float]]()
            for kind, activations in seen.items():
                part = activations.select(mask)
                for site, seed in product(part.sites, seeds if kind == "model" else seeds[:1]):
                    about = {"arm": arm, "kind": kind, "target": target, "layer": site.layer if kind in ("model", "untrained") else -1, "by": method}
                    found = _counted(part, site, about, seed, None)
                    counts += found[0]
                    scores += found[1]
                    if kind == "model":
                        judged.setdefault(site, []).extend(row["score"] for row in found[1])
            best = max(judged, key=lambda site: float(np.mean(judged[site] or [0.0])))
            found = _counted(seen["model"].select(mask), best, {"arm": arm, "kind": "model", "target": target, "layer": best.layer, "by": method}, seeds[0], among)
            counts += found[0]
            scores += found[1]
    return pd.DataFrame(counts), pd.DataFrame(scores, columns=list(SCORES))


def _none(about: dict[str, Any], reason: str) -> dict[str, Any]:
    """The row that says why there are no counts."""
    return {"n": 0, **about, "n_problems": 0, "strategy": "", "category": "", "title": "", "count": 0, "reason": reason}


def _counted(
    spans: Activations, site: Site, about: dict[str, Any], seed: int, among: Sequence[int] | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both tables of one fit: with the true number of categories, or the best `among` some."""
    labels = spans.index["strategy"].to_numpy(str)
    names, sizes = np.unique(labels, return_counts=True)
    n = max(2, int((sizes >= RARE * len(labels)).sum())) if among is None else None
    about = {**about, "split": seed, "asked": "true" if among is None else "chosen", "n_true": len(names)}
    try:
        found = discover(spans, site=site, method=about["by"], n=n, among=among or (), seed=seed)
    except InvalidInput as error:
        return [_none({**about, "n": n or 0}, str(error))], []
    held = spans.index["problem"].isin(found.info["held_out"]).to_numpy(bool)
    table = pd.DataFrame({"strategy": labels[held], "category": found.label(spans)[held]})
    about |= {"n": len(found), "n_problems": int(spans.index["problem"][held].nunique())}
    titles = dict(zip(found.table["category"], found.table["title"], strict=True))
    sizes_of = table.groupby(["strategy", "category"], as_index=False).size().to_dict("records")
    counts = [{**about, "strategy": r["strategy"], "category": r["category"], "title": titles[r["category"]], "count": int(r["size"]), "reason": ""} for r in sizes_of]
    return counts, [{**about, **row} for row in found.scores.drop(columns=["n_problems", "n_held_out"]).to_dict("records")]


def _words(rollouts: Rollouts, spans: Spans, index: pd.DataFrame) -> Activations:
    """Share of each token among those that are read, from the one before the span to its last."""
    read = [ids[start : end + 1] for ids, start, end in _sequences(rollouts, spans)]
    known, place = np.unique(np.concatenate(read), return_inverse=True)
    values = np.zeros((len(read), len(known)))
    row = np.repeat(np.arange(len(read)), [len(ids) for ids in read])
    np.add.at(values, (row, place), 1.0)
    return Activations({NOWHERE: torch.from_numpy(values / values.sum(1, keepdims=True))}, index)


def _before(rollouts: Rollouts, spans: Spans, index: pd.DataFrame) -> Activations:
    """The token that is read when the span opens, and the position in the completion, in tenths of the spans: one of each."""
    tokens = [ids[start] for ids, start, _ in _sequences(rollouts, spans)]
    position = spans.table["start"].to_numpy(float)
    tenth = np.searchsorted(np.unique(np.quantile(position, np.arange(1, 10) / 10)), position, side="right")
    values = np.hstack([(np.asarray(column)[:, None] == np.unique(column)[None]).astype(float) for column in (tokens, tenth)])
    return Activations({NOWHERE: torch.from_numpy(values)}, index)


def _sequences(rollouts: Rollouts, spans: Spans) -> list[tuple[np.ndarray, int, int]]:
    """For each span: prompt's last token and completion, where the token before the span stands in it, and where its last does."""
    keys = ["arm", "problem", "sample"]
    table = rollouts.table
    row = pd.MultiIndex.from_frame(table[keys]).get_indexer(pd.MultiIndex.from_frame(spans.table[keys]))
    whole = [np.concatenate([np.asarray(prompt)[-1:], np.asarray(ids)]) for prompt, ids in zip(table["prompt_ids"], table["token_ids"], strict=True)]
    return [(whole[r], start, end) for r, start, end in zip(row, spans.table["start"].tolist(), spans.table["end"].tolist(), strict=True)]
