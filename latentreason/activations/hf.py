"""The backend of plain forward hooks on the blocks of a Hugging Face model: it reads and edits, nothing more.

Batching and padding are `capture.py`'s, what an edit does is `editing.py`'s. A hook that returns a value replaces the output of
its block. Hooks are removed one by one, by handle: those of others stay.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentreason.activations.sites import Site
from latentreason.models.blocks import blocks, decoder, hidden_of

if TYPE_CHECKING:
    from latentreason.models.language_model import LM

See = Callable[[Site, Float[Tensor, "batch pos d_model"]], None]
Change = Callable[[Float[Tensor, "batch pos d_model"], Int[Tensor, "batch pos"]], Float[Tensor, "batch pos d_model"]]


class _DeepEnough(Exception):
    """Ends a forward pass whose rest nobody asked for."""


def read(
    lm: "LM", ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None, positions: Int[Tensor, "batch pos"],
    sites: Sequence[Site], see: See,
) -> None:  # fmt: skip
    """Run the decoder once, without the LM head, up to the deepest site; `see` gets each site's activations as they come."""
    deepest = max(site.layer for site in sites)

    def reader(site: Site) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            see(site, hidden_of(output))
            if site.layer == deepest:
                raise _DeepEnough

        return hook

    with ExitStack() as hooks:
        for site in sites:
            hooks.callback(blocks(lm)[site.layer].register_forward_hook(reader(site)).remove)
        with suppress(_DeepEnough):
            decoder(lm)(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)


@contextmanager
def edit(lm: "LM", changes: Sequence[tuple[Site, Change]]) -> Iterator["LM"]:
    """While open, every forward pass of the model goes through `change(hidden, absolute positions)` at its sites, in order."""
    signature = inspect.signature(decoder(lm).forward)
    places: list[Tensor] = []  # of the forward pass that runs

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        places[:] = [absolute_positions(signature.bind_partial(*args, **kwargs).arguments)]

    def editor(change: Change) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            before = hidden_of(output)
            edited = change(before, places[0].to(before.device))
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        return hook

    with ExitStack() as hooks:
        hooks.callback(decoder(lm).register_forward_pre_hook(note, with_kwargs=True).remove)
        for site, change in changes:
            hooks.callback(blocks(lm)[site.layer].register_forward_hook(editor(change)).remove)
        yield lm


def absolute_positions(arguments: Mapping[str, Any]) -> Int[Tensor, "batch pos"]:
    """Position of each token of a forward pass, counted from the first real token of its sequence; -1 at padding.

    Args:
        arguments: of the decoder's forward. The mask decides, for under a cache it covers the past too; without one (no padding)
            position_ids, and without these the length of the cache.
    """
    given = arguments.get("input_ids")
    given = arguments["inputs_embeds"] if given is None else given
    batch, length = given.shape[:2]
    mask, places, cache = (arguments.get(name) for name in ("attention_mask", "position_ids", "past_key_values"))
    past = int(cache.get_seq_length()) if cache is not None else 0
    if isinstance(mask, Tensor) and mask.ndim == 2:
        real = mask.bool()
        end = min(mask.shape[1], past + length)  # under a static cache the mask may be as wide as the cache will be
        return (real.cumsum(-1) - 1).masked_fill(~real, -1)[:, end - length : end]
    if isinstance(places, Tensor) and places.ndim == 2:
        return places.expand(batch, -1)
    return torch.arange(past, past + length, device=given.device).expand(batch, -1)
