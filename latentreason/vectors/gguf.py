"""Vectors as a GGUF control vector: the file that `llama-cli --control-vector FILE` applies and that repeng imports and exports.

The tensor `direction.N` is what llama.cpp and repeng add to the output of block N, counted from 0 and before the final norm: N is our
layer. llama.cpp has no place for block 0 and drops a whole file that holds `direction.0`, so layer 0 is never written. Tensors are raw
vectors (direction times scale) in fp32: a strength of 1 there is a strength of 1 here. What else a vector knows stays in `save`.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from latentreason.activations.sites import Site
from latentreason.errors import CorruptArtifact, InvalidInput, MissingDependency
from latentreason.files import FIX, hidden, reported
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

if TYPE_CHECKING:
    from gguf import GGUFReader

ARCHITECTURE = "controlvector"
TENSOR = re.compile(r"direction\.(\d+)")


def write_gguf(vectors: VectorSet, path: str | Path, label: str | None = None, *, model_type: str | None = None) -> list[int]:
    """See `VectorSet.to_gguf`."""
    chosen = vectors.for_label(label)
    written = [v for v in chosen.values() if v.site.layer > 0]
    if not written:
        raise InvalidInput("A control vector has no place for block 0, and these vectors have no other layer; fit deeper ones.")
    hint = model_type or chosen.info.get("model_type")
    if not hint:
        raise InvalidInput("A control vector names the architecture that it is for; give model_type, such as lm.model.config.model_type.")
    gguf = _package()
    target = Path(path)
    partial = hidden(target, "partial")
    with reported(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            writer = gguf.GGUFWriter(partial, ARCHITECTURE)
            writer.add_string(f"{ARCHITECTURE}.model_hint", str(hint))
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(written))
            writer.add_string("latentreason.label", written[0].label)  # other readers pass over it
            writer.add_uint32("latentreason.n", written[0].n)
            for v in written:
                writer.add_tensor(f"direction.{v.site.layer}", v.vector.detach().float().cpu().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return [v.site.layer for v in written]


def read_gguf(path: str | Path, label: str | None = None) -> VectorSet:
    """See `VectorSet.from_gguf`."""
    gguf = _package()
    try:
        reader = gguf.GGUFReader(path)
        facts = {name: _text(reader, name) for name in ("general.architecture", f"{ARCHITECTURE}.model_hint", "latentreason.label")}
        n = reader.get_field("latentreason.n")
        tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
        count = int(n.parts[n.data[0]][0]) if n else 0
    except (OSError, ValueError, KeyError, IndexError) as error:  # not GGUF, cut short, or edited
        raise CorruptArtifact(f"Cannot read GGUF {path}: {error}. {FIX}") from error
    if facts["general.architecture"] != ARCHITECTURE:
        found = f"{path} holds {facts['general.architecture']!r}, not a control vector"
        raise InvalidInput(f"{found}. Give the file of vectors, not that of a model.")
    numbers = {name: TENSOR.fullmatch(name) for name in tensors}
    wrong = [name for name, rows in tensors.items() if not numbers[name] or rows.ndim != 1 or rows.dtype.kind != "f"]
    if wrong or not tensors:
        what = f"tensors {wrong} that are" if wrong else "nothing that is"
        raise InvalidInput(f"{path} holds {what} not one float vector named direction.N. Export it again, unquantised.")
    name = label or facts["latentreason.label"] or "control"
    made = [
        SteeringVector.of(Site(int(number[1])), torch.from_numpy(tensors[key].astype(np.float32)), name, count)
        for key, number in numbers.items()
        if number
    ]
    return VectorSet(tuple(made), {"model_type": facts[f"{ARCHITECTURE}.model_hint"]})


def _text(reader: "GGUFReader", name: str) -> str | None:
    field = reader.get_field(name)
    return None if field is None else bytes(field.parts[field.data[0]]).decode(errors="replace")


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingDependency("Control vectors need the package gguf: pip install 'latentreason[gguf]'.") from error
    return gguf
