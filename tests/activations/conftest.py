"""Random rollouts for the tiny models, of prompts and completions of many lengths."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from latentreason.models.language_model import LM
from latentreason.tables import Rollouts


@pytest.fixture
def lm(tiny_model, tiny_tokenizer) -> LM:
    return LM(tiny_model, tiny_tokenizer, "tiny")


@pytest.fixture(scope="session")
def make_rollouts() -> Callable[..., Rollouts]:
    def make(n: int = 7, seed: int = 0, arm: str = "tiny") -> Rollouts:
        rng = np.random.default_rng(seed)
        ids = [rng.integers(3, 64, size=(rng.integers(2, 9), rng.integers(1, 12))[k % 2]).astype(np.int32) for k in range(2 * n)]
        keys = {"arm": arm, "problem": [f"p{i // 2}" for i in range(n)], "sample": [i % 2 for i in range(n)]}
        return Rollouts(pd.DataFrame({**keys, "prompt_ids": pd.Series(ids[::2]), "token_ids": pd.Series(ids[1::2])}))

    return make
