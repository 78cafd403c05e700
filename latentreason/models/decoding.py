"""Batched decoding of one or more models over one set of prefixes, each distinct prefix computed once.

Many samples of a problem share a prefix: all of them at first, and with shared noise also the same sample under two
routers. So the key-value caches hold one SLOT a distinct prefix, and rows (samples) point at slots. A step extends the
slots by the tokens that rows chose: the first child of a prefix inherits its slot, further children get a copy. Rows that
have finished drop out, and with them the slots that nobody points at.

The engine knows token ids only: no text, no problems, no routers. What is emitted is decided by a `Choose`.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from latentreason.errors import ContextTooLong, InvalidInput, NonFinite
from latentreason.models.blocks import blocks, hidden_of

if TYPE_CHECKING:
    from latentreason.models.language_model import LM

Noise = Callable[[Int[Tensor, "row"], Int[Tensor, "row"], int], Float[Tensor, "row vocab"]]  # (keys, absolute positions, size of the vocabulary) -> Gumbel noise


@dataclass(frozen=True)
class Batch:
    """What is to be decoded.

    Attributes:
        prompts: token ids, one list a problem.
        problem: index into `prompts` of each row (sample).
        keys: 64-bit noise key of each row, a function of run seed, problem and sample.
        temperature: 0 is greedy.
        top_p: nucleus; 1 keeps all tokens.
        max_new_tokens: length limit of a completion.
        noise: Gumbel noise of (keys, absolute positions).
        stop: token ids that end a completion, besides each model's end-of-text.
    """

    prompts: list[list[int]]
    problem: Int[Tensor, "row"]
    keys: Int[Tensor, "row"]
    temperature: float
    top_p: float
    max_new_tokens: int
    noise: Noise
    stop: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Moment:
    """One step of the decoding, for the rows still alive: what a `Choose` sees.

    `logits[m]` are model m's next-token logits by SLOT; `slot` maps a row to its slot, `row` to its index in the batch.
    """

    t: int
    logits: list[Float[Tensor, "slot vocab"]]
    slot: Int[Tensor, "alive"]
    row: Int[Tensor, "alive"]
    prefix: Int[Tensor, "alive t"]
    noise: Float[Tensor, "alive vocab"] | None
    temperature: float
    top_p: float
    decoder: "PrefixDecoder"

    def rows(self, index: Int[Tensor, "some"]) -> "Moment":
        """The same moment for some of the rows."""
        return replace(self, slot=self.slot[index], row=self.row[index], prefix=self.prefix[index], noise=None if self.noise is None else self.noise[index])


Choose = Callable[[Moment], Mapping[str, Tensor]]  # must return "token_ids"; everything it returns is recorded by row and step


@dataclass(frozen=True)
class Decoded:
    """Completions of a batch: `records[name][row, t]` is meaningful for t < length[row]; `stopped` = ended by end-of-text."""

    records: dict[str, Tensor]
    length: Int[Tensor, "row"]
    stopped: Bool[Tensor, "row"]


WORTH_SHARING = 16
"""Tokens that all prompts must begin with before these are read once for all of them."""


def common_prefix(prompts: list[list[int]]) -> int:
    """Tokens that all prompts begin with, leaving at least one to each; 0 where there is one prompt."""
    first, last = min(prompts), max(prompts)  # in the order of lists, these two differ first
    most = min(map(len, prompts)) - 1 if len(prompts) > 1 else 0
    return next((i for i in range(most) if first[i] != last[i]), most)


def nucleus(logits: Float[Tensor, "*row vocab"], top_p: float) -> Float[Tensor, "*row vocab"]:
    """Logits with everything outside the smallest set of probability `top_p` at -inf."""
    if top_p >= 1.0:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, index, ordered.masked_fill(before >= top_p, -torch.inf))


def sampled(logits: Float[Tensor, "slot vocab"], step: Moment) -> Int[Tensor, "alive"]:
    """The token of each row: argmax(logits / T + noise), the same noise for every model; argmax alone where T is 0."""
    if step.noise is None:
        return logits.argmax(-1)[step.slot]
    return (nucleus(logits / step.temperature, step.top_p)[step.slot] + step.noise).argmax(-1)


class SlotLayer(DynamicLayer):
    """Key-value cache of one layer with spare room at the end, so that a step writes one position and copies nothing."""

    room = 32
    keys: Tensor
    values: Tensor
    length: int

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Append positions; views of all positions so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.length = 0
        end = self.length + key_states.shape[-2]
        if self.keys.numel() == 0 or end > self.keys.shape[-2]:
            self.keys, self.values = self._moved(self.keys, key_states, end), self._moved(self.values, value_states, end)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _moved(self, old: Tensor, new: Tensor, end: int) -> Tensor:
        grown = new.new_empty(*new.shape[:2], end + self.room, new.shape[-1])
        if old.numel():
            grown[:, :, : self.length] = old[:, :, : self.length]
        return grown

    def begin(self, one: "SlotLayer", pad: Tensor, length: int) -> None:
        """Become the first `length` positions of several slots that begin alike, each after so much padding; `one` holds a single slot without any."""
        self.lazy_initialization(one.keys, one.values)
        self.length = length
        for name in ("keys", "values"):
            held = getattr(one, name)
            new = held.new_zeros(len(pad), held.shape[1], length + self.room, held.shape[3])
            for p in pad.unique().tolist():
                new[pad == p, :, p:length] = held[:, :, : length - p]
            setattr(self, name, new)

    def get_seq_length(self) -> int:
        """Positions held, not counting the spare room."""
        return self.length if self.is_initialized else 0

    def part(self, slots: Tensor, length: int) -> "SlotLayer":
        """A cache of its own with the first `length` positions of some slots."""
        part = SlotLayer()
        part.lazy_initialization(self.keys, self.values)
        part.keys, part.values, part.length = self.keys[slots, :, :length], self.values[slots, :, :length], length
        return part

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Slots `target` become copies of slots `source`."""
        self.keys[target, :, : self.length] = self.keys[source, :, : self.length]
        self.values[target, :, : self.length] = self.values[source, :, : self.length]

    def select(self, slots: Tensor) -> None:
        """Keep these slots, in this order (repeats allowed)."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(len(slots), old.shape[1], self.length + self.room, old.shape[3])
            torch.index_select(old[:, :, : self.length], 0, slots, out=new[:, :, : self.length])
            setattr(self, name, new)


class PrefixDecoder:
    """Key-value caches of some models over the same slots, always of the same length."""

    def __init__(self, lms: "list[LM]", prompts: list[list[int]], sites: Collection[tuple[int, int]] = ()) -> None:
        """Reads the prompts (padded on the left, with explicit positions).

        Args:
            lms: the models.
            prompts: token ids.
            sites: (model, layer) whose residual stream at the last position is to be kept in `resid`.

        Raises:
            InvalidInput: no prompts, or an empty one.
        """
        if not prompts or not all(prompts):
            raise InvalidInput("Nothing to decode: give at least one problem, and prompts of at least one token.")
        self.lms, self.device = lms, lms[0].device
        self.n_vocab = min(lm.n_vocab for lm in lms)
        longest = max(map(len, prompts))
        self.pad = torch.tensor([longest - len(p) for p in prompts], device=self.device)
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=self.device)
        self.layers = [[SlotLayer() for _ in range(lm.n_layers)] for lm in lms]
        self.caches = [Cache(layers=list[Any](layers)) for layers in self.layers]
        self.length = 0
        self.sites, self.resid = sites, dict[tuple[int, int], Tensor]()
        shared = common_prefix(prompts)
        if shared >= WORTH_SHARING:
            self._share(torch.tensor(prompts[0][:shared], device=self.device))
        self.logits = self._forward(ids[:, self.length :])

    def _share(self, prefix: Int[Tensor, "pos"]) -> None:
        """Read the tokens that all prompts begin with once, and lay their keys and values behind the padding of every slot."""
        n, self.length = len(prefix), len(prefix)
        for lm, layers in zip(self.lms, self.layers, strict=True):
            single = [SlotLayer() for _ in layers]
            lm.model(input_ids=prefix[None].to(lm.device), past_key_values=Cache(layers=list[Any](single)), use_cache=True, logits_to_keep=1)
            for one, layer in zip(single, layers, strict=True):
                layer.begin(one, self.pad.to(lm.device), n)

    def _forward(self, ids: Int[Tensor, "slot new"]) -> list[Float[Tensor, "slot vocab"]]:
        positions = torch.arange(self.length, self.length + ids.shape[1], device=self.device)[None] - self.pad[:, None]
        self.length += ids.shape[1]
        self.last = ids[:, -1]
        mask = None
        if bool((self.pad > 0).any()):
            mask = (torch.arange(self.length, device=self.device)[None] >= self.pad[:, None]).long()
        out = []
        for index, (lm, cache) in enumerate(zip(self.lms, self.caches, strict=True)):
            with ExitStack() as hooks:
                for layer in (layer for model, layer in self.sites if model == index):
                    hooks.callback(blocks(lm)[layer].register_forward_hook(self._keep((index, layer))).remove)
                result = lm.model(input_ids=ids.to(lm.device), attention_mask=None if mask is None else mask.to(lm.device), position_ids=positions.clamp_min(0).to(lm.device),
                                  past_key_values=cache, use_cache=True, logits_to_keep=1)  # fmt: skip
            logits = result.logits[:, -1, : self.n_vocab].float().to(self.device)
            if not torch.isfinite(logits).all():
                raise NonFinite(f"{lm.name!r} gives logits with NaN or Inf at position {self.length - 1}. Check its weights, or use a wider dtype.")
            out.append(logits)
        return out

    def _keep(self, site: tuple[int, int]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.resid[site] = hidden_of(output)[:, -1].float().to(self.device)

        return hook

    def extend(self, slot: Int[Tensor, "row"], token: Int[Tensor, "row"]) -> Int[Tensor, "row"]:
        """Append each row's token to its prefix; the new slot of each row. `logits` then speak of the new prefixes."""
        key, inverse = torch.unique(slot * self.n_vocab + token, return_inverse=True)
        parent, token = key // self.n_vocab, key % self.n_vocab
        first = torch.ones_like(parent, dtype=torch.bool)
        first[1:] = parent[1:] != parent[:-1]
        n, extra = len(self.pad), int((~first).sum())
        used = torch.zeros(n, dtype=torch.bool, device=self.device)
        used[parent] = True
        free = (~used).nonzero()[:, 0]
        if extra > len(free) or len(key) < 0.75 * n:  # no room, or too many slots that nobody needs: lay the caches anew
            self._each_layer("select", parent)
            self.pad = self.pad[parent]
            place = torch.arange(len(parent), device=self.device)
        else:
            place = parent.clone()
            place[~first] = free[:extra]
            if extra:
                self._each_layer("copy", parent[~first], place[~first])
                self.pad[place] = self.pad[parent]
        ids = torch.zeros(len(self.pad), dtype=torch.long, device=self.device)
        ids[place] = token
        self.logits = self._forward(ids[:, None])
        return place[inverse]

    def again(self, model: int, slot: Int[Tensor, "row"]) -> tuple[Float[Tensor, "some vocab"], Int[Tensor, "row"]]:
        """Logits of the last position once more for some slots, for the caller to edit; the caches stay as they are.

        Returns:
            Logits of the distinct slots, and each row's index into them.
        """
        distinct, place = torch.unique(slot, return_inverse=True)
        lm, before = self.lms[model], self.length - 1
        layers: list[Any] = [layer.part(distinct, before) for layer in self.layers[model]]
        pad = self.pad[distinct]
        mask = (torch.arange(self.length, device=self.device)[None] >= pad[:, None]).long() if bool((pad > 0).any()) else None
        result = lm.model(input_ids=self.last[distinct][:, None].to(lm.device), attention_mask=None if mask is None else mask.to(lm.device),
                          position_ids=(before - pad)[:, None].to(lm.device), past_key_values=Cache(layers=layers), use_cache=True)  # fmt: skip
        return result.logits[:, -1, : self.n_vocab].float().to(self.device), place

    def _each_layer(self, method: str, *slots: Tensor) -> None:
        for lm, layers in zip(self.lms, self.layers, strict=True):
            for layer in layers:
                getattr(layer, method)(*(s.to(lm.device) for s in slots))


@torch.inference_mode()
def decode(lms: "list[LM]", batch: Batch, choose: Choose, sites: Collection[tuple[int, int]] = ()) -> Decoded:
    """Decode every row of a batch; `choose` says what each row emits at each step.

    A completion ends with an end-of-text token of ANY of the models (it is part of the completion), or at the limit. `sites` are
    (model, layer) whose residual stream `choose` wants to see, in `moment.decoder.resid` by slot.

    Raises:
        ContextTooLong: a prompt and its completion do not fit.
    """
    longest = max(map(len, batch.prompts), default=0)
    for lm in lms:
        if lm.context is not None and longest + batch.max_new_tokens - 1 > lm.context:  # the last token is never read
            raise ContextTooLong(f"Prompt of {longest} tokens and max_new_tokens={batch.max_new_tokens} exceed the {lm.context} positions of {lm.name!r}. Lower max_new_tokens or shorten the prompt.")
    decoder = PrefixDecoder(lms, batch.prompts, sites)
    device, n_rows = decoder.device, len(batch.problem)
    row, slot = torch.arange(n_rows, device=device), batch.problem.to(device)
    keys = batch.keys.to(device)
    start = torch.tensor([len(p) for p in batch.prompts], device=device)[slot]
    eos = torch.tensor(sorted(batch.stop.union(*(lm.eos_ids for lm in lms))), device=device)
    records: dict[str, Tensor] = {"token_ids": torch.zeros(n_rows, batch.max_new_tokens, dtype=torch.long, device=device)}
    length = torch.zeros(n_rows, dtype=torch.long, device=device)
    stopped = torch.zeros(n_rows, dtype=torch.bool, device=device)
    places, place = torch.unique(torch.stack([start, keys]), dim=1, return_inverse=True)  # arms share their noise: it is drawn once for all of them
    for t in range(batch.max_new_tokens):
        noise = None
        if batch.temperature > 0:
            alive, of_row = torch.unique(place[row], return_inverse=True)
            noise = batch.noise(places[1, alive], places[0, alive] + t, decoder.n_vocab)[of_row]
        moment = Moment(t, decoder.logits, slot, row, records["token_ids"][row, :t], noise, batch.temperature, batch.top_p, decoder)
        for name, value in choose(moment).items():
            if name not in records:
                records[name] = torch.zeros(n_rows, batch.max_new_tokens, dtype=value.dtype, device=device)
            records[name][row, t] = value
        token = records["token_ids"][row, t]
        length[row] = t + 1
        ended = torch.isin(token, eos)
        stopped[row[ended]] = True
        row, slot, token = row[~ended], slot[~ended], token[~ended]
        if len(row) == 0 or t + 1 == batch.max_new_tokens:
            break
        slot = decoder.extend(slot, token)
    return Decoded(records, length, stopped)
