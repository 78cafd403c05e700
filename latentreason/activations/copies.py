"""Copies of a model that a backend may rebuild, so that the caller's stays as it is.

A copy is kept as long as the model lives (the caches hold models weakly) and made again once its weights have changed.
"""

import copy
from collections.abc import Callable
from itertools import chain
from typing import TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from latentreason.errors import InvalidInput

T = TypeVar("T")
Weights = tuple[tuple[int, int], ...]
Cache = WeakKeyDictionary[nn.Module, tuple[Weights, T]]


def kept(cache: "Cache[T]", model: nn.Module, make: Callable[[], T]) -> T:
    """What was made for this model, or a new one if its weights are others by now."""
    _refuse_edits(model)
    weights = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in chain(model.parameters(), model.buffers()))
    if model not in cache or cache[model][0] != weights:
        cache[model] = (weights, make())
    return cache[model][1]


def copied(model: nn.Module, *, share: bool) -> nn.Module:
    """The model again, without hooks that others put on it.

    Args:
        model: left as it is.
        share: new modules around the same weights; else the weights are copied too.
    """
    shared: dict[int, Tensor] = {id(t): t for t in chain(model.parameters(), model.buffers())} if share else {}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if not _home(hook).startswith("transformers."):  # these record what `output_hidden_states` asks for
                    del hooks[key]
    return twin


def _refuse_edits(model: nn.Module) -> None:
    hooks = (hook for module in model.modules() for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()))
    if any(_home(hook).startswith("latentreason.") for hook in hooks):
        raise InvalidInput("An edit of the backend 'hf' is open on this model, and this backend reads a copy that it does not reach. Open the edit with this backend, and capture with the LM that it yields.")


def _home(hook: object) -> str:
    return getattr(hook, "__module__", "") or ""
