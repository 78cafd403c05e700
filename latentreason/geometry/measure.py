"""The model half of the study `geometry`: sample, read activations, and make its three tables."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from latentreason.activations.sites import Activations
from latentreason.geometry.cosines import cosine_table
from latentreason.geometry.decoders import Watched
from latentreason.geometry.doses import dose_table
from latentreason.geometry.probes import auroc_table
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.sampling.local import Sampling, sample
from latentreason.strategies.language import Language, opening_tokens
from latentreason.tables import Rollouts, concat
from latentreason.tasks.problem import Problem
from latentreason.vectors.contrast import capture_onsets, family

BINS = 10
"""Strata of position, at most: tenths of the choice points of both models."""


def measure(
    pair: ModelPair, problems: list[Problem], language: Language, sampling: Sampling = Sampling(), *, n_samples: int, min_spans: int, n_halves: int, n_shuffles: int, probe_shuffles: int,
    n_random: int, dose_problems: int, dose_samples: int, n_boot: int, seed: int,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """The tables "cosine", "auroc" and "dose"; see `cosine_table`, `auroc_table` and `dose_table`. `sampling` says how traces are drawn, but for their number."""
    bar = tqdm(total=4, desc="geometry", disable=None)
    drawn, twin = replace(sampling, n=n_samples, seed=seed), untrained(pair.base, seed)
    theirs = sample(pair.rl, problems, drawn.alone("rl"), progress=False)
    ids = dict(language.tokens)
    if not ids:  # shared noise: the same base traces are drawn again below, under watch
        both = concat([sample(replace(pair.base, name="base"), problems, drawn.alone("base"), progress=False), Rollouts(theirs.table.assign(arm="rl"))])
        ids = opening_tokens(both, language.spans(both))
    own = sample(Watched(pair.base, ids), problems, drawn.alone("base"), progress=False)
    base, rl, twin_base, twin_rl = _read(pair, twin, own, theirs, language)
    names = np.array(sorted(p.id for p in problems))
    fitting = np.random.default_rng(seed).permutation(names)[: len(names) // 2].tolist()
    bar.update()
    tables = {"cosine": cosine_table(base, rl, twin_base, twin_rl, min_spans=min_spans, n_halves=n_halves, n_shuffles=n_shuffles, n_boot=n_boot, seed=seed)}
    bar.update()
    tables["auroc"] = auroc_table(base, twin_base, fitting, min_spans=min_spans, n_shuffles=probe_shuffles, n_boot=n_boot, seed=seed)
    bar.update()
    doses: dict[str, Any] = {"n_random": n_random, "n_problems": dose_problems, "n_samples": dose_samples, "n_boot": n_boot}
    tables["dose"] = dose_table(pair.base, base, rl, own, problems, fitting, ids, language=language, sampling=sampling.alone("base"), min_spans=min_spans, seed=seed, **doses)
    bar.update()
    bar.close()
    return tables


def cosines(pair: ModelPair, base: Rollouts, rl: Rollouts, language: Language, *, seed: int = 0, **how: Any) -> pd.DataFrame:
    """The table "cosine" alone, from traces that are there already; see `cosine_table`.

    Args:
        pair: the two models.
        base, rl: each model's own traces, with tokens, on the same problems.
        language: of the task.
        seed: of halves, shuffles, bootstrap and the untrained twin.
        how: further arguments of `cosine_table`.
    """
    return cosine_table(*_read(pair, untrained(pair.base, seed), base, rl, language), seed=seed, **how)


def _read(pair: ModelPair, twin: LM, own: Rollouts, theirs: Rollouts, language: Language) -> tuple[Activations, Activations, Activations, Activations]:
    """Activations at the choice points: of base and RL model on their own traces, with strata, and of the twin on both sets."""
    base, rl, twin_base, twin_rl = (choices(lm, traces, language) for lm, traces in ((pair.base, own), (pair.rl, theirs), (twin, own), (twin, theirs)))
    edges = position_edges([base, rl])
    return with_strata(base, edges), with_strata(rl, edges), twin_base, twin_rl


def untrained(lm: LM, seed: int) -> LM:
    """The same architecture with fresh random weights; those that `new_model` of the organisms makes of the same seed."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(lm.model.config, dtype=lm.model.dtype)
    return LM(model.eval().to(lm.device), lm.tokenizer, "untrained", None, lm.n_vocab)


def choices(lm: LM, rollouts: Rollouts, language: Language) -> Activations:
    """Activations at the choice points of rollouts. The index gets `row` (of the rollouts), `format` of the trace, `absolute` (position in the
    sequence), `previous` (the token that is read) and every column `logprob:LABEL` of the rollouts.
    """
    onsets = capture_onsets(lm, rollouts, language.spans(rollouts))
    index, table = onsets.index, rollouts.table
    row = pd.MultiIndex.from_frame(table[["problem", "sample"]]).get_indexer(pd.MultiIndex.from_frame(index[["problem", "sample"]]))
    places = list(zip(row.tolist(), index["position"].tolist(), strict=True))
    prompts, completions = table["prompt_ids"].tolist(), table["token_ids"].tolist()
    opens = (index["strategy"].map(family) == "format").to_numpy(bool)
    opening = pd.Series(index["strategy"].to_numpy(object)[opens], index=row[opens])
    more: dict[str, Any] = {
        "row": row, "format": opening.reindex(row).fillna("").to_numpy(object), "absolute": [len(prompts[r]) + t for r, t in places],
        "previous": [int(completions[r][t - 1] if t else prompts[r][-1]) for r, t in places],
    }  # fmt: skip
    for name in (c for c in map(str, table) if c.startswith("logprob:")):
        values = table[name].tolist()
        more[name] = np.array([values[r][t] for r, t in places], dtype=np.float64)
    return Activations(onsets.values, index.assign(**more))


def position_edges(onsets: list[Activations]) -> np.ndarray:
    """Edges of the strata of position, from the choice points of all models together."""
    positions = np.concatenate([o.index["position"].to_numpy(float) for o in onsets])
    return np.unique(np.quantile(positions, np.arange(1, BINS) / BINS)) if len(positions) else np.empty(0)


def with_strata(onsets: Activations, edges: np.ndarray) -> Activations:
    """With the column `stratum`, within which labels are shuffled: format of the trace and position. The choice of a format has none."""
    index = onsets.index
    stratum = index["format"] + "@" + pd.Series(np.searchsorted(edges, index["position"], side="right"), index=index.index).astype(str)
    return Activations(onsets.values, index.assign(stratum=stratum.where(index["strategy"].map(family) == "", "")))
