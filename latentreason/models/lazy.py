"""A model that reads only when it is asked, and then catches up on all that it skipped in one chunk.

Its slots lag behind by different amounts. What is asked is read by one forward pass all the same: as a rectangle, where the slots lag about
equally, or else as one packed row in which each slot's tokens see their own prefix only.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from latentreason.models.blocks import decoder
from latentreason.models.cache import SlotLayer, checked, padded, seen

if TYPE_CHECKING:
    from latentreason.models.language_model import LM


class _Part(DynamicLayer):
    """For one forward pass: some slots of a SlotLayer, written at places of their own."""

    def __init__(self, store: SlotLayer, n_slots: int, slots: Tensor, begin: int, end: int, fresh: Tensor | None, where: tuple[Tensor, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.store, self.n_slots, self.slots, self.begin, self.end, self.fresh, self.where = store, n_slots, slots, begin, end, fresh, where

    def get_seq_length(self) -> int:
        """Positions before those that are being read."""
        return self.begin

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Write what is new, return all keys and values of the slots: one slot after the other where they are packed."""
        self.store.reserve(key_states, value_states, self.n_slots, self.end)
        device, parts = self.store.keys.device, []
        (slot, place), slots = (i.to(device) for i in self.where), self.slots.to(device)
        fresh = None if self.fresh is None else self.fresh.to(device)
        for held, new in ((self.store.keys, key_states), (self.store.values, value_states)):
            tokens = new.transpose(1, 2).flatten(0, 1)
            held[slot, :, place] = tokens if fresh is None else tokens[fresh]
            part = held[slots, :, : self.end]
            parts.append(part.transpose(0, 1).flatten(1, 2)[None] if fresh is None else part)
        return parts[0], parts[1]


class LazyReader:
    """The cache of a model that lags behind: `known[slot]` positions are read, `length` are there to be read."""

    def __init__(self, lm: "LM", prompts: list[list[int]], n_vocab: int, device: torch.device) -> None:
        """Reads nothing yet; arguments as `Reader`."""
        self.lm, self.n_vocab, self.device = lm, n_vocab, device
        self.prompts, self.pad = padded(prompts, device)
        self.ids, self.length, self.prompt_pad = self.prompts, self.prompts.shape[1], self.pad
        self.origin = torch.arange(len(prompts), device=device)  # the prompt that each slot began with
        self.known: Tensor | None = None
        self.layers = [SlotLayer() for _ in range(lm.n_layers)]  # each holds positions up to the largest `known`
        self.cache = Cache(layers=list[Any](self.layers))

    def append(self, ids: Int[Tensor, "slot"]) -> None:
        """Note a token of every slot, to be read later."""
        if self.length == self.ids.shape[1]:
            self.ids = torch.cat([self.ids, self.ids.new_zeros(len(self.ids), SlotLayer.room)], dim=1)
        self.ids[:, self.length] = ids
        self.length += 1

    def ask(self, slot: Int[Tensor, "row"], n: int = 1) -> tuple[Float[Tensor, "some n vocab"], Int[Tensor, "some"], Int[Tensor, "row"]]:
        """Logits of the last n positions of some slots, which are read up to their end.

        Returns:
            Logits of the distinct slots, these slots, and each row's index into them.
        """
        known = self._begun()
        distinct, place = torch.unique(slot, return_inverse=True)
        start, end, lm = known[distinct].clamp_max(self.length - n), self.length, self.lm
        some, most, total = len(distinct), int((end - start).max()), int((end - start).sum())
        begin, pad = end - most, self.pad[distinct]
        fresh = torch.arange(begin, end, device=self.device)[None] >= start[:, None]
        row, at = fresh.nonzero(as_tuple=True)
        at = at + begin
        # a token costs about 6 d_model, and 1 for each key that it meets; in a packed row it meets the keys of all slots
        packed = total * (6 * lm.d_model + some * end) < some * most * (6 * lm.d_model + end) and lm.model.config._attn_implementation in ("eager", "sdpa")
        keep: int | Tensor = n
        mask: Tensor | None
        if packed:
            ids, positions = self.ids[distinct[row], at][None], (at - pad[row])[None]
            mask = _own_prefix(row, at, pad, end, lm.model.dtype)
            keep = ((end - start).cumsum(0)[:, None] + torch.arange(-n, 0, device=self.device)).flatten().cpu()  # the last states may live on another device than the first layer
        else:
            ids, positions = self.ids[distinct, begin:end], torch.arange(begin, end, device=self.device)[None] - pad[:, None]
            mask = seen(end, pad)
        if some == len(self.pad) and total == some * most:  # all slots, side by side: the cache as it is
            cache = self.cache
            for layer in self.layers:
                layer.length = begin
        else:
            where = (distinct[row], at)
            cache = Cache(layers=[_Part(layer, len(self.pad), distinct, begin, end, None if packed else fresh.flatten(), where) for layer in self.layers])
        result = lm.model(input_ids=ids.to(lm.device), attention_mask=None if mask is None else mask.to(lm.device), position_ids=positions.clamp_min(0).to(lm.device),
                          past_key_values=cache, use_cache=True, logits_to_keep=keep)  # fmt: skip
        known[distinct] = end
        for layer in self.layers:
            layer.length = end
        logits = result.logits.reshape(some, n, -1)[..., : self.n_vocab].float().to(self.device)
        return checked(lm, logits, end), distinct, place

    def _begun(self) -> Tensor:
        """`known`; at the first question each prompt is read once, but for its last token, and given to all slots that began with it."""
        if self.known is None:
            n, lm = self.prompts.shape[1] - 1, self.lm
            self.known = torch.full_like(self.pad, n)
            if n:
                mask, positions = seen(n, self.prompt_pad), torch.arange(n, device=self.device)[None] - self.prompt_pad[:, None]
                decoder(lm)(input_ids=self.prompts[:, :-1].to(lm.device), attention_mask=None if mask is None else mask.to(lm.device),
                            position_ids=positions.clamp_min(0).to(lm.device), past_key_values=self.cache, use_cache=True)  # fmt: skip
                for layer in self.layers:
                    layer.select(self.origin)
        return self.known

    def select(self, slots: Int[Tensor, "slot"]) -> None:
        """Keep these slots, in this order (repeats allowed)."""
        self.pad, self.ids, self.origin = self.pad[slots], self.ids[slots], self.origin[slots]
        if self.known is not None:
            self.known = self.known[slots]
            for layer in self._begun_layers():
                layer.select(slots)

    def copy(self, source: Int[Tensor, "some"], target: Int[Tensor, "some"]) -> None:
        """Slots `target` become copies of slots `source`."""
        for held in (self.pad, self.ids, self.origin, *(() if self.known is None else (self.known,))):
            held[target] = held[source]
        for layer in self._begun_layers():
            layer.copy(source, target)

    def grow(self, source: Int[Tensor, "some"]) -> None:
        """New slots behind the others, copies of slots `source`."""
        n = len(self.pad)
        self.pad, self.ids, self.origin = (torch.cat([held, held[source]]) for held in (self.pad, self.ids, self.origin))
        self.known = None if self.known is None else torch.cat([self.known, self.known[source]])
        for layer in self._begun_layers():
            layer.grow(n, source)

    def _begun_layers(self) -> list[SlotLayer]:
        return [layer for layer in self.layers if layer.is_initialized]

    def forget(self, n: int) -> None:
        """Take back the last n positions of every slot."""
        self.length -= n
        if self.known is not None:
            self.known = self.known.clamp_max(self.length)
        for layer in self._begun_layers():
            layer.length = min(layer.length, self.length)


def _own_prefix(row: Int[Tensor, "token"], at: Int[Tensor, "token"], pad: Int[Tensor, "some"], end: int, dtype: torch.dtype) -> Float[Tensor, "1 1 token key"]:
    """The mask of a packed row, to be added to scores: token i sees the keys of its own slot from the padding's end to its own place."""
    key = torch.arange(end, device=row.device)
    own = (row[:, None] == torch.arange(len(pad), device=row.device))[:, :, None] & (key <= at[:, None, None]) & (key >= pad[:, None])
    return torch.zeros(own.shape, dtype=dtype, device=row.device).masked_fill_(~own, torch.finfo(dtype).min).flatten(1)[None, None]
