"""SteeringVector: a direction at a site, from "without" to "with", and its natural size. VectorSet: many of them by label and site.

Values like numbers: `+ - *` make new ones, nothing is changed in place. Example::

    vectors = lr.fit_vectors(pair.base, rollouts, lr.tag(rollouts))
    vectors.for_label("split").at(2) * 0.5
    vectors.cosine(lr.fit_vectors(pair.rl, rl_rollouts, lr.tag(rl_rollouts)))
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput, NonFinite, unknown_name
from latentreason.files import read_json, write_json
from latentreason.store import open_artifact, writing


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A direction at a site.

    Attributes:
        site: where it was fitted and is to be applied.
        direction: of length 1.
        scale: mean gap between the projections of "with" and "without" onto it, in units of the activation.
        label: the strategy.
        n: number of activations "with".
        info: how it was fitted; plain data.

    Raises:
        InvalidInput: a direction that is not a vector of length 1.
        NonFinite: NaN or Inf in direction or scale.
    """

    site: Site
    direction: Float[Tensor, "..."]
    scale: float
    label: str
    n: int
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (torch.isfinite(self.direction).all() and abs(self.scale) < float("inf")):
            raise NonFinite(f"The vector {self.label!r} at {self.site} holds NaN or Inf; fit it on finite activations.")
        if self.direction.ndim != 1 or abs(float(self.direction.float().norm()) - 1) > 1e-3:
            raise InvalidInput(
                f"The direction of {self.label!r} must be one vector of length 1; make it from a raw one with SteeringVector.of."
            )

    @classmethod
    def of(cls, site: Site, vector: Float[Tensor, "d_model"], label: str, n: int, **info: Any) -> "SteeringVector":
        """From a raw vector, whose length becomes the scale. Zero has no direction: it gets the first axis, at scale 0."""
        vector = vector.detach()  # a row of the weights has a gradient to keep
        scale = float(vector.norm())
        unit = vector / scale if scale else torch.eye(1, len(vector), dtype=vector.dtype, device=vector.device)[0]
        return cls(site, unit, scale, label, n, info)

    def __repr__(self) -> str:
        return f"SteeringVector({self.label!r} at {self.site}, scale {self.scale:.3g}, n {self.n})"

    @property
    def vector(self) -> Float[Tensor, "d_model"]:
        """The raw vector: direction times scale, what `strength=1` adds."""
        return self.scale * self.direction

    def random_like(self, seed: int) -> "SteeringVector":
        """The norm-matched control: same scale, a random direction that depends on seed, label and site alone."""
        digest = hashlib.sha256(f"{seed}|{self.label}|{self.site}".encode()).digest()
        noise = torch.randn(len(self.direction), generator=torch.Generator().manual_seed(int.from_bytes(digest[:7])), dtype=torch.float64)
        return replace(self, direction=(noise / noise.norm()).to(self.direction.dtype), info={**self.info, "random_like": seed})

    def __add__(self, other: "SteeringVector") -> "SteeringVector":
        return self._combined(other, self.vector + self._matching(other), "+")

    def __sub__(self, other: "SteeringVector") -> "SteeringVector":
        return self._combined(other, self.vector - self._matching(other), "-")

    def __mul__(self, factor: float) -> "SteeringVector":
        return replace(self, direction=self.direction if factor >= 0 else -self.direction, scale=abs(factor) * self.scale)

    __rmul__ = __mul__

    def __neg__(self) -> "SteeringVector":
        return self * -1.0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        mine, theirs = ((v.site, v.scale, v.label, v.n, v.info) for v in (self, other))
        return mine == theirs and torch.equal(self.direction, other.direction)

    def __hash__(self) -> int:
        return hash((self.site, self.scale, self.label, self.n))

    def _matching(self, other: "SteeringVector") -> Tensor:
        if (self.site, len(self.direction)) != (other.site, len(other.direction)):
            found = " and ".join(f"{v.site} of width {len(v.direction)}" for v in (self, other))
            raise InvalidInput(f"Vectors add up only at one site of one model; these are at {found}.")
        return other.vector

    def _combined(self, other: "SteeringVector", vector: Tensor, sign: str) -> "SteeringVector":
        label = self.label if self.label == other.label else f"({self.label} {sign} {other.label})"
        return SteeringVector.of(self.site, vector, label, min(self.n, other.n))


@dataclass(frozen=True, eq=False)
class VectorSet(Mapping[tuple[str, Site], SteeringVector]):
    """Steering vectors by (label, site). Cannot be changed; two sets are equal when their vectors are, to the bit.

    Attributes:
        vectors: in any order; iteration goes by label, then by layer.
        info: facts about the fit: method, model.
        skipped: label -> why it has no vector.

    Raises:
        InvalidInput: two vectors of the same label and site.
    """

    vectors: tuple[SteeringVector, ...]
    info: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = sorted(self.vectors, key=lambda v: (v.label, v.site))
        object.__setattr__(self, "vectors", tuple(ordered))
        if len(self._by_key) < len(ordered):
            raise InvalidInput("Two vectors have the same label and site; keep one of them.")

    @cached_property
    def _by_key(self) -> dict[tuple[str, Site], SteeringVector]:
        return {(v.label, v.site): v for v in self.vectors}

    def __getitem__(self, key: tuple[str, Site]) -> SteeringVector:
        if key not in self._by_key:
            raise unknown_name("vector", f"{key[0]} at {key[1]}", [f"{label} at {site}" for label, site in self._by_key])
        return self._by_key[key]

    def __iter__(self) -> Iterator[tuple[str, Site]]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        return f"VectorSet({len(self)} vectors: {', '.join(self.labels)}; at {', '.join(map(str, self.sites))})"

    @property
    def labels(self) -> list[str]:
        """The labels, sorted."""
        return sorted({v.label for v in self.vectors})

    @property
    def sites(self) -> list[Site]:
        """The sites, shallowest first."""
        return sorted({v.site for v in self.vectors})

    def for_label(self, label: str | None) -> "VectorSet":
        """The vectors of one label. None: of the only one; of several, the mean of the raw vectors at each site, labelled "mean".

        Raises:
            UnknownName: no such label.
        """
        if label is not None and label not in self.labels:
            raise unknown_name("strategy", label, self.labels)
        if label is None and len(self.labels) > 1:
            return self._with(self._mean(site) for site in self.sites)
        return self._with(v for v in self.vectors if label in (None, v.label))

    def at(self, layer: int) -> "VectorSet":
        """The vectors of one layer.

        Raises:
            InvalidInput: there is none.
        """
        found = self._with(v for v in self.vectors if v.site.layer == layer)
        if not found:
            raise InvalidInput(f"No vector at layer {layer}; there are some at layers {sorted({s.layer for s in self.sites})}.")
        return found

    def random_like(self, seed: int) -> "VectorSet":
        """The norm-matched random twin: see `SteeringVector.random_like`."""
        return VectorSet(tuple(v.random_like(seed) for v in self.vectors), {**self.info, "random_like": seed}, self.skipped)

    def cosine(self, other: "VectorSet") -> pd.DataFrame:
        """Cosines on the keys that both sets have: columns label, layer, cosine.

        Raises:
            InvalidInput: no key in common, or vectors of different width.
        """
        rows = [(v.label, v.site.layer, _cosine(v, other[key])) for key, v in self.items() if key in other]
        if not rows:
            found = " and ".join(f"{s.labels} at {list(map(str, s.sites))}" for s in (self, other))
            raise InvalidInput(f"The sets have no label at the same site in common: {found}. Fit both on the same layers.")
        return pd.DataFrame(rows, columns=["label", "layer", "cosine"])

    def __add__(self, other: "VectorSet") -> "VectorSet":
        return self._zipped(other, SteeringVector.__add__)

    def __sub__(self, other: "VectorSet") -> "VectorSet":
        return self._zipped(other, SteeringVector.__sub__)

    def __mul__(self, factor: float) -> "VectorSet":
        return self._with(v * factor for v in self.vectors)

    __rmul__ = __mul__

    def card(self) -> dict[str, Any]:
        """What the set is, as plain data; `weights` is the fingerprint of the model that it was fitted on, `sha256` of labels, sites, scales and directions."""
        digest = hashlib.sha256()
        for v in self.vectors:
            digest.update(f"{v.label}|{v.site}|{v.scale!r}|".encode() + v.direction.detach().float().cpu().numpy().tobytes())
        layers = sorted({s.layer for s in self.sites})
        counts = {v.label: v.n for v in self.vectors}
        known = {name: self.info.get(name) for name in ("method", "model")} | {name: self.info[name] for name in ("weights", "traces", "random_like") if name in self.info}
        return {"labels": self.labels, "layers": layers, "n": counts, **known, "sha256": digest.hexdigest()}

    def save(self, path: str | Path) -> None:
        """Write an artifact directory: `vectors.safetensors` (directions), `card.json` (all else) and a manifest.

        Raises:
            ArtifactConflict: `path` holds something else.
            ArtifactWriteError: the disk refuses the write.
        """
        from safetensors.torch import save_file

        card = self.card()
        entries = [{"label": v.label, **vars(v.site), "scale": v.scale, "n": v.n, "info": v.info} for v in self.vectors]
        tensors = {f"{v.label}/{v.site}": v.direction.detach().cpu().contiguous() for v in self.vectors}
        config = {name: value for name, value in card.items() if name != "sha256"}
        with writing(path, kind="vectors", name=Path(path).name, config=config) as folder:
            save_file(tensors, folder / "vectors.safetensors")
            write_json(folder / "card.json", {**card, "info": self.info, "skipped": self.skipped, "vectors": entries})

    @classmethod
    def load(cls, source: str | Path, *, revision: str | None = None) -> "VectorSet":
        """Read what `save` wrote: a folder, or OWNER/NAME on the Hugging Face hub (fetched once, then from its cache).

        Args:
            source: a folder comes before the hub.
            revision: branch, tag or commit on the hub.

        Raises:
            CorruptArtifact: missing, cut short or edited; says which file.
            InvalidInput: neither a folder nor within reach on the hub.
        """
        from safetensors.torch import load_file

        from latentreason.vectors.hub import download, is_repo_id

        path = download(str(source), revision) if is_repo_id(source) else Path(source)
        open_artifact(path)
        card, directions = read_json(path / "card.json"), load_file(path / "vectors.safetensors")
        entries = [(Site(e["layer"], e["kind"]), e) for e in card["vectors"]]
        vectors = (SteeringVector(s, directions[f"{e['label']}/{s}"], e["scale"], e["label"], e["n"], e["info"]) for s, e in entries)
        return cls(tuple(vectors), card["info"], card["skipped"])

    def push_to_hub(self, repo_id: str, *, private: bool = False, revision: str | None = None, message: str | None = None) -> str:
        """Upload what `save` writes to a model repository of the Hugging Face hub, made if it is not there; the address of the commit.

        Args:
            repo_id: OWNER/NAME.
            private: of a repository that is made.
            revision: branch, made if it is not there.
            message: of the commit.

        Raises:
            InvalidInput: the hub is out of reach or refuses.
        """
        from latentreason.vectors.hub import upload

        with TemporaryDirectory() as folder:
            self.save(Path(folder) / "vectors")
            return upload(Path(folder) / "vectors", repo_id, private=private, revision=revision, message=message)

    def to_gguf(self, path: str | Path, label: str | None = None, *, model_type: str | None = None) -> list[int]:
        """Write the vectors of one label as a GGUF control vector, for llama.cpp and repeng; the layers that were written.

        Layer 0 is left out: llama.cpp has no place for it. The tensor `direction.N` is the raw vector of layer N.

        Args:
            path: of the file.
            label: as for `for_label`.
            model_type: the architecture, `lm.model.config.model_type`; None: as in `info`.

        Raises:
            InvalidInput: no layer but 0, or no model type.
            MissingDependency: the package gguf is not installed.
            ArtifactWriteError: the disk refuses the write.
        """
        from latentreason.vectors.gguf import write_gguf

        return write_gguf(self, path, label, model_type=model_type)

    @classmethod
    def from_gguf(cls, path: str | Path, label: str | None = None) -> "VectorSet":
        """Read a GGUF control vector, of `to_gguf` or of another program; `n` is 0 where the file does not say it.

        Args:
            path: of the file.
            label: of the vectors; None: what the file says, or "control".

        Raises:
            CorruptArtifact: missing, cut short or not GGUF.
            InvalidInput: GGUF, but not a control vector.
            MissingDependency: the package gguf is not installed.
        """
        from latentreason.vectors.gguf import read_gguf

        return read_gguf(path, label)

    def _mean(self, site: Site) -> SteeringVector:
        group = [v for v in self.vectors if v.site == site]
        mean = torch.stack([v.vector for v in group]).mean(0)
        return SteeringVector.of(site, mean, "mean", min(v.n for v in group), mean_of=[v.label for v in group])

    def _with(self, vectors: Iterator[SteeringVector]) -> "VectorSet":
        return VectorSet(tuple(vectors), self.info, self.skipped)

    def _zipped(self, other: "VectorSet", combine: Callable[[SteeringVector, SteeringVector], SteeringVector]) -> "VectorSet":
        if self.keys() != other.keys():
            lone = sorted(f"{label} at {site}" for label, site in self.keys() ^ other.keys())
            raise InvalidInput(f"Sets combine vector by vector, but {lone} are in one only. Take .for_label(label) or .at(layer) of both.")
        return VectorSet(tuple(combine(v, other[key]) for key, v in self.items()), {name: value for name, value in self.info.items() if other.info.get(name) == value})


def _cosine(a: SteeringVector, b: SteeringVector) -> float:
    if len(a.direction) != len(b.direction):
        raise InvalidInput(f"Vectors of width {len(a.direction)} and {len(b.direction)} have no cosine; are they of one architecture?")
    return float((a.direction.double() @ b.direction.double()).clamp(-1, 1))
