"""Untrained organisms: small enough to decode in a moment, with the vocabulary that the task `chain` needs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from latentreason.models.language_model import LM


@pytest.fixture(scope="session")
def make_organism() -> "Callable[..., LM]":
    """make_organism(seed=0, name="base"): an untrained organism of 2 layers and d_model 32."""
    from dataclasses import replace
    from functools import cache

    from latentreason.models.language_model import LM
    from latentreason.organisms.recipe import Size
    from latentreason.organisms.tokenizer import chain_tokenizer
    from latentreason.organisms.trainers.pretrain import new_model
    from latentreason.organisms.zoo import ACTIVATION

    @cache
    def make(seed: int = 0, name: str = "base") -> LM:
        size = Size(d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_mlp=48, context=160, init_std=0.25)
        return LM(new_model(replace(ACTIVATION, size=size), seed).eval().requires_grad_(False), chain_tokenizer(), name)

    return make
