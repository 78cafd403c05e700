"""The backend of TransformerLens: the hook points of a TransformerBridge, which owns a copy of the model.

Booting a bridge rebuilds the modules of a model and moves its logits by about 4e-7, so the caller's model never meets it. The copy
costs the model's memory once more; it always attends eagerly, so a model that does not differs from it by about 6e-5.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from jaxtyping import Int
from torch import Tensor, nn

from latentreason.activations.copies import Cache, copied, kept
from latentreason.activations.hf import Change, See, changing, reading
from latentreason.activations.places import Place, place
from latentreason.activations.sites import Site
from latentreason.errors import MissingDependency, UnsupportedSite
from latentreason.models.blocks import decoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from latentreason.models.language_model import LM

POINTS = {
    "resid_pre": "hook_resid_pre", "z": "attn.hook_z", "attn_out": "hook_attn_out", "resid_mid": "hook_resid_mid",
    "mlp_out": "hook_mlp_out", "resid": "hook_resid_post",
}  # fmt: skip
"""Kind of site -> name of the hook point in a block of the bridge."""

_BRIDGES: Cache[Any] = WeakKeyDictionary()


def read(
    lm: "LM", ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None, positions: Int[Tensor, "batch pos"],
    sites: Sequence[Site], see: See,
) -> None:  # fmt: skip
    """As `hf.read`, on the bridge."""
    bridge = _bridge(lm)
    found = [(site, *_point(lm, bridge, site)) for site in sites]
    reading(lambda: bridge(ids, attention_mask=mask, position_ids=positions, use_cache=False, return_type=None), found, see)


@contextmanager
def edit(lm: "LM", changes: Sequence[tuple[Site, Change]]) -> Iterator["LM"]:
    """As `hf.edit`. The LM that is edited is the copy: the caller's computes what it always did."""
    bridge = _bridge(lm)
    edited = replace(lm, model=bridge.original_model)
    with changing(decoder(edited), [(*_point(lm, bridge, site), change) for site, change in changes]):
        yield edited


def _point(lm: "LM", bridge: Any, site: Site) -> tuple[nn.Module, Place]:
    """A hook point hands on what it gets, so both sides of a module are the output of one of its points."""
    where, name = place(lm, site), f"blocks.{site.layer}.{POINTS[site.kind]}"
    if name not in bridge.hook_dict:
        raise UnsupportedSite(f"The bridge of {lm.name!r} has no hook point {name}. Use backend='hf'.")
    point: nn.Module = bridge.hook_dict[name]
    return point, where._replace(side="output")


def _bridge(lm: "LM") -> Any:
    """The bridge of this model, booted at its first use; of an LM that `edit` yielded, the bridge it is part of."""
    for _, bridge in _BRIDGES.values():
        if bridge.original_model is lm.model:
            return bridge
    return kept(_BRIDGES, lm.model, lambda: _booted(lm))


def _booted(lm: "LM") -> Any:
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError as error:
        raise MissingDependency("backend='lens' needs TransformerLens 4: pip install 'transformer_lens>=4.3,<5'.") from error
    model: Any = copied(lm.model, share=False)
    if not model.config.architectures:  # a model that was never saved names none
        model.config.architectures = [type(model).__name__]
    try:
        return TransformerBridge.boot_transformers(
            model.name_or_path or "model", hf_model=model, tokenizer=_tokenizer(lm.tokenizer), device=str(lm.device), dtype=model.dtype
        )
    except ValueError as error:
        raise UnsupportedSite(f"TransformerLens cannot bridge {lm.name!r} ({type(lm.model).__name__}): {str(error)[:200]} Use backend='hf'.") from error


def _tokenizer(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """A copy, since a bridge sets pad tokens; as it is said to add a BOS, no other is loaded from its name, which one made in memory lacks."""
    own = copy.deepcopy(tokenizer)
    own.init_kwargs = {"name_or_path": "", **own.init_kwargs, "add_bos_token": True}
    return own
