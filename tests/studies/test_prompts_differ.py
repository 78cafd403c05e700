"""Studies say so where their arms saw different prompts, and say nothing where they did not or nobody knows."""

import numpy as np
import pandas as pd
import pytest

from latentreason.studies import passk, recovery
from latentreason.tables import Rollouts

BOXED = {"style": "boxed", "chat": False, "system": None, "template": "aaaaaaaaaaaaaaaa", "chat_template": None}
CHAT = BOXED | {"chat": True, "chat_template": "bbbbbbbbbbbbbbbb"}


def arm(name, rate, changed, prompt=None):
    rng = np.random.default_rng(len(name))
    columns = {"problem": np.repeat([f"p{i:02d}" for i in range(30)], 8), "sample": np.tile(np.arange(8), 30), "arm": name, "n_tokens": 20, "n_changed": changed, "correct": rng.random(240) < rate}
    return Rollouts(pd.DataFrame(columns), {name: {"prompt": prompt} if prompt else {}})


@pytest.mark.parametrize(
    ("base", "rl", "warned"), [(BOXED, BOXED, False), (None, None, False), (None, CHAT, False), (BOXED, CHAT, True), (BOXED, BOXED | {"template": "c" * 16}, True), (CHAT, CHAT | {"system": "Be brief."}, True)]
)
def test_different_prompts_are_in_the_finding(base, rl, warned):
    arms = {"base": arm("base", 0.2, 0, base), "rl": arm("rl", 0.9, 4, rl)}
    for result in (recovery.run(**arms, hybrid=arm("hybrid", 0.6, 2, base)), passk.run(**arms, config=passk.Config(max_k=4, n_boot=200))):
        assert ("The arms saw different prompts (base" in result.said) is warned is ("prompts" in result.details)
    if warned and not base["chat"] and rl["chat"]:
        assert "base: boxed [aaaaaa]; rl: boxed in the chat template [aaaaaa/bbbbbb]" in result.said


def test_an_rl_model_with_a_prompt_of_its_own_is_in_the_finding():
    own = arm("hybrid", 0.6, 2, BOXED)
    own = Rollouts(own.table, {"hybrid": {"prompt": BOXED, "rl_prompt": CHAT}})
    result = recovery.run(base=arm("base", 0.2, 0, BOXED), rl=arm("rl", 0.9, 4, BOXED), hybrid=own)
    assert "base, rl, hybrid: boxed [aaaaaa]; the RL model in hybrid: boxed in the chat template [aaaaaa/bbbbbb]" in result.said
