"""Models made of two checkpoints' weights: between them, or the base with the largest changes only. And what RL changed.

The caller's models are never touched: each function returns an LM with weights of its own.
"""

import copy
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from latentreason.errors import InvalidInput
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair


def interpolated(pair: ModelPair, alpha: float) -> LM:
    """The model with weights (1 - alpha) base + alpha RL; 0 is the base model, 1 the RL model, beyond 1 it is extrapolated.

    Raises:
        InvalidInput: alpha is not finite, or the two models have different weights.
    """
    if not abs(alpha) < float("inf"):
        raise InvalidInput(f"alpha={alpha} is not finite; 0 is the base model, 1 the RL model.")
    return _changed(pair, lambda change: alpha * change, f"interpolated({alpha:g})")


def largest_changes(pair: ModelPair, share: float) -> LM:
    """The base model with the `share` of weights that RL changed most (in absolute value, over all matrices) set to RL's.

    Raises:
        InvalidInput: a share outside (0, 1], or models with different weights.
    """
    if not 0 < share <= 1:
        raise InvalidInput(f"share={share} must lie in (0, 1]: the part of all weights that is taken from the RL model.")
    sizes = torch.cat([change.abs().flatten() for change in _changes(pair).values()])
    threshold = sizes.kthvalue(max(1, round((1 - share) * len(sizes)))).values if share < 1 else sizes.new_tensor(-1.0)
    return _changed(pair, lambda change: torch.where(change.abs() > threshold, change, torch.zeros_like(change)), f"largest_changes({share:g})")


def weight_changes(pair: ModelPair, *, tolerance: float = 1e-5) -> pd.DataFrame:
    """What RL changed, one row a weight matrix: name, n, unchanged (share within `tolerance`), relative (norm of the change over that of the
    base), stable_rank (squared Frobenius over squared spectral norm, at most `full_rank`). After Mukherjee et al. 2025 (arXiv 2505.11711).
    """
    base = dict(pair.base.model.named_parameters())
    rows = []
    for name, change in _changes(pair).items():
        if change.ndim == 2:
            top = float(torch.linalg.matrix_norm(change, 2)) ** 2
            rows.append({
                "name": name, "n": change.numel(), "unchanged": float((change.abs() <= tolerance).float().mean()),
                "relative": float(change.norm() / base[name].detach().float().norm()),
                "stable_rank": float(change.norm()) ** 2 / top if top else 0.0, "full_rank": min(change.shape),
            })  # fmt: skip
    return pd.DataFrame(rows)


def with_biases(model: Any) -> Any:
    """A copy of a Llama whose MLPs have biases: zeros where it had none, so that it is the same function, and an ordinary model to save and load.

    Raises:
        InvalidInput: another architecture.
    """
    if getattr(model.config, "model_type", "") != "llama":
        raise InvalidInput(f"A {type(model).__name__} cannot be given biases: only a Llama has the switch mlp_bias.")
    config = copy.deepcopy(model.config)
    config.mlp_bias = True
    with torch.random.fork_rng(devices=[]):
        biased = type(model)(config).to(model.device)
    for weight in biased.parameters():
        weight.data = weight.data.to(model.dtype)  # not the buffers: the frequencies of the positions stay in float32
    missing = biased.load_state_dict(model.state_dict(), strict=False).missing_keys
    with torch.no_grad():
        for name in missing:
            biased.get_parameter(name).zero_()
    biased.generation_config = copy.deepcopy(model.generation_config)
    return biased.train(model.training)


def _weights(pair: ModelPair) -> tuple[Any, Any]:
    """The two models; the base with biases of zero where RL trained some that it does not have."""
    base, rl = pair.base.model, pair.rl.model
    return with_biases(base) if getattr(rl.config, "mlp_bias", False) and getattr(base.config, "mlp_bias", None) is False else base, rl


def _changes(pair: ModelPair) -> dict[str, Tensor]:
    base, rl = (dict(model.named_parameters()) for model in _weights(pair))
    if {n: w.shape for n, w in base.items()} != {n: w.shape for n, w in rl.items()}:
        raise InvalidInput(f"{pair.base.name!r} and {pair.rl.name!r} have different weights, so they have no difference: give a base and the RL model trained from it (a LoRA pair with merge=True).")
    return {name: rl[name].detach().float() - weight.detach().float() for name, weight in base.items()}


def _changed(pair: ModelPair, part: Callable[[Tensor], Tensor], name: str) -> LM:
    changes, model = _changes(pair), copy.deepcopy(_weights(pair)[0])
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.copy_((weight.float() + part(changes[key])).to(weight.dtype))
    return LM(model.eval(), pair.base.tokenizer, name)
