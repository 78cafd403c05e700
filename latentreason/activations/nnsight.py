"""The backend of nnsight: one trace of a TransformersModel for each forward pass, here or, with `remote=True`, on NDIF.

nnsight puts a controller on every module that it wraps, so it gets modules of its own around the caller's weights. All sites of a batch
are held until the trace ends.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from weakref import WeakKeyDictionary

from jaxtyping import Int
from torch import Tensor

from latentreason.activations.copies import Cache, copied, kept
from latentreason.activations.hf import Change, See, absolute_positions
from latentreason.activations.places import place
from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput, MissingDependency
from latentreason.models.blocks import blocks

if TYPE_CHECKING:
    from latentreason.models.language_model import LM

Remote = bool | str
"""As of nnsight's `trace`: True for NDIF, "local" to send the request to oneself."""


class _Traced(NamedTuple):
    """A model in the hands of nnsight, and the edits that are open on it."""

    model: Any
    changes: tuple[tuple[Site, Change], ...] = ()


_MODELS: Cache[_Traced] = WeakKeyDictionary()


def read(
    lm: "LM", ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None, positions: Int[Tensor, "batch pos"],
    sites: Sequence[Site], see: See, *, remote: Remote = False,
) -> None:  # fmt: skip
    """As `hf.read`, in one trace that stops after the deepest site."""
    traced = _traced(lm)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
    places = absolute_positions(inputs)
    _, values = _trace(traced.model, {k: v for k, v in inputs.items() if v is not None}, _steps(_twin(lm, traced), traced.changes, places, sites), True, remote)
    for site, hidden in zip(sites, values, strict=True):
        see(site, hidden)


@contextmanager
def edit(lm: "LM", changes: Sequence[tuple[Site, Change]], *, remote: Remote = False) -> Iterator["LM"]:
    """As `hf.edit`. The LM that is edited runs each forward pass as a trace; the caller's computes what it always did."""
    traced = _traced(lm)
    traced = traced._replace(changes=(*traced.changes, *changes))
    lm = _twin(lm, traced)
    signature = inspect.signature(type(lm.model).forward.__get__(lm.model))

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = dict(signature.bind_partial(*args, **kwargs).arguments)
        given |= given.pop("kwargs", {})
        if remote and given.get("past_key_values") is not None:
            raise InvalidInput("A key-value cache cannot travel to the server and back. Pass use_cache=False, or edit a model that is here.")
        return _trace(traced.model, given, _steps(lm, traced.changes, absolute_positions(given), ()), False, remote)[0]

    runner = copy.copy(lm.model)
    runner.__dict__ |= {"forward": forward, "get_decoder": _no_decoder, "traced": traced}
    forward.__signature__ = signature  # type: ignore[attr-defined]  # generate() reads it
    yield replace(lm, model=runner)


REMOTE = SimpleNamespace(read=partial(read, remote=True), edit=partial(edit, remote=True))
"""The same backend on NDIF."""


def _steps(lm: "LM", changes: Sequence[tuple[Site, Change]], places: Tensor, sites: Sequence[Site]) -> list[tuple[Any, ...]]:
    """(path, side, shared, change or None to read), in the order of the forward pass, edits of a site before it is read."""
    lists = blocks(lm)
    at = next(name for name, module in lm.model.named_modules() if module is lists)
    wanted: list[tuple[Site, Callable[[Tensor], Tensor] | None]] = [(site, partial(_at, change, places)) for site, change in changes]
    wanted = sorted(wanted + [(site, None) for site in sites], key=lambda step: step[0])  # stable
    found = [(site, place(lm, site), change) for site, change in wanted]
    return [(f"{at}.{site.layer}.{where.path}".rstrip("."), where.side, where.shared, change) for site, where, change in found]


def _at(change: Change, places: Tensor, hidden: Tensor) -> Tensor:
    return change(hidden, places.to(hidden.device))


def _trace(model: Any, inputs: dict[str, Any], steps: list[tuple[Any, ...]], stop: bool, remote: Remote) -> tuple[Any, list[Tensor]]:
    """One forward pass with edits and reads: its output (None if it stops after the last step), and what was read."""
    import nnsight

    if remote:
        nnsight.register("latentreason")  # the server has no such package: changes travel by value
    result, values = None, None
    with model.trace(**inputs, remote=remote) as tracer:
        values = nnsight.save([])
        for path, side, shared, change in steps:
            envoy = model
            for name in path.split("."):
                envoy = envoy[int(name)] if name.isdigit() else getattr(envoy, name)
            value = envoy.output if side == "output" else envoy.input
            hidden = value[0] if isinstance(value, tuple) else value
            if change is None:
                values.append(hidden)
            elif shared:  # see hf.py
                hidden.copy_(change(hidden))
            elif side == "input":
                envoy.input = change(hidden)
            else:
                envoy.output = (change(hidden), *value[1:]) if isinstance(value, tuple) else change(hidden)
        if stop:
            tracer.stop()
        result = tracer.result.save()
    return result, values


def _traced(lm: "LM") -> _Traced:
    traced: _Traced | None = lm.model.__dict__.get("traced")  # of an LM that `edit` yielded
    return traced or kept(_MODELS, lm.model, lambda: _wrapped(lm))


def _twin(lm: "LM", traced: _Traced) -> "LM":
    return replace(lm, model=traced.model._module)


def _wrapped(lm: "LM") -> _Traced:
    try:
        from nnsight import TransformersModel
    except ImportError as error:
        raise MissingDependency("backend='nnsight' needs nnsight: pip install 'nnsight>=0.8.1,<0.9'.") from error
    # a tokenizer of its own, since it sets the padding side; the device, since a pipeline would move the model to the first GPU
    device = {} if getattr(lm.model, "hf_device_map", None) else {"device": lm.model.device}
    model = copied(lm.model, share=True)
    return _Traced(TransformersModel(model, task="text-generation", tokenizer=copy.deepcopy(lm.tokenizer), revision=lm.revision, **device))


def _no_decoder() -> NoReturn:
    raise InvalidInput("This LM is edited through nnsight, which other backends do not see. Pass backend='nnsight' to read it.")
