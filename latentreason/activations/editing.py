"""`editing`: change activations while a `with` is open, at chosen absolute positions. And the table of backends.

Positions count from the first real token of prompt and completion, also under left padding and a key-value cache, where a
hook sees one token at a time. Leaving the `with`, also by an exception, restores bit-identical logits::

    with lr.editing(lm, [Edit(Site(2), vector, positions=lambda position: position >= 20)]):
        lm.model.generate(ids)
    with lr.editing(lm, edits, backend="lens") as edited:  # another backend edits a copy: use what the `with` yields
        edited.model.generate(ids)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentreason.activations import hf, lens, nnsight
from latentreason.activations.hf import Change, See
from latentreason.activations.places import width
from latentreason.activations.sites import Site, checked
from latentreason.errors import InvalidInput, NonFinite, unknown_name

if TYPE_CHECKING:
    from latentreason.models.language_model import LM


@runtime_checkable
class Backend(Protocol):
    """A module that reads and edits; `hf.py` says what each function does."""

    def read(self, lm: "LM", ids: Tensor, mask: Tensor | None, positions: Tensor, sites: Sequence[Site], see: See) -> None: ...  # noqa: D102
    def edit(self, lm: "LM", changes: Sequence[tuple[Site, Change]]) -> AbstractContextManager["LM"]: ...  # noqa: D102


BACKENDS: dict[str, Backend] = {"hf": hf, "lens": lens, "nnsight": nnsight}
"""Name -> backend. Another one is another module here."""


def chosen(backend: str, remote: bool = False) -> Backend:
    """The backend of that name.

    Raises:
        UnknownName: no such backend.
        InvalidInput: it has no remote half.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if remote and backend != "nnsight":
        raise InvalidInput(f"The backend {backend!r} runs here only. Pass backend='nnsight' with remote=True.")
    return nnsight.REMOTE if remote else BACKENDS[backend]


@runtime_checkable
class Steers(Protocol):
    """What `additions` needs of a steering vector."""

    @property
    def site(self) -> Site: ...  # noqa: D102
    @property
    def vector(self) -> Float[Tensor, "width"]: ...  # noqa: D102


Positions = Bool[Tensor, "batch position"] | Callable[[Int[Tensor, "batch pos"]], Bool[Tensor, "batch pos"]] | None


@dataclass(frozen=True, eq=False)
class Edit:
    """One change at one site.

    Attributes:
        site: where.
        vector: a tensor, or a SteeringVector (its raw vector, direction times scale).
        mode: `add` the vector, `ablate` the component along it, `replace` the activation by it.
        positions: None for all; a mask over absolute positions (false beyond its width; a single row is for every sequence); or a
            function from absolute positions (-1 at padding) to a mask.

    Raises:
        UnknownName: another mode.
        InvalidInput: not a vector; or all zeros, which no component can be ablated along.
        NonFinite: the vector holds NaN or Inf.
    """

    site: Site
    vector: Float[Tensor, "..."] | Steers
    mode: str = "add"
    positions: Positions = None

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise unknown_name("mode", self.mode, _MODES)
        if self.tensor.ndim != 1:
            raise InvalidInput(f"The vector of an edit has one axis, the width of its site; found shape {tuple(self.tensor.shape)}.")
        if not torch.isfinite(self.tensor).all():
            raise NonFinite(f"The vector of the edit at {self.site} holds NaN or Inf. Fit it again, or load it from before the fault.")
        if self.mode == "ablate" and not self.tensor.any():
            raise InvalidInput(f"The vector to ablate at {self.site} is zero and has no direction; leave this edit out.")

    @property
    def tensor(self) -> Tensor:
        """The vector as a tensor."""
        return self.vector if isinstance(self.vector, Tensor) else self.vector.vector

    def __call__(self, hidden: Float[Tensor, "batch pos width"], places: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos width"]:
        """The activations of one forward pass after the edit; tokens that are not meant keep theirs to the bit."""
        edited = _MODES[self.mode](hidden, self.tensor.to(hidden.device))
        return edited if self.positions is None else torch.where(self._mask(places)[..., None], edited, hidden)

    def _mask(self, places: Tensor) -> Tensor:
        assert self.positions is not None
        if not isinstance(self.positions, Tensor):
            chosen: Tensor = self.positions(places)
            return chosen.to(places.device) & (places >= 0)
        mask, width = self.positions.to(places.device), self.positions.shape[1]
        if len(mask) not in (1, len(places)):
            raise InvalidInput(
                f"The mask of positions has {len(mask)} rows, the batch {len(places)}; give one row for each, or a single one."
            )
        if width == 0:
            return torch.zeros_like(places, dtype=torch.bool)
        chosen = mask.expand(len(places), -1).gather(1, places.clamp(0, width - 1))
        return chosen & (places >= 0) & (places < width)


def _ablated(hidden: Tensor, vector: Tensor) -> Tensor:
    unit: Tensor = vector.float() / vector.float().norm()
    ablated: Tensor = hidden.float() - (hidden.float() @ unit)[..., None] * unit
    return ablated.to(hidden.dtype)


_MODES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda hidden, vector: hidden + vector.to(hidden.dtype),
    "ablate": _ablated,
    "replace": lambda hidden, vector: vector.to(hidden.dtype).expand_as(hidden).clone(),
}


@contextmanager
def editing(lm: "LM", edits: Sequence[Edit], *, backend: str = "hf", remote: bool = False) -> Iterator["LM"]:
    """Apply edits, in order, to every forward pass while open. Yields the LM that is edited: of `hf` the one given, else a copy.

    Args:
        lm: the model.
        edits: those of one site in order; sites follow the forward pass.
        backend: a key of `BACKENDS`.
        remote: with backend "nnsight", each forward pass runs on NDIF (without a key-value cache).

    Raises:
        UnknownName: no such backend.
        InvalidInput: a block that the model does not have, or a vector of another width.
        UnsupportedSite: a site that the architecture or the backend does not have.
    """
    used = chosen(backend, remote)
    for edit in edits:
        checked([edit.site], lm.n_layers, lm.name)
        if len(edit.tensor) != (wide := width(lm, edit.site)):
            found = f"The vector of the edit at {edit.site} has width {len(edit.tensor)}, {lm.name!r} has {'d_model' if edit.site.kind != 'z' else 'n_heads * d_head ='} {wide}."
            raise InvalidInput(f"{found} Was it fitted on another model?")
    with used.edit(lm, [(edit.site, edit) for edit in edits]) as edited:
        yield edited


def additions(vectors: Mapping[tuple[str, Site], Steers] | Iterable[Steers], strength: float = 1.0) -> list[Edit]:
    """Edits that add `strength` times its scale along each steering vector at its site, at all positions of a forward pass.

    Args:
        vectors: a VectorSet, or steering vectors.
        strength: in units of each vector's `scale`.

    Raises:
        InvalidInput: a strength that is not finite.
    """
    if not abs(strength) < float("inf"):
        raise InvalidInput(f"strength={strength} is not finite; 1.0 adds the mean difference that the vector was fitted on.")
    return [Edit(v.site, strength * v.vector) for v in (vectors.values() if isinstance(vectors, Mapping) else vectors)]
