"""Strategies: categories of spans that nobody labelled, as one linear reader of mean span activations. `discover` makes them.

Reading: a span's activation minus `mean`, brought to length 1, belongs to the category with the largest `weight @ x + bias`. Example::

    found.label(capture_spans(lm, rollouts, spans, layers=found.site.layer))    # a name for each span
    lr.tag(rollouts, found.labeller(lm))                                        # the same, as spans
"""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from latentreason.activations.capture import KEYS, capture
from latentreason.activations.sites import Activations, Site
from latentreason.errors import InvalidInput, NonFinite
from latentreason.files import read_json, write_json
from latentreason.store import open_artifact, writing
from latentreason.tables import Rollouts, Spans
from latentreason.vectors.contrast import layer_sites
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

if TYPE_CHECKING:
    from latentreason.models.language_model import LM

SHOWN = 80
"""Characters of a span that are shown."""


def capture_spans(lm: "LM", rollouts: Rollouts, spans: Spans, *, layers: str | int | Sequence[int] = "all", **how: Any) -> Activations:
    """Mean activation of each span: the states from the token before it (which predicts its first) to its last token.

    The last state is missing where a completion was cut off inside its last span. The index keeps the columns of the spans and gets `text`.

    Args:
        lm: the model that reads.
        rollouts: what it reads.
        spans: of these rollouts.
        layers: numbers of blocks.
        how: further arguments of `capture`.
    """
    table, tokens = spans.table, rollouts.table.set_index(KEYS)["token_ids"]
    if not tokens.index.is_unique:
        raise InvalidInput("Two rollouts have the same arm, problem and sample, so spans cannot tell them apart; rename an arm.")
    own = tokens.reindex(pd.MultiIndex.from_frame(table[KEYS])).tolist()
    if any(isinstance(ids, float) for ids in own):
        raise InvalidInput("Some spans lie in no completion. Tag the rollouts that you capture.")
    starts, ends = table["start"].tolist(), table["end"].tolist()
    texts = lm.tokenizer.batch_decode([list(ids[a:b]) for ids, a, b in zip(own, starts, ends, strict=True)])
    wider = [min(b + 1, len(ids)) for ids, b in zip(own, ends, strict=True)]
    return capture(lm, rollouts, layer_sites(lm, layers), at=table.assign(end=wider, text=texts), reduce="mean", **how)


def normalised(values: Float[np.ndarray, "span d_model"], mean: Float[np.ndarray, "d_model"]) -> Float[np.ndarray, "span d_model"]:
    """The mean subtracted, each row of length 1; a row that equals the mean is zero."""
    centred = values - mean
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(length > 0, length, 1))


def values_at(activations: Activations, site: Site | None) -> tuple[Site, Float[np.ndarray, "span d_model"]]:
    """The values at a site, the only one unless named, in double precision.

    Raises:
        InvalidInput: not that site, or several and none named.
        NonFinite: NaN or Inf.
    """
    if site is None and len(activations.values) == 1:
        site = activations.sites[0]
    if site is None or site not in activations.values:
        raise InvalidInput(f"The activations are of {', '.join(map(str, activations.sites))}; {'name one with site=...' if site is None else f'capture {site} too'}.")
    values = activations.values[site].detach().double().cpu().numpy()
    if not np.isfinite(values).all():
        raise NonFinite(f"{int((~np.isfinite(values)).any(1).sum())} of {len(values)} span activations at {site} hold NaN or Inf; leave them out, or capture in a wider dtype.")
    return site, values


@dataclass(frozen=True, eq=False)
class Strategies:
    """Categories of spans; made by `discover`.

    Attributes:
        method: a key of `discovery.METHODS`.
        site: what is read.
        weight, bias, mean: the reader; `weight` has a row a category.
        table: a row a category, the largest first: `category`, `n` and `n_held_out` (spans), `title` (words that its most typical spans have and others do
            not; model output, untrusted) and `typical` (their texts).
        scores: a row for each number of categories tried: `n`, `completeness`, `consistency`, `independence`, `score`, `chosen`, `n_held_out` and `n_problems`.
        centroids: for each category the mean activation of its spans minus that of all, in units of the activation.
        info: how it was made; plain data.
    """

    method: str
    site: Site
    weight: Float[Tensor, "category d_model"]
    bias: Float[Tensor, "category"]
    mean: Float[Tensor, "d_model"]
    table: pd.DataFrame
    scores: pd.DataFrame
    centroids: VectorSet
    info: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def names(self) -> list[str]:
        """The categories, the largest first."""
        return [str(name) for name in self.table["category"]]

    def label(self, activations: Activations) -> Shaped[np.ndarray, "span"]:
        """The category of each span.

        Args:
            activations: of spans, as from `capture_spans`, at this site among others.

        Raises:
            InvalidInput: not this site, or another width.
            NonFinite: NaN or Inf.
        """
        _, values = values_at(activations, self.site)
        if values.shape[1] != self.weight.shape[1]:
            raise InvalidInput(f"These categories read activations of width {self.weight.shape[1]}, found {values.shape[1]}; are they of the same model?")
        x = normalised(values, self.mean.numpy())
        found: np.ndarray = np.array(self.names, dtype=object)[(x @ self.weight.numpy().T + self.bias.numpy()).argmax(1)]
        return found

    def labeller(self, lm: "LM") -> Callable[[Rollouts, Spans], Sequence[str]]:
        """A function for `tag(rollouts, strategies)`: it names spans as `lm` reads them."""
        return lambda rollouts, spans: list(self.label(capture_spans(lm, rollouts, spans, layers=self.site.layer)))

    def save(self, path: str | Path) -> None:
        """Write an artifact directory: `reader.safetensors`, `card.json` (all else) and a manifest.

        Raises:
            ArtifactConflict: `path` holds something else.
            ArtifactWriteError: the disk refuses the write.
        """
        from safetensors.torch import save_file

        card = {"method": self.method, "site": vars(self.site), "info": dict(self.info), "n": len(self)}
        raw = torch.stack([v.vector for v in self._ordered()])
        with writing(path, kind="strategies", name=Path(path).name, config=card) as folder:
            save_file({"weight": self.weight, "bias": self.bias, "mean": self.mean, "centroids": raw}, folder / "reader.safetensors")
            write_json(folder / "card.json", {**card, "table": self.table.to_dict("records"), "scores": self.scores.to_dict("records")})

    @classmethod
    def load(cls, path: str | Path) -> "Strategies":
        """Read what `save` wrote.

        Raises:
            CorruptArtifact: missing, cut short or edited; says which file.
        """
        from safetensors.torch import load_file

        open_artifact(path)
        card, tensors = read_json(Path(path) / "card.json"), load_file(Path(path) / "reader.safetensors")
        table, site = pd.DataFrame(card["table"]), Site(**card["site"])
        centroids = centroids_of(site, tensors.pop("centroids"), table["category"].tolist(), table["n"].tolist(), card["method"])
        return cls(card["method"], site, **tensors, table=table, scores=pd.DataFrame(card["scores"]), centroids=centroids, info=card["info"])

    def _ordered(self) -> list[SteeringVector]:
        return [self.centroids[name, self.site] for name in self.names]

    def _summary(self) -> str:
        chosen = self.scores[self.scores["chosen"]].iloc[0]
        told = ", ".join(f"{name} {chosen[name]:.2f}" for name in ("completeness", "consistency", "independence"))
        return f"{len(self)} categories at {self.site} by {self.method}; {told} on {int(chosen['n_held_out'])} held-out spans of {int(chosen['n_problems'])} problems"

    def __repr__(self) -> str:
        return f"Strategies({self._summary()}; the categories are in .table)"

    def _repr_html_(self) -> str:
        shown = self.table.assign(typical=[" | ".join(t[:3]) for t in self.table["typical"]])
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in r) + "</tr>" for r in shown.itertuples(index=False))
        head = "".join(f"<th>{html.escape(str(c))}</th>" for c in shown)
        return f"<p>Strategies: {html.escape(self._summary())}</p><table><tr>{head}</tr>{rows}</table>"


def centroids_of(site: Site, raw: Float[Tensor, "category d_model"], names: Sequence[str], n: Sequence[int], method: str) -> VectorSet:
    """Raw centroids, about the mean of all spans, as a set."""
    vectors = tuple(SteeringVector.of(site, row, name, int(count), method=method) for row, name, count in zip(raw, names, n, strict=True))
    return VectorSet(vectors, {"method": method, "of": "mean activation of a category minus that of all spans"})
