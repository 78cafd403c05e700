"""`capture`: the activations behind the tokens of rollouts, read in teacher-forced batches.

Padding, positions and batching live here, once for all backends. The activation of completion token t is the one that predicts
it, so it stands at the token before. What is reduced is summed batch by batch and never held whole. Example::

    lr.capture(lm, rollouts, [Site(2)])                                           # every token
    lr.capture(lm, rollouts, [Site(2)], at=lr.tag(rollouts))                      # only the tokens that open a strategy
    lr.capture(lm, rollouts, [Site(2, "z")], at=lr.tag(rollouts), reduce="mean", by="strategy")
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentreason.activations.editing import chosen
from latentreason.activations.places import width
from latentreason.activations.sites import INDEX, Activations, Site, checked
from latentreason.errors import ContextTooLong, InvalidInput, NonFinite, UnsupportedSite, unknown_name
from latentreason.models.inference import inference
from latentreason.tables import Rollouts, Spans

if TYPE_CHECKING:
    from latentreason.models.language_model import LM

KEYS = ["arm", "problem", "sample"]
REDUCTIONS = ("mean", "last")


class _Rows(NamedTuple):
    """What is wanted: the tokens start[i]..end[i] of the completion of rollout[i], summed into the row into[i] of the result."""

    rollout: np.ndarray
    start: np.ndarray
    end: np.ndarray
    into: np.ndarray
    n_tokens: np.ndarray  # of each row of the result
    about: pd.DataFrame


class _Padded(NamedTuple):
    """A batch padded on the left; no mask where nothing is padded."""

    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"] | None
    positions: Int[Tensor, "batch pos"]


def capture(
    lm: "LM", rollouts: Rollouts, sites: Site | int | Sequence[Site | int], *, at: str | Spans | pd.DataFrame = "generated",
    reduce: str | None = None, by: str | Sequence[str] | None = None, backend: str = "hf", remote: bool = False,
    batch_tokens: int = 16_384, dtype: torch.dtype = torch.float32,
) -> Activations:  # fmt: skip
    """Read the model's activations while it reads prompts and completions. The model is left as it was.

    Args:
        lm: the model that reads; not necessarily the one that wrote.
        rollouts: with `prompt_ids` and `token_ids`.
        sites: where to read, a number being the residual stream after that block; the forward pass ends at the deepest.
        at: "generated" for every token of the completions; or spans (columns arm, problem, sample, start and, to reduce, end) for
            the token that opens each, in the order and with the further columns of that table.
        reduce: one row a rollout (those without tokens are left out), or one a span: "mean" over its tokens, with the first of them
            in the index, or its "last" token.
        by: with reduce="mean", columns of the spans (or, at="generated", of the rollouts): one row for each of their values, the mean
            over all tokens of all spans with it, each token counted once. The index holds the values, `n` spans or rollouts and `n_tokens`.
        backend: a key of `BACKENDS`.
        remote: with backend "nnsight", the model runs on NDIF; that of `lm` may then be on the device "meta", without weights.
        batch_tokens: tokens of a batch, padding included; bounds the memory, changes the speed.
        dtype: of the stored values; means are summed in fp32 at least, those of `by` in fp64.

    Raises:
        InvalidInput: a block that the model does not have, rollouts without tokens, or spans that do not fit them.
        UnsupportedSite: a site that the architecture or the backend does not have.
        UnknownName: no such backend, reduction or column.
        ContextTooLong: a prompt and its completion have more tokens than the model has positions.
        NonFinite: an activation is NaN or Inf.
    """
    used = chosen(backend, remote)
    if reduce is not None and reduce not in REDUCTIONS:
        raise unknown_name("reduction", reduce, REDUCTIONS)
    if by is not None and reduce != "mean":
        raise InvalidInput("`by` pools tokens into means: pass reduce='mean' with it.")
    sites = checked(sites, lm.n_layers, lm.name)
    widths = {site: width(lm, site) for site in sites}
    prompts, completions = _sequences(lm, rollouts)
    rows = _wanted(rollouts.table, completions, at, reduce)
    if by is not None:
        table, which = (rollouts.table, rows.rollout) if isinstance(at, str) else (rows.about, np.arange(len(rows.about)))
        rows = _pooled(rows, table, which, [by] if isinstance(by, str) else list(by))
    order = np.argsort(rows.rollout, kind="stable")
    bounds = np.searchsorted(rows.rollout[order], np.arange(len(prompts) + 1))
    before = np.array([len(p) for p in prompts], dtype=np.int64) - 1  # where the state that predicts a completion's first token stands
    needed = np.zeros(len(prompts), dtype=np.int64)  # a token beyond the last state that is read cannot change it
    np.maximum.at(needed, rows.rollout, before[rows.rollout] + rows.end)

    kept = dtype if reduce is None else torch.float64 if by is not None else torch.promote_types(dtype, torch.float32)
    device = torch.device("cpu") if lm.device.type == "meta" else lm.device  # meta: the weights are elsewhere, the ids are here
    # made outside inference mode, so that one can train on them; to be written once each, unless tokens are summed
    new = torch.empty if reduce is None else torch.zeros
    values = {site: new(len(rows.about), widths[site], dtype=kept) for site in sites}
    with inference(), _evaluating(lm):
        for batch in _batches(needed, batch_tokens):
            padded = _left_padded([np.concatenate([prompts[i], completions[i]])[: needed[i]] for i in batch], device)
            mine = np.concatenate([order[bounds[i] : bounds[i + 1]] for i in batch])
            line = np.repeat(np.arange(len(batch)), bounds[batch + 1] - bounds[batch])
            first = before[rows.rollout[mine]] + rows.start[mine] + padded.ids.shape[1] - needed[rows.rollout[mine]]
            wide = rows.end[mine] - rows.start[mine]
            column = np.repeat(first - np.cumsum(wide) + wide, wide) + np.arange(wide.sum())
            at_tokens = (torch.from_numpy(np.repeat(rows.into[mine], wide)), torch.from_numpy(np.repeat(line, wide) * padded.ids.shape[1] + column))

            shown: set[Site] = set()

            def see(site: Site, hidden: Tensor, at_tokens: tuple[Tensor, Tensor] = at_tokens, shown: set[Site] = shown) -> None:
                into, token = at_tokens
                shown.add(site)
                found = hidden.flatten(0, 1).index_select(0, token.to(hidden.device)).to("cpu", kept)  # eight times faster than hidden[line, column]
                if not torch.isfinite(found.sum(dtype=torch.float32)) and not torch.isfinite(found).all():  # the sum is 50 times faster
                    raise NonFinite(f"{lm.name!r} gives activations with NaN or Inf at {site}. Check its weights, or use a wider dtype.")
                if reduce is None:
                    values[site].index_copy_(0, into, found)
                else:
                    values[site].index_add_(0, into, found)

            used.read(lm, *padded, sites, see)
            if missed := sorted(set(sites) - shown):
                raise UnsupportedSite(f"The forward pass of {lm.name!r} never came by {', '.join(map(str, missed))}, so nothing was read there. Use another backend or site.")
    if reduce == "mean":
        count = torch.from_numpy(rows.n_tokens)[:, None]
        for site, total in values.items():  # in place, and one site at a time: no second copy of all of them
            values[site] = total.div_(count).to(dtype)
    return Activations({site: found.to(dtype) for site, found in values.items()}, rows.about)


def capture_prompts(
    lm: "LM", prompts: Sequence[Sequence[int] | Int[np.ndarray, "..."]], sites: Site | int | Sequence[Site | int], *, position: int = -1, **how: Any,
) -> dict[Site, Float[Tensor, "prompt width"]]:  # fmt: skip
    """Read the activation at one token of each prompt.

    Args:
        lm: the model that reads.
        prompts: token ids.
        sites: where to read.
        position: of the token, from the first (0, 1, ...) or from the last (-1, -2, ...); the activation there predicts the next one.
        how: further arguments of `capture`.

    Raises:
        InvalidInput: a prompt that has no token at the position; and the errors of `capture`.
    """
    ids = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
    ends = [position if position >= 0 else len(i) + position for i in ids]
    for number, (i, end) in enumerate(zip(ids, ends, strict=True)):
        if not 0 <= end < len(i):
            raise InvalidInput(f"Prompt {number} has {len(i)} tokens, none at position {position}. Leave it out, or read another position.")
    read = [i[: end + 1] for i, end in zip(ids, ends, strict=True)]
    nothing = [np.zeros(1, dtype=np.int64)] * len(ids)  # what the activation is asked to predict; never read
    table = pd.DataFrame({"arm": "", "problem": [str(i) for i in range(len(ids))], "sample": 0, "prompt_ids": read, "token_ids": nothing})
    return capture(lm, Rollouts(table), sites, **how).values


def _sequences(lm: "LM", rollouts: Rollouts) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Prompts and completions as token ids (those of the table, not copies), checked against the model."""
    if missing := {"prompt_ids", "token_ids"} - set(rollouts.table):
        raise InvalidInput(f"The rollouts lack {sorted(missing)}, without which nothing can be read. Pass them as sampled, before .slim().")
    prompts, completions = ([_ids(ids) for ids in rollouts.table[name]] for name in ("prompt_ids", "token_ids"))
    if any(len(p) == 0 for p in prompts):
        raise InvalidInput("A prompt is empty, so no activation predicts the first token; sample with prompts of at least one token.")
    longest = max((len(p) + len(c) for p, c in zip(prompts, completions, strict=True)), default=0)
    if lm.context is not None and longest - 1 > lm.context:  # the last token is never read
        raise ContextTooLong(
            f"{longest - 1} tokens would have to be read (prompt and completion, but for its last token), {lm.name!r} has {lm.context} positions. Leave out rollouts that long."
        )
    largest = max((int(ids.max()) for ids in [*prompts, *completions] if len(ids)), default=0)
    if largest >= lm.n_vocab:
        raise InvalidInput(
            f"The rollouts hold token id {largest}, {lm.name!r} has {lm.n_vocab} tokens. Were they sampled with another tokenizer?"
        )
    return prompts, completions


def _ids(ids: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(ids)
    return array if len(array) else array.astype(np.int64)  # an empty list would make floats of a sequence


def _wanted(table: pd.DataFrame, completions: list[np.ndarray], at: str | Spans | pd.DataFrame, reduce: str | None) -> _Rows:
    lengths = np.array([len(c) for c in completions], dtype=np.int64)
    more: pd.DataFrame | None = None
    if isinstance(at, str):
        if at != "generated":
            raise unknown_name("value of `at`", at, ["generated"])
        rollout = lengths.nonzero()[0] if reduce else np.repeat(np.arange(len(table)), lengths)
        start = np.zeros_like(rollout) if reduce else np.arange(len(rollout)) - (np.cumsum(lengths) - lengths)[rollout]
        end = lengths[rollout] if reduce else start + 1
    else:
        spans = at.table if isinstance(at, Spans) else at
        if lacking := {*KEYS, "start", *(["end"] if reduce else [])} - set(spans):
            raise InvalidInput(f"The spans lack the columns {sorted(lacking)}; make them with tag(rollouts).")
        keys = pd.MultiIndex.from_frame(table[KEYS])
        if not keys.is_unique:
            raise InvalidInput("Two rollouts have the same arm, problem and sample, so spans cannot tell them apart; rename an arm.")
        rollout = keys.get_indexer(pd.MultiIndex.from_frame(spans[KEYS])).astype(np.int64)
        start = spans["start"].to_numpy(np.int64)
        end = spans["end"].to_numpy(np.int64) if reduce else start + 1
        if (bad := (rollout < 0) | (start < 0) | (end <= start) | (end > lengths[rollout])).any():
            first = spans[bad].iloc[0].to_dict()
            raise InvalidInput(
                f"{bad.sum()} of {len(spans)} spans lie in no completion, the first is {first}. Tag the rollouts that you capture."
            )
        more = spans.drop(columns=[c for c in (*INDEX, "start") if c in spans]).reset_index(drop=True)
    if reduce == "last":
        start = end - 1
    every = isinstance(at, str) and not reduce
    token = np.concatenate([np.empty(0, np.int64), *completions]) if every else [int(completions[i][t]) for i, t in zip(rollout, start, strict=True)]
    index = table[KEYS].iloc[rollout].reset_index(drop=True).assign(position=start, token=np.asarray(token, dtype=np.int64))
    about = index if more is None else pd.concat([index, more], axis=1)
    return _Rows(rollout, start, end, np.arange(len(rollout)), end - start, about)


def _pooled(rows: _Rows, table: pd.DataFrame, which: np.ndarray, by: list[str]) -> _Rows:
    """The same tokens, summed by the values that columns of `table` have in its rows `which`."""
    for column in by:
        if column not in table:
            raise unknown_name("column", column, map(str, table))
        if table[column].isna().any():
            raise InvalidInput(f"The column {column!r} has missing values, so their tokens belong to no mean. Fill them, or leave those rows out.")
    own = table[by].iloc[which].reset_index(drop=True)
    into = own.groupby(by, observed=True).ngroup().to_numpy()
    about = own.iloc[np.unique(into, return_index=True)[1]].reset_index(drop=True)
    n_tokens = np.bincount(into, rows.end - rows.start, len(about)).astype(np.int64)
    return rows._replace(into=into, n_tokens=n_tokens, about=about.assign(n=np.bincount(into, minlength=len(about)), n_tokens=n_tokens))


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
