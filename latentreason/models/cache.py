"""The key-value cache of one model over SLOTS (one a distinct prefix), and reading into it.

A `Reader` knows one model and token ids: it is told which slots to keep or copy and what to read, and says the logits that follow. What
belongs into which slot is the business of `decoding.PrefixDecoder`.
"""

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from latentreason.errors import NonFinite
from latentreason.models.blocks import blocks, hidden_of

if TYPE_CHECKING:
    from latentreason.models.language_model import LM


class SlotLayer(DynamicLayer):
    """Key-value cache of one layer with spare room, for positions at the end and for slots behind those in use, so that a step writes what is new and copies nothing.

    It lives where its layer does; slots may be counted elsewhere (a model may be spread over several devices).
    """

    room = 32
    keys: Tensor
    values: Tensor
    length: int

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Append positions; views of all positions so far."""
        end = self.get_seq_length() + key_states.shape[-2]
        self.reserve(key_states, value_states, len(key_states), end)
        self.keys[: len(key_states), :, self.length : end] = key_states
        self.values[: len(key_states), :, self.length : end] = value_states
        self.length = end
        return self.keys[: len(key_states), :, :end], self.values[: len(key_states), :, :end]

    def reserve(self, key_states: Tensor, value_states: Tensor, slots: int, end: int) -> None:
        """Make room for `end` positions of so many slots, in the type and shape of these states."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.length = 0
        if self.keys.numel() == 0 or end > self.keys.shape[-2]:
            self.keys, self.values = self._moved(self.keys, key_states, slots, end), self._moved(self.values, value_states, slots, end)

    def _moved(self, old: Tensor, new: Tensor, slots: int, end: int) -> Tensor:
        grown = new.new_empty(slots, new.shape[1], end + self.room, new.shape[-1])
        if old.numel():
            grown[:, :, : self.length] = old[:slots, :, : self.length]
        return grown

    def begin(self, one: "SlotLayer", pad: Tensor, length: int) -> None:
        """Become the first `length` positions of several slots that begin alike, each after so much padding; `one` holds a single slot without any."""
        self.lazy_initialization(one.keys, one.values)
        self.length, pad = length, pad.to(one.keys.device)
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
        part, slots = SlotLayer(), slots.to(self.keys.device)
        part.lazy_initialization(self.keys, self.values)
        part.keys, part.values, part.length = self.keys[slots, :, :length], self.values[slots, :, :length], length
        return part

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Slots `target` become copies of slots `source`."""
        source, target = source.to(self.keys.device), target.to(self.keys.device)
        self.keys[target, :, : self.length] = self.keys[source, :, : self.length]
        self.values[target, :, : self.length] = self.values[source, :, : self.length]

    def grow(self, n: int, source: Tensor) -> None:
        """Behind the n slots in use, copies of slots `source`."""
        total = n + len(source)
        if total > len(self.keys):
            room = max(total, n + n // 3)  # a third more, so that this is rare
            self.keys, self.values = (self._moved_slots(held, n, room) for held in (self.keys, self.values))
        self.copy(source, torch.arange(n, total))

    def _moved_slots(self, old: Tensor, n: int, room: int) -> Tensor:
        new = old.new_empty(room, *old.shape[1:])
        new[:n, :, : self.length] = old[:n, :, : self.length]
        return new

    def select(self, slots: Tensor) -> None:
        """Keep these slots, in this order (repeats allowed)."""
        slots = slots.to(self.keys.device)
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(len(slots), old.shape[1], self.length + self.room, old.shape[3])
            torch.index_select(old[:, :, : self.length], 0, slots, out=new[:, :, : self.length])
            setattr(self, name, new)


WORTH_SHARING = 16
"""Tokens that all prompts must begin with before these are read once for all of them."""


def common_prefix(prompts: list[list[int]]) -> int:
    """Tokens that all prompts begin with, leaving at least one to each; 0 where there is one prompt."""
    first, last = min(prompts), max(prompts)  # in the order of lists, these two differ first
    most = min(map(len, prompts)) - 1 if len(prompts) > 1 else 0
    return next((i for i in range(most) if first[i] != last[i]), most)


def padded(prompts: list[list[int]], device: torch.device) -> tuple[Int[Tensor, "slot pos"], Int[Tensor, "slot"]]:
    """Prompts as one matrix, padded on the left, and how much padding each has."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    return ids, torch.tensor([longest - len(p) for p in prompts], device=device)


def seen(length: int, pad: Int[Tensor, "slot"]) -> Int[Tensor, "slot pos"] | None:
    """The attention mask that hides the padding; None where there is none, which is faster."""
    if not bool((pad > 0).any()):
        return None
    return (torch.arange(length, device=pad.device)[None] >= pad[:, None]).long()


def checked(lm: "LM", logits: Float[Tensor, "*any"], length: int) -> Float[Tensor, "*any"]:
    """The same logits.

    Raises:
        NonFinite: NaN or Inf.
    """
    if not torch.isfinite(logits).all():
        raise NonFinite(f"{lm.name!r} gives logits with NaN or Inf at position {length - 1}. Check its weights, or use a wider dtype.")
    return logits


class Reader:
    """A model that reads what is emitted at once."""

    def __init__(self, lm: "LM", prompts: list[list[int]], n_vocab: int, device: torch.device, sites: Collection[int] = ()) -> None:
        """Reads the prompts.

        Args:
            lm: the model.
            prompts: token ids, one list a slot.
            n_vocab: logits are cut to so many tokens.
            device: where slots are counted; the model may live elsewhere.
            sites: layers whose residual stream at the last position is to be kept in `resid`.
        """
        self.lm, self.n_vocab, self.device, self.sites = lm, n_vocab, device, sites
        ids, self.pad = padded(prompts, device)
        self.layers = [SlotLayer() for _ in range(lm.n_layers)]
        self.cache = Cache(layers=list[Any](self.layers))
        self.length, self.resid = 0, dict[int, Tensor]()
        shared = common_prefix(prompts)
        if shared >= WORTH_SHARING:
            self._share(torch.tensor([prompts[0][:shared]], device=lm.device))
        self.logits = self.read(ids[:, self.length :])

    def _share(self, prefix: Int[Tensor, "one pos"]) -> None:
        """Read the tokens that all prompts begin with once, and lay their keys and values behind the padding of every slot."""
        single, self.length = [SlotLayer() for _ in self.layers], prefix.shape[1]
        self.lm.model(input_ids=prefix, past_key_values=Cache(layers=list[Any](single)), use_cache=True, logits_to_keep=1)
        for one, layer in zip(single, self.layers, strict=True):
            layer.begin(one, self.pad, self.length)

    def read(self, ids: Int[Tensor, "slot new"]) -> Float[Tensor, "slot vocab"]:
        """Append tokens to every slot; logits of what follows."""
        positions = torch.arange(self.length, self.length + ids.shape[1], device=self.device)[None] - self.pad[:, None]
        self.length += ids.shape[1]
        self.last, mask, lm = ids[:, -1], seen(self.length, self.pad), self.lm
        with ExitStack() as hooks:
            for layer in self.sites:
                hooks.callback(blocks(lm)[layer].register_forward_hook(self._keep(layer)).remove)
            result = lm.model(input_ids=ids.to(lm.device), attention_mask=None if mask is None else mask.to(lm.device), position_ids=positions.clamp_min(0).to(lm.device),
                              past_key_values=self.cache, use_cache=True, logits_to_keep=1)  # fmt: skip
        self.logits = checked(lm, result.logits[:, -1, : self.n_vocab].float().to(self.device), self.length)
        return self.logits

    def _keep(self, layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.resid[layer] = hidden_of(output)[:, -1].float().to(self.device)

        return hook

    def again(self, slot: Int[Tensor, "row"], copies: int = 1, tokens: Int[Tensor, "row n"] | None = None, *, each: bool = False) -> tuple[Float[Tensor, "some vocab"], Int[Tensor, "row"]]:
        """Logits of the last position once more for some slots, for the caller to edit; the cache stays as it is.

        Args:
            slot: of each row.
            copies: how often each distinct slot is read, side by side, for edits that differ; all in one forward pass.
            tokens: the last n tokens of each row, all of which are read again; None for the last one.
            each: read every row, also where several have one slot, for edits by row.

        Returns:
            Logits of the distinct slots, or of each row (`copies` times), and each row's index of its first.
        """
        distinct, place = (slot, torch.arange(len(slot), device=slot.device)) if each else torch.unique(slot, return_inverse=True)
        ids = self.last[distinct][:, None]
        if tokens is not None:
            ids = torch.zeros(len(distinct), tokens.shape[1], dtype=torch.long, device=self.device)
            ids[place] = tokens  # rows of one slot have one prefix
        distinct, ids, place = distinct.repeat_interleave(copies), ids.repeat_interleave(copies, 0), place * copies
        lm, before, pad = self.lm, self.length - ids.shape[1], self.pad[distinct]
        layers: list[Any] = [layer.part(distinct, before) for layer in self.layers]
        mask = seen(self.length, pad)
        positions = torch.arange(before, self.length, device=self.device)[None] - pad[:, None]
        result = lm.model(input_ids=ids.to(lm.device), attention_mask=None if mask is None else mask.to(lm.device), position_ids=positions.clamp_min(0).to(lm.device),
                          past_key_values=Cache(layers=layers), use_cache=True, logits_to_keep=1)  # fmt: skip
        return result.logits[:, -1, : self.n_vocab].float().to(self.device), place

    def select(self, slots: Int[Tensor, "slot"]) -> None:
        """Keep these slots, in this order (repeats allowed)."""
        self.pad = self.pad[slots]
        for layer in self.layers:
            layer.select(slots)

    def copy(self, source: Int[Tensor, "some"], target: Int[Tensor, "some"]) -> None:
        """Slots `target` become copies of slots `source`."""
        self.pad[target] = self.pad[source]
        for layer in self.layers:
            layer.copy(source, target)

    def grow(self, source: Int[Tensor, "some"]) -> None:
        """New slots behind the others, copies of slots `source`."""
        n, self.pad = len(self.pad), torch.cat([self.pad, self.pad[source]])
        for layer in self.layers:
            layer.grow(n, source)

    def forget(self, n: int) -> None:
        """Take back the last n positions of every slot."""
        self.length -= n
        for layer in self.layers:
            layer.length = self.length
