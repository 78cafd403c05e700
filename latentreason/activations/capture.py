"""`capture`: the activations behind the tokens of rollouts, read in teacher-forced batches.

Padding, positions and batching live here, once for all backends. The activation of completion token t is the one that predicts
it, so it stands at the token before. Example::

    lr.capture(lm, rollouts, [Site(2)])                          # every token
    lr.capture(lm, rollouts, [Site(2)], at=lr.tag(rollouts))     # only the tokens that open a strategy
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentreason.activations.editing import BACKENDS
from latentreason.activations.sites import INDEX, Activations, Site, checked
from latentreason.errors import ContextTooLong, InvalidInput, NonFinite, unknown_name
from latentreason.tables import Rollouts, Spans

if TYPE_CHECKING:
    from latentreason.models.language_model import LM

KEYS = ["arm", "problem", "sample"]


class _Rows(NamedTuple):
    """What is wanted: row r is about the tokens start[r]..end[r] of the completion of rollout[r]."""

    rollout: np.ndarray
    start: np.ndarray
    end: np.ndarray
    about: pd.DataFrame


class _States(NamedTuple):
    """Which states are read: that at `position` of sequence `sequence` is added to row `row`. Sorted by sequence."""

    row: np.ndarray
    sequence: np.ndarray
    position: np.ndarray


class _Padded(NamedTuple):
    """A batch padded on the left; no mask where nothing is padded."""

    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"] | None
    positions: Int[Tensor, "batch pos"]


def capture(
    lm: "LM", rollouts: Rollouts, sites: Site | int | Sequence[Site | int], *, at: str | Spans | pd.DataFrame = "generated",
    reduce: str | None = None, backend: str = "hf", batch_tokens: int = 16_384, dtype: torch.dtype = torch.float32,
) -> Activations:  # fmt: skip
    """Read the model's activations while it reads prompts and completions. The model is left as it was.

    Args:
        lm: the model that reads; not necessarily the one that wrote.
        rollouts: with `prompt_ids` and `token_ids`.
        sites: where to read, a number being the residual stream after that block; the forward pass ends at the deepest.
        at: "generated" for every token of the completions; or spans (columns arm, problem, sample, start and, to reduce, end) for
            the token that opens each, in the order and with the further columns of that table.
        reduce: "mean" gives one row a rollout (those without tokens are left out), or one a span: the mean over its tokens, with
            the first of them in the index.
        backend: a key of `BACKENDS`.
        batch_tokens: tokens of a batch, padding included; changes memory and speed.
        dtype: of the stored values; means are summed in fp32 at least.

    Raises:
        InvalidInput: a site that the model does not have, rollouts without tokens, or spans that do not fit them.
        UnknownName: no such backend or reduction.
        ContextTooLong: a prompt and its completion have more tokens than the model has positions.
        NonFinite: an activation is NaN or Inf.
    """
    if reduce not in (None, "mean"):
        raise unknown_name("reduction", reduce, ["mean"])
    prompts, completions = _sequences(lm, rollouts)
    rows = _wanted(rollouts.table, completions, at, mean=reduce == "mean")
    whole = [np.concatenate(parts) for parts in zip(prompts, completions, strict=True)]
    kept = torch.promote_types(dtype, torch.float32) if reduce else dtype
    values = _read(lm, whole, _expanded(rows, prompts), len(rows.about), sites, backend, batch_tokens, kept)
    if reduce:
        count = torch.from_numpy(rows.end - rows.start)[:, None]
        values = {site: (total / count).to(dtype) for site, total in values.items()}
    return Activations(values, rows.about)


def capture_prompts(
    lm: "LM", prompts: Sequence[Sequence[int] | Int[np.ndarray, "..."]], sites: Site | int | Sequence[Site | int], *, position: int = -1,
    backend: str = "hf", batch_tokens: int = 16_384, dtype: torch.dtype = torch.float32,
) -> dict[Site, Float[Tensor, "prompt d_model"]]:  # fmt: skip
    """Read the activation at one token of each prompt; further arguments and errors as `capture`.

    Args:
        lm: the model that reads.
        prompts: token ids.
        sites: where to read.
        position: of the token, from the first (0, 1, ...) or from the last (-1, -2, ...); the activation there predicts the next one.
        backend: a key of `BACKENDS`.
        batch_tokens: tokens of a batch, padding included.
        dtype: of the stored values.

    Raises:
        InvalidInput: a prompt that has no token at the position.
    """
    ids = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
    lengths = np.array([len(i) for i in ids], dtype=np.int64)
    places = np.full(len(ids), position) if position >= 0 else lengths + position
    for number in np.flatnonzero((places < 0) | (places >= lengths))[:1]:
        raise InvalidInput(
            f"Prompt {number} has {lengths[number]} tokens, none at position {position}. Leave it out, or read another position."
        )
    _check_ids(lm, ids, "A prompt has")
    each = np.arange(len(ids))
    return _read(lm, ids, _States(each, each, places), len(ids), sites, backend, batch_tokens, dtype)


def _read(
    lm: "LM", sequences: list[np.ndarray], states: _States, n_rows: int, sites: Site | int | Sequence[Site | int], backend: str,
    batch_tokens: int, kept: torch.dtype,
) -> dict[Site, Tensor]:  # fmt: skip
    """Sums of states by row, in teacher-forced batches."""
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    sites = checked(sites, lm.n_layers, lm.name)
    row, sequence, position = states
    needed = np.zeros(len(sequences), dtype=np.int64)  # a token beyond the last state that is read cannot change it
    np.maximum.at(needed, sequence, position + 1)

    # made outside inference mode, so that one can train on them
    values = {site: torch.zeros(n_rows, lm.d_model, dtype=kept) for site in sites}
    bounds = np.searchsorted(sequence, np.arange(len(sequences) + 1))
    with torch.inference_mode(), _evaluating(lm):
        for batch in _batches(needed, batch_tokens):
            padded = _left_padded([sequences[i][: needed[i]] for i in batch], lm.device)
            mine = np.concatenate([np.arange(bounds[i], bounds[i + 1]) for i in batch])
            into = torch.from_numpy(row[mine])
            line = torch.from_numpy(np.repeat(np.arange(len(batch)), bounds[batch + 1] - bounds[batch]))
            column = torch.from_numpy(position[mine] - needed[sequence[mine]]) + padded.ids.shape[1]

            def see(site: Site, hidden: Tensor, into: Tensor = into, line: Tensor = line, column: Tensor = column) -> None:
                found = hidden[line.to(hidden.device), column.to(hidden.device)].to("cpu", kept)
                if not torch.isfinite(found).all():
                    raise NonFinite(f"{lm.name!r} gives activations with NaN or Inf at {site}. Check its weights, or use a wider dtype.")
                values[site].index_add_(0, into, found)

            BACKENDS[backend].read(lm, *padded, sites, see)
    return values


def _sequences(lm: "LM", rollouts: Rollouts) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Prompts and completions as token ids, checked against the model."""
    if missing := {"prompt_ids", "token_ids"} - set(rollouts.table):
        raise InvalidInput(f"The rollouts lack {sorted(missing)}, without which nothing can be read. Pass them as sampled, before .slim().")
    prompts, completions = ([np.asarray(ids, dtype=np.int64) for ids in rollouts.table[name]] for name in ("prompt_ids", "token_ids"))
    if any(len(p) == 0 for p in prompts):
        raise InvalidInput("A prompt is empty, so no activation predicts the first token; sample with prompts of at least one token.")
    _check_ids(lm, [np.concatenate(parts) for parts in zip(prompts, completions, strict=True)], "Prompt and completion have")
    return prompts, completions


def _check_ids(lm: "LM", sequences: list[np.ndarray], who: str) -> None:
    longest = max(map(len, sequences), default=0)
    if lm.context is not None and longest > lm.context:
        raise ContextTooLong(f"{who} {longest} tokens, {lm.name!r} has {lm.context} positions. Leave out what is that long.")
    tokens = np.concatenate([*sequences, np.zeros(1, dtype=np.int64)])
    if (wrong := (tokens < 0) | (tokens >= lm.n_vocab)).any():
        raise InvalidInput(
            f"There is a token id {tokens[wrong][0]}, {lm.name!r} has {lm.n_vocab} tokens. Was it made with another tokenizer?"
        )


def _wanted(table: pd.DataFrame, completions: list[np.ndarray], at: str | Spans | pd.DataFrame, *, mean: bool) -> _Rows:
    lengths = np.array([len(c) for c in completions], dtype=np.int64)
    tokens, offsets = np.concatenate([*completions, np.empty(0, dtype=np.int64)]), np.cumsum(lengths) - lengths
    more: pd.DataFrame | None = None
    if isinstance(at, str):
        if at != "generated":
            raise unknown_name("value of `at`", at, ["generated"])
        rollout = lengths.nonzero()[0] if mean else np.repeat(np.arange(len(table)), lengths)
        start = np.zeros_like(rollout) if mean else np.arange(len(tokens)) - offsets[rollout]
        end = lengths[rollout] if mean else start + 1
    else:
        spans = at.table if isinstance(at, Spans) else at
        if lacking := {*KEYS, "start", *(["end"] if mean else [])} - set(spans):
            raise InvalidInput(f"The spans lack the columns {sorted(lacking)}; make them with tag(rollouts).")
        keys = pd.MultiIndex.from_frame(table[KEYS])
        if not keys.is_unique:
            raise InvalidInput("Two rollouts have the same arm, problem and sample, so spans cannot tell them apart; rename an arm.")
        rollout = keys.get_indexer(pd.MultiIndex.from_frame(spans[KEYS])).astype(np.int64)
        start = spans["start"].to_numpy(np.int64)
        end = spans["end"].to_numpy(np.int64) if mean else start + 1
        if (bad := (rollout < 0) | (start < 0) | (end <= start) | (end > lengths[rollout])).any():
            first = spans[bad].iloc[0].to_dict()
            raise InvalidInput(
                f"{bad.sum()} of {len(spans)} spans lie in no completion, the first is {first}. Tag the rollouts that you capture."
            )
        more = spans.drop(columns=[c for c in (*INDEX, "start") if c in spans]).reset_index(drop=True)
    index = table[KEYS].iloc[rollout].reset_index(drop=True).assign(position=start, token=tokens[offsets[rollout] + start])
    return _Rows(rollout, start, end, index if more is None else pd.concat([index, more], axis=1))


def _expanded(rows: _Rows, prompts: list[np.ndarray]) -> _States:
    """The states behind the rows; positions are in prompt and completion."""
    order = np.argsort(rows.rollout, kind="stable")
    width = (rows.end - rows.start)[order]
    row = np.repeat(order, width)
    within = np.arange(len(row)) - np.repeat(np.cumsum(width) - width, width)
    before = np.array([len(p) for p in prompts], dtype=np.int64) - 1
    return _States(row, rows.rollout[row], before[rows.rollout[row]] + rows.start[row] + within)


def _batches(needed: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Sequences of which something is needed, shortest first, as many at once as fit the budget; at least one."""
    order = np.argsort(needed, kind="stable")
    order = order[needed[order] > 0]
    start = 0
    while start < len(order):
        padded = needed[order[start:]] * np.arange(1, len(order) - start + 1)
        end = start + max(1, int(np.searchsorted(padded, batch_tokens, side="right")))
        yield order[start:end]
        start = end


def _left_padded(sequences: list[np.ndarray], device: torch.device) -> _Padded:
    longest = max(map(len, sequences))
    pad = torch.tensor([longest - len(s) for s in sequences])[:, None]
    ids = torch.from_numpy(np.stack([np.pad(s, (longest - len(s), 0)) for s in sequences]))
    positions = torch.arange(longest)[None] - pad
    mask = (positions >= 0).long().to(device) if bool(pad.any()) else None
    return _Padded(ids.to(device), mask, positions.clamp_min(0).to(device))


@contextmanager
def _evaluating(lm: "LM") -> Iterator[None]:
    """Dropout off; each module gets back the mode that it had."""
    training = [module for module in lm.model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
