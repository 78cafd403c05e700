"""Steering vectors trained by gradient: what has to be added to the base model, at the places where the RL model says something else, so that it says the same.

Loss: cross-entropy (nats) of the RL model's token, teacher-forced on its own completions, meaned within each category and then over categories, with the
vector of the place's category added to the output of one block. The base model's weights are frozen. Venhoff et al. 2025 (arXiv 2510.07364), last
generation; with `strength="learned"` also its coefficient network alpha(h, category).

These vectors are fitted to the RL model's tokens: supervision ("RL-fitted" in every table), never evidence of what the base model had before. All places of a
completion are steered in one forward pass, so a place also feels the vectors before it, which decoding (cache unsteered) does not. Example::

    always = lr.sample(lr.Hybrid(pair, lr.always()), problems)
    fitted = fit_optimised(pair.base, always, disagreements(always).assign(strategy="bias"), layer=2)
    fitted.vectors.for_label("bias"), fitted.table
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers.cache_utils import DynamicCache

from latentreason.activations.sites import Site, checked
from latentreason.errors import InvalidInput
from latentreason.models.blocks import blocks, hidden_of
from latentreason.models.cache import WORTH_SHARING, common_prefix
from latentreason.models.inference import fast_linear
from latentreason.tables import Rollouts
from latentreason.vectors.contrast import model_info
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

if TYPE_CHECKING:
    from latentreason.models.language_model import LM

KEYS = ["arm", "problem", "sample"]
PARTS = ("train", "select", "report")
HIDDEN, NET_LR = 64, 1e-3
"""Width of the coefficient network, and its learning rate."""


@dataclass(frozen=True, eq=False)
class Strength:
    """A coefficient network: alpha(h, category) = softplus(w_category . gelu(W h + b) + b_category), in units of the vector.

    Attributes:
        site: where h is read, in the base model, before anything is added.
        labels: the categories.
        tensors: W [hidden, d_model], b [hidden], w [label, hidden], c [label].
    """

    site: Site
    labels: tuple[str, ...]
    tensors: tuple[Tensor, Tensor, Tensor, Tensor]

    def __call__(self, hidden: Float[Tensor, "row d_model"], label: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Alpha for rows of the residual stream and the number of each row's category."""
        return _alpha([t.to(hidden.device) for t in self.tensors], hidden, label)


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit_optimised` found.

    Attributes:
        vectors: one a category; of the best seed by the split `select`.
        strength: the coefficient network; None where the strength is 1.
        table: seed, epochs (until the best one), cross-entropy on each split (nats, meaned over categories) by `train`, `select`, `report`, and `chosen`.
            Row -1 is the base model with nothing added. Chosen seed's `report` minus the mean `report` of all seeds, beside the same
            difference on `select`, is the optimism of having chosen.
    """

    vectors: VectorSet
    strength: Strength | None
    table: pd.DataFrame

    @property
    def optimism(self) -> float:
        """By how many nats the choice of the seed looks better on the split that it was made on than on the one that had no part in it."""
        runs = self.table[self.table["seed"] >= 0]
        gain = {part: float(runs[part].mean() - runs.loc[runs["chosen"], part].iloc[0]) for part in PARTS}
        return gain["select"] - gain["report"]


def disagreements(rollouts: Rollouts) -> pd.DataFrame:
    """Tokens of always-RL rollouts that the base model would not have emitted: arm, problem, sample, start.

    Raises:
        InvalidInput: rollouts without `changed`, such as those of a model alone.
    """
    if "changed" not in rollouts.table:
        raise InvalidInput("Only a Hybrid knows what its base model would have said: sample Hybrid(pair, always()) with keep_tokens=True.")
    rows = rollouts.table[KEYS].loc[rollouts.table.index.repeat(rollouts.table["changed"].map(np.sum).astype(int))].reset_index(drop=True)
    starts = [np.flatnonzero(c) for c in rollouts.table["changed"]]
    return rows.assign(start=np.concatenate([np.empty(0, np.int64), *starts]).astype(np.int64))


def fit_optimised(
    lm: "LM", rollouts: Rollouts, at: pd.DataFrame, *, layer: int, strength: str = "one", bias: SteeringVector | None = None, seeds: Sequence[int] = (0, 1, 2), epochs: int = 10,
    patience: int = 3, lr: float = 0.05, batch: int = 32, most: int = 64,
) -> Fitted:  # fmt: skip
    """Train one vector for each strategy of `at`.

    Args:
        lm: the base model; left as it is.
        rollouts: of the RL model, with `prompt_ids` and `token_ids`.
        at: the places, columns arm, problem, sample, start (of the token to be said) and strategy (the category).
        layer: block to whose output the vector is added.
        strength: "one", or "learned" for a coefficient network.
        bias: a vector that is added too and stays as it is: fit one category "bias" first, then what it leaves over (the bias-first recipe). What is
            returned are the sums.
        seeds: of the initial vectors and of the order; the best on the split `select` is returned.
        epochs, patience: at most, and how many without a better `select` until it stops.
        lr: of AdamW for vectors, as a share of the root mean square of the activations at the places: a vector has to grow to their size, which differs a
            hundredfold between models. The coefficient network has a rate of its own, `NET_LR`. Gradients are clipped at norm 1.
        batch: completions a step.
        most: places of a completion at most, the first ones.

    Raises:
        InvalidInput: no places, places outside the completions, a strategy in one split only, or an unknown strength.
    """
    checked([layer], lm.n_layers, lm.name)
    if strength not in ("one", "learned"):
        raise InvalidInput(f"strength={strength!r}: give 'one', or 'learned' for a coefficient network.")
    rows = _rows(rollouts, at, most)
    labels = tuple(sorted(at["strategy"].astype(str).unique()))
    split = _split([r.problem for r in rows])
    for part in PARTS:
        if missing := set(range(len(labels))) - {c for r, s in zip(rows, split, strict=True) if s == part for c in r.label}:
            raise InvalidInput(f"No place of {[labels[i] for i in sorted(missing)]} is in the split {part!r} (60, 20, 20% of the problems): give more rollouts, or leave the category out.")
    held = None if bias is None else bias.vector.to(lm.device)
    read = _read(lm, layer, held, len(labels), rows)
    plain = {part: _loss(read, [r for r, s in zip(rows, split, strict=True) if s == part], None, None, batch) for part in PARTS}
    train = [r for r, s in zip(rows, split, strict=True) if s == "train"]
    size = _size(lm, train[:: max(1, len(train) // batch)], layer)  # rows are in the order of their lengths: some of every length
    found: list[dict[str, Any]] = [{"seed": -1, "epochs": 0, **plain, "chosen": False}]
    runs = []
    for seed in seeds:
        table, net, record = _trained(read, rows, split, strength, seed, epochs, patience, lr, size, batch)
        runs.append((table, net))
        found.append({"seed": seed, **record, "chosen": False})
    best = min(range(len(runs)), key=lambda i: found[i + 1]["select"])
    found[best + 1]["chosen"] = True
    table, net = runs[best]
    count = {label: int((at["strategy"].astype(str) == label).sum()) for label in labels}
    info = {"method": "optimised", "strength": strength, "content_source": "RL-fitted vector", "seed": seeds[best], "loss": found[best + 1]["report"], "loss_plain": plain["report"]}
    total = table if held is None else table + held
    vectors = VectorSet(tuple(SteeringVector.of(Site(layer), total[i].cpu(), label, count[label], **info) for i, label in enumerate(labels)), {"method": "optimised", **model_info(lm)})
    learned = None if net is None else Strength(Site(layer), labels, (net[0].cpu(), net[1].cpu(), net[2].cpu(), net[3].cpu()))
    return Fitted(vectors, learned, pd.DataFrame(found))


@dataclass(frozen=True, eq=False)
class _Row:
    """A completion and its places: `place[i]` predicts `target[i]`, of category `label[i]`."""

    problem: str
    ids: np.ndarray
    place: np.ndarray
    target: np.ndarray
    label: np.ndarray


@dataclass(frozen=True, eq=False)
class _Reading:
    """What every batch is read by: the base model, the block that is steered, a vector that is added as it is, the number of categories; and keys and values of
    the first `begun` tokens, where all completions begin alike (a few-shot prompt) before their first place: nothing is ever added there.
    """

    lm: "LM"
    layer: int
    held: Tensor | None
    n: int
    begun: int
    kept: list[tuple[Tensor, Tensor]]

    def cache(self, n: int) -> DynamicCache:
        """A cache of its own for n completions."""
        cache = DynamicCache()
        for i, (keys, values) in enumerate(self.kept):
            cache.update(keys.expand(n, -1, -1, -1), values.expand(n, -1, -1, -1), i)
        return cache


@torch.no_grad()
@fast_linear()
def _read(lm: "LM", layer: int, held: Tensor | None, n: int, rows: list[_Row]) -> _Reading:
    begun = min(common_prefix([r.ids.tolist() for r in rows]), *(int(r.place.min()) for r in rows))
    if begun < WORTH_SHARING:
        return _Reading(lm, layer, held, n, 0, [])
    first = torch.from_numpy(rows[0].ids[None, :begun]).to(lm.device)
    cache = lm.model(input_ids=first, past_key_values=DynamicCache(), use_cache=True).past_key_values
    return _Reading(lm, layer, held, n, begun, [(part.keys, part.values) for part in cache.layers])


def _rows(rollouts: Rollouts, at: pd.DataFrame, most: int) -> list[_Row]:
    if missing := {*KEYS, "start", "strategy"} - set(at):
        raise InvalidInput(f"The places lack the columns {sorted(missing)}; make them with disagreements(rollouts) and add their strategy.")
    if at.empty:
        raise InvalidInput("There is no place to train on: the two models agree everywhere, or the rollouts are too few.")
    codes = pd.Categorical(at["strategy"].astype(str), categories=sorted(at["strategy"].astype(str).unique())).codes
    groups = {key: (part["start"].to_numpy()[:most], part["_code"].to_numpy()[:most]) for key, part in at.assign(_code=codes).sort_values("start").groupby(KEYS, sort=False)}
    rows = []
    for arm, problem, sample, prompt, said in zip(*(rollouts.table[name] for name in (*KEYS, "prompt_ids", "token_ids")), strict=True):
        if (key := (arm, problem, sample)) in groups:
            start, label = groups.pop(key)
            ids = np.concatenate([prompt, said]).astype(np.int64)
            if start.min() < 0 or start.max() >= len(said):
                raise InvalidInput(f"A place of {key} lies outside its completion of {len(said)} tokens.")
            place = start + len(prompt) - 1
            rows.append(_Row(problem, ids[:-1], place, ids[place + 1], label))
    if groups:
        raise InvalidInput(f"{len(groups)} completions with places are not among the rollouts, the first is {next(iter(groups))}.")
    return sorted(rows, key=lambda r: len(r.ids))


def _split(problems: Sequence[str]) -> list[str]:
    """Of each row: 60% of the problems to train on, 20% to stop and choose by, 20% to report."""
    names = np.random.default_rng(0).permutation(sorted(set(problems)))
    bounds = np.linspace(0, len(names), 6).round().astype(int)
    part = {name: "train" if i < bounds[3] else "select" if i < bounds[4] else "report" for i, name in enumerate(names)}
    return [part[p] for p in problems]


def _trained(
    read: _Reading, rows: list[_Row], split: list[str], strength: str, seed: int, epochs: int, patience: int, lr: float, size: float, batch: int,
) -> tuple[Tensor, list[Tensor] | None, dict[str, Any]]:  # fmt: skip
    """One seed: vectors, coefficient network, and the losses at its best epoch."""
    parts = {part: [r for r, s in zip(rows, split, strict=True) if s == part] for part in PARTS}
    lm, n = read.lm, read.n
    generator = torch.Generator().manual_seed(seed)

    def start(*shape: int, std: float) -> Tensor:
        return (torch.randn(*shape, generator=generator) * std).to(lm.device).requires_grad_()

    table = start(n, lm.d_model, std=0.01 * size)
    net = [start(HIDDEN, lm.d_model, std=lm.d_model**-0.5), start(HIDDEN, std=0.0), start(n, HIDDEN, std=0.01), start(n, std=0.0)] if strength == "learned" else None
    if net is not None:
        net[3].data += 0.5
    optimizer = torch.optim.AdamW([{"params": [table], "lr": lr * size}, *([{"params": net, "lr": NET_LR}] if net is not None else [])], weight_decay=0.01)
    weights = [table, *(net or [])]
    best: tuple[float, int, list[Tensor]] = (float("inf"), 0, [])
    rng = np.random.default_rng(seed)
    for epoch in range(1, epochs + 1):
        chunks = [parts["train"][i : i + batch] for i in range(0, len(parts["train"]), batch)]
        for i in rng.permutation(len(chunks)):
            loss = _mean(*_sums(read, chunks[i], table, net))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
        now = _loss(read, parts["select"], table, net, batch)
        if now < best[0]:
            best = (now, epoch, [w.detach().clone() for w in weights])
        elif epoch - best[1] >= patience:
            break
    if not best[2]:
        raise InvalidInput("The loss is NaN from the first epoch on: lower lr.")
    table, net = best[2][0], best[2][1:] or None
    return table, net, {"epochs": best[1], **{part: _loss(read, parts[part], table, net, batch) for part in PARTS}}


@torch.no_grad()
def _loss(read: _Reading, rows: list[_Row], table: Tensor | None, net: list[Tensor] | None, batch: int) -> float:
    sums = [_sums(read, rows[i : i + batch], table, net) for i in range(0, len(rows), batch)]
    return float(_mean(torch.stack([s for s, _ in sums]).sum(0), torch.stack([c for _, c in sums]).sum(0)))


def _mean(total: Float[Tensor, "label"], count: Float[Tensor, "label"]) -> Float[Tensor, ""]:
    """Mean within each category, then over those that occur."""
    return (total / count.clamp_min(1)).sum() / (count > 0).sum()


@torch.no_grad()
@fast_linear()
def _size(lm: "LM", rows: list[_Row], layer: int) -> float:
    """Root mean square of a coordinate of the activations at the places."""
    found: list[Tensor] = []
    hook = blocks(lm)[layer].register_forward_hook(lambda module, args, output: found.append(hidden_of(output).float()))
    try:
        for row in rows:
            lm.model(input_ids=torch.from_numpy(row.ids)[None].to(lm.device), use_cache=False)
    finally:
        hook.remove()
    return float(torch.cat([hidden[0, row.place] for hidden, row in zip(found, rows, strict=True)]).square().mean().sqrt())


def _sums(read: _Reading, rows: list[_Row], table: Tensor | None, net: list[Tensor] | None) -> tuple[Float[Tensor, "label"], Float[Tensor, "label"]]:
    """Cross-entropy summed by category, and places counted; padding on the right, which causal attention never sees."""
    lm, begun = read.lm, read.begun
    longest = max(len(r.ids) for r in rows)
    ids = torch.from_numpy(np.stack([np.pad(r.ids, (0, longest - len(r.ids))) for r in rows])[:, begun:]).to(lm.device)
    line = torch.from_numpy(np.repeat(np.arange(len(rows)), [len(r.place) for r in rows])).to(lm.device)
    place, target, label = (torch.from_numpy(np.concatenate([getattr(r, name) for r in rows]).astype(np.int64)).to(lm.device) for name in ("place", "target", "label"))
    place = place - begun

    def steer(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        shift = torch.zeros(len(place), hidden.shape[-1], device=hidden.device) if read.held is None else read.held.expand(len(place), -1)
        if table is not None:
            own = table[label]
            shift = shift + (own if net is None else own * _alpha(net, hidden[line, place].detach().float(), label)[:, None])
        changed = hidden.index_put((line, place), shift.to(hidden), accumulate=True)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    hook = blocks(lm)[read.layer].register_forward_hook(steer)
    try:
        with _frozen(lm.model), fast_linear():
            after = {"past_key_values": read.cache(len(rows)), "use_cache": True} if begun else {"use_cache": False}
            logits = lm.model(input_ids=ids, **after).logits[line, place, : lm.n_vocab].float()
    finally:
        hook.remove()
    each = functional.cross_entropy(logits, target, reduction="none")
    return torch.zeros(read.n, device=each.device).index_add(0, label, each), torch.bincount(label, minlength=read.n).float()


def _alpha(net: Sequence[Tensor], hidden: Float[Tensor, "row d_model"], label: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
    first, first_bias, last, last_bias = net
    return functional.softplus((functional.gelu(hidden @ first.T + first_bias) * last[label]).sum(-1) + last_bias[label])


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No weight of the model gets a gradient; dropout off. Each flag is put back."""
    flags = [(w, w.requires_grad) for w in model.parameters()]
    modes = [(m, m.training) for m in model.modules()]
    try:
        for w, _ in flags:
            w.requires_grad_(False)
        for m, _ in modes:
            m.training = False
        yield
    finally:
        for w, flag in flags:
            w.requires_grad_(flag)
        for m, mode in modes:
            m.training = mode
