"""Where each site is in each architecture: which module of a block, and whether the site is what goes in or what comes out.

An architecture that is not listed has the two ends of its blocks and nothing else. Whoever adds one adds a tiny model of it to
`tests/activations/test_backends.py`, where three backends must agree on it. This file runs no model.
"""

from typing import TYPE_CHECKING, NamedTuple

from latentreason.activations.sites import Site
from latentreason.errors import UnsupportedSite

if TYPE_CHECKING:
    from latentreason.models.language_model import LM


class Place(NamedTuple):
    """One tensor of a forward pass.

    Attributes:
        path: of the module, below its block.
        side: "input" or "output" of that module.
        shared: the tensor also runs on past that module along the residual stream, so an edit must reach both.
    """

    path: str
    side: str
    shared: bool = False


class Anatomy(NamedTuple):
    """Paths within a block."""

    projection: str
    """The output projection of the attention; `z` is what goes in."""
    attention: str
    """The module whose output is added to the residual stream: after a norm behind the attention, if there is one."""
    between: str
    """The first module to read the stream between attention and MLP."""
    mlp: str
    """The module whose output is added last, likewise."""


_LLAMA = Anatomy("self_attn.o_proj", "self_attn", "post_attention_layernorm", "mlp")
_GEMMA = Anatomy("self_attn.o_proj", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
_OLMO = Anatomy("self_attn.o_proj", "post_attention_layernorm", "mlp", "post_feedforward_layernorm")  # no norm before either

ANATOMIES = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "phi3", "qwen2", "qwen3", "qwen3_moe"), _LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text"), _GEMMA),
    **dict.fromkeys(("olmo2", "olmo3"), _OLMO),
    "gpt2": Anatomy("attn.c_proj", "attn", "ln_2", "mlp"),
    "gpt_neox": Anatomy("attention.dense", "attention", "post_attention_layernorm", "mlp"),
}
"""`model_type` of a config -> where its sites are."""


def place(lm: "LM", site: Site) -> Place:
    """Where the site is in the blocks of this model.

    Raises:
        UnsupportedSite: the architecture does not have it, or is not listed.
    """
    if site.kind in ("resid_pre", "resid"):
        return Place("", "input" if site.kind == "resid_pre" else "output")
    config = lm.model.config.get_text_config()
    if config.model_type not in ANATOMIES:
        raise UnsupportedSite(f"{site} cannot be found in {lm.name!r}: within blocks of the architecture {config.model_type!r} no place was checked. Its resid_pre and resid can be read and edited; architectures with more: {', '.join(sorted(ANATOMIES))}.")
    if site.kind == "resid_mid" and getattr(config, "use_parallel_residual", False):
        raise UnsupportedSite(f"{lm.name!r} has no {site}: in its blocks attention and MLP both read the block's input, so no stream runs between them. Use resid_pre, attn_out or mlp_out.")
    anatomy = ANATOMIES[config.model_type]
    return {
        "z": Place(anatomy.projection, "input"),
        "attn_out": Place(anatomy.attention, "output"),
        "resid_mid": Place(anatomy.between, "input", shared=True),
        "mlp_out": Place(anatomy.mlp, "output"),
    }[site.kind]


def width(lm: "LM", site: Site) -> int:
    """Length of an activation at the site.

    Raises:
        UnsupportedSite: as `place`.
    """
    place(lm, site)
    if site.kind != "z":
        return lm.d_model
    config = lm.model.config.get_text_config()
    heads, per_head = config.num_attention_heads, getattr(config, "head_dim", None)
    return int(heads * (per_head or config.hidden_size // heads))
