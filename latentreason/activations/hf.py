"""The backend of plain forward hooks on the modules of a Hugging Face model: it reads and edits, nothing more.

Batching and padding are `capture.py`'s, what an edit does is `editing.py`'s, where a site is `places.py`'s. A hook that returns a value
replaces what it saw. Hooks are removed one by one, by handle: those of others stay.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from latentreason.activations.places import Place, place
from latentreason.activations.sites import Site
from latentreason.errors import UnsupportedSite
from latentreason.models.blocks import blocks, decoder, hidden_of

if TYPE_CHECKING:
    from latentreason.models.language_model import LM

See = Callable[[Site, Float[Tensor, "batch pos width"]], None]
Change = Callable[[Float[Tensor, "batch pos width"], Int[Tensor, "batch pos"]], Float[Tensor, "batch pos width"]]


class _DeepEnough(Exception):
    """Ends a forward pass whose rest nobody asked for."""


def read(
    lm: "LM", ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None, positions: Int[Tensor, "batch pos"],
    sites: Sequence[Site], see: See,
) -> None:  # fmt: skip
    """Run the decoder once, without the LM head, up to the deepest site; `see` gets each site's activations as they come."""
    found = [(site, *_module(lm, site)) for site in sites]
    reading(lambda: decoder(lm)(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False), found, see)


@contextmanager
def edit(lm: "LM", changes: Sequence[tuple[Site, Change]]) -> Iterator["LM"]:
    """While open, every forward pass of the model goes through `change(hidden, absolute positions)` at its sites, in order."""
    with changing(decoder(lm), [(*_module(lm, site), change) for site, change in changes]):
        yield lm


def _module(lm: "LM", site: Site) -> tuple[nn.Module, Place]:
    where = place(lm, site)
    try:
        return blocks(lm)[site.layer].get_submodule(where.path), where
    except AttributeError as error:  # the modules of a bridge
        raise UnsupportedSite(f"{lm.name!r} has no module {where.path!r} in its blocks. Read an LM that editing(..., backend=NAME) yields through the same backend.") from error


def reading(run: Callable[[], object], found: Sequence[tuple[Site, nn.Module, Place]], see: See) -> None:
    """Call `run`, and show `see` what passes each place, until the last of them has been passed."""

    def reader(site: Site) -> Callable[[Tensor], None]:
        def act(hidden: Tensor) -> None:
            see(site, hidden)
            if site == found[-1][0]:
                raise _DeepEnough

        return act

    with ExitStack() as hooks:
        for site, module, where in found:
            hooks.callback(_hook(module, where, reader(site)).remove)
        with suppress(_DeepEnough):
            run()


@contextmanager
def changing(body: nn.Module, found: Sequence[tuple[nn.Module, Place, Change]]) -> Iterator[None]:
    """While open, what passes each place in a forward pass of the decoder `body` is changed."""
    signature = inspect.signature(body.forward)
    places: list[Tensor] = []  # of the forward pass that runs

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        places[:] = [absolute_positions(signature.bind_partial(*args, **kwargs).arguments)]

    def editor(change: Change, where: Place) -> Callable[[Tensor], Tensor | None]:
        def act(hidden: Tensor) -> Tensor | None:
            edited = change(hidden, places[0].to(hidden.device))
            if where.shared:  # the block adds this very tensor again, and no hook sees that: the one edit in place
                hidden.copy_(edited)
                return None
            return edited

        return act

    with ExitStack() as hooks:
        hooks.callback(body.register_forward_pre_hook(note, with_kwargs=True).remove)
        for module, where, change in found:
            hooks.callback(_hook(module, where, editor(change, where)).remove)
        yield


def _hook(module: nn.Module, where: Place, act: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call `act` with what passes; a tensor that it returns takes its place."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        edited = act(args[0] if args else kwargs["hidden_states"])
        if edited is None:
            return None
        return ((edited, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": edited})

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        edited = act(hidden_of(output))
        return (edited, *output[1:]) if isinstance(output, tuple) and edited is not None else edited

    if where.side == "output":
        return module.register_forward_hook(after)
    return module.register_forward_pre_hook(before, with_kwargs=True)


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
