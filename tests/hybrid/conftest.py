"""Pairs of tiny random models: three families, and an organism's vocabulary for the task `chain`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from latentreason.models.pair import ModelPair


@pytest.fixture(scope="session", params=[("llama", 0, 1), ("qwen2", 0, 1), ("gpt2", 3, 4)], ids=lambda param: param[0])
def pair(request, make_tiny, tiny_tokenizer) -> "ModelPair":
    """Two different models of one family, each of the three families in turn."""
    from latentreason.models.language_model import LM
    from latentreason.models.pair import ModelPair

    family, *seeds = request.param
    return ModelPair(*(LM(make_tiny(family, seed), tiny_tokenizer, name) for seed, name in zip(seeds, ("base", "rl"), strict=True)))


@pytest.fixture(scope="session")
def make_organisms() -> "Callable[..., ModelPair]":
    """make_organisms(distance): an untrained organism and the same with its weights moved towards another by `distance`."""
    from dataclasses import replace
    from functools import cache

    import torch

    from latentreason.models.language_model import LM
    from latentreason.models.pair import ModelPair
    from latentreason.organisms.recipe import Size
    from latentreason.organisms.tokenizer import chain_tokenizer
    from latentreason.organisms.trainers.pretrain import new_model
    from latentreason.organisms.zoo import ACTIVATION

    @cache
    def make(distance: float = 0.3) -> ModelPair:
        recipe = replace(ACTIVATION, size=Size(d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_mlp=48, context=160, init_std=0.25))
        base, rl, other = (new_model(recipe, seed).eval().requires_grad_(False) for seed in (0, 0, 1))
        with torch.no_grad():
            for weight, target in zip(rl.parameters(), other.parameters(), strict=True):
                weight.lerp_(target, distance)
        return ModelPair(LM(base, chain_tokenizer(), "base"), LM(rl, chain_tokenizer(), "rl"))

    return make
