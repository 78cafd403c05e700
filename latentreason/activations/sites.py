"""Site: where in a model. Activations: what was read there, one row a token, with an index that says which token.

Site(i) is the output of block i BEFORE the final norm. The row of completion token t is the activation that PREDICTS token t,
so it stands one position earlier. This file knows nothing about models. Example::

    activations = lr.capture(lm, rollouts, [Site(2)])
    activations.select(activations.index["position"] == 0).values[Site(2)]  # what predicts the first token
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from latentreason.errors import InvalidInput, unknown_name
from latentreason.files import read_table, write_table
from latentreason.store import open_artifact, writing

KINDS = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid")
"""Kinds of site, in the order in which a block computes them; docs/backends.md has a drawing. `resid` is the stream after the block."""

ALIASES = {"resid_post": "resid"}
"""Other spellings that are accepted; files and tables hold the kind on the right."""

INDEX = ("arm", "problem", "sample", "position", "token")
"""Columns of an index: whose completion, token position in it, and the token id that the row predicts."""


@dataclass(frozen=True)
class Site:
    """A place in a model. Sites sort by depth.

    Attributes:
        layer: number of the block, from 0.
        kind: one of `KINDS`, or `resid_post`, which is the same as `resid` and is turned into it.

    Raises:
        InvalidInput: a layer that is not an integer from 0.
        UnknownName: another kind.
    """

    layer: int
    kind: str = "resid"

    def __post_init__(self) -> None:
        if not isinstance(self.layer, int | np.integer) or isinstance(self.layer, bool) or self.layer < 0:
            raise InvalidInput(f"A layer is counted from 0, found {self.layer!r}; the last one is lm.n_layers - 1.")
        object.__setattr__(self, "kind", ALIASES.get(self.kind, self.kind))
        if self.kind not in KINDS:
            raise unknown_name("site kind", self.kind, [*KINDS, *ALIASES])
        object.__setattr__(self, "layer", int(self.layer))  # of numpy: JSON cannot hold it

    def __lt__(self, other: "Site") -> bool:
        return (self.layer, KINDS.index(self.kind)) < (other.layer, KINDS.index(other.kind))

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"


def checked(sites: Site | int | Sequence[Site | int], n_layers: int, model: str) -> list[Site]:
    """The sites without repeats, shallowest first; a number is the residual stream after that block.

    Raises:
        InvalidInput: none, or a block that the model does not have.
    """
    several = [sites] if isinstance(sites, Site | int) else sites
    unique = sorted({Site(site) if isinstance(site, int) else site for site in several})
    if not unique or unique[-1].layer >= n_layers:
        raise InvalidInput(f"{model!r} has blocks 0 to {n_layers - 1}; give at least one site among them, not {list(map(str, unique))}.")
    return unique


@dataclass(frozen=True, eq=False)
class Activations:
    """Activations of tokens.

    Attributes:
        values: site -> one row a token; d_model wide, at `z` n_heads * d_head.
        index: the same rows; columns `INDEX`, then any that the spans had which were asked for. Means by a column have that column, `n`
            (spans or rollouts) and `n_tokens` instead.

    Raises:
        InvalidInput: values and index differ in their number of rows.
    """

    values: dict[Site, Float[Tensor, "row _"]]
    index: pd.DataFrame

    def __post_init__(self) -> None:
        if wrong := {str(site): len(rows) for site, rows in self.values.items() if len(rows) != len(self.index)}:
            raise InvalidInput(
                f"The index has {len(self.index)} rows, the values have {wrong}; give a row of the index for each activation."
            )

    def __len__(self) -> int:
        return len(self.index)

    @property
    def sites(self) -> list[Site]:
        """The sites, shallowest first."""
        return sorted(self.values)

    def select(self, mask: pd.Series | np.ndarray | Tensor) -> "Activations":
        """The rows where a boolean mask over all rows is true.

        Raises:
            InvalidInput: not one boolean a row.
        """
        where = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
        if where.dtype != bool or where.shape != (len(self),):
            raise InvalidInput(f"A mask holds one boolean for each of {len(self)} rows, found {where.dtype} of shape {where.shape}.")
        rows = torch.from_numpy(where.nonzero()[0])
        values = {site: old[rows.to(old.device)] for site, old in self.values.items()}
        return Activations(values, self.index[where].reset_index(drop=True))

    def save(self, path: str | Path) -> None:
        """Write an artifact directory: `values.safetensors`, `index.parquet` and a manifest.

        Raises:
            ArtifactConflict: `path` holds something else.
            ArtifactWriteError: the disk refuses the write.
        """
        from safetensors.torch import save_file

        config = {"sites": [str(s) for s in self.sites], "rows": len(self)}
        with writing(path, kind="activations", name=Path(path).name, config=config) as folder:
            save_file({str(site): values.contiguous() for site, values in self.values.items()}, folder / "values.safetensors")
            write_table(folder / "index.parquet", self.index)

    @classmethod
    def load(cls, path: str | Path) -> "Activations":
        """Read what `save` wrote.

        Raises:
            CorruptArtifact: missing, cut short or edited; says which file.
        """
        from safetensors.torch import load_file

        open_artifact(path)
        named = [(name.split("."), values) for name, values in load_file(Path(path) / "values.safetensors").items()]
        return cls({Site(int(layer), kind): values for (kind, layer), values in named}, read_table(Path(path) / "index.parquet"))
