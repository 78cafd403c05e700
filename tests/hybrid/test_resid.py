"""What a router sees of the residual stream while decoding is what a full forward has there; and the value of a swap is what it says."""

import numpy as np
import pytest
import torch

from latentreason.errors import InvalidInput
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.hybrid.value import swap_values, value_probes
from latentreason.models.decoding import Batch
from latentreason.routing.controls import always, never, random_places
from latentreason.routing.probe import Probe, on_probe, on_value
from latentreason.routing.router import Router
from latentreason.sampling.local import Sampling
from latentreason.sampling.noise import gumbel
from latentreason.tasks.registry import load_task

PROMPTS = [[1, 9, 40, 17, 33, 5, 60, 28], [1, 12], [1, 7, 21, 8, 50]]
BATCH = Batch(PROMPTS, torch.arange(3).repeat_interleave(4), 5 + torch.arange(12) * 7919, 1.0, 1.0, 10, gumbel)


@pytest.mark.parametrize("arms", [1, 3])
def test_a_router_sees_the_residual_stream_that_predicts_the_token(pair, arms):
    """Three families, prompts of different lengths, a key-value cache, slots that are copied and dropped."""
    seen = []

    def spying(step):
        seen.append((step.tokens.clone(), {place: hidden.clone() for place, hidden in step.resid.items()}))
        return torch.arange(len(step.keys)) % 2 == 0

    spy = Router("spy", {}, frozenset({"base", "base:0", "base:1", "rl:1"}), spying)
    others = [Hybrid(pair, random_places("half", [0], [0.5], seed=i), name=f"{i}") for i in range(arms - 1)]
    Arms([Hybrid(pair, spy), *others]).decode(BATCH)
    checked = 0
    for tokens, resid in seen:
        assert set(resid) == {"base:0", "base:1", "rl:1"}
        for row, done in enumerate(tokens.tolist()):
            fits = []
            for prompt in PROMPTS:  # the rows that are alive change; one of the prompts must fit
                for place, lm in (("base:0", pair.base), ("base:1", pair.base), ("rl:1", pair.rl)):
                    with torch.inference_mode():
                        hidden = lm.model(torch.tensor([prompt + done]), output_hidden_states=True, use_cache=False).hidden_states
                    fits.append(float((hidden[int(place[-1]) + 1][0, -1] - resid[place][row]).abs().max()))
            assert min(max(fits[i : i + 3]) for i in (0, 3, 6)) < 1e-4
            checked += 1
    assert checked > 40


def test_a_layer_that_the_model_does_not_have_is_refused(pair):
    probe = Probe({"base:7": torch.ones(32)}, 0.0, "x", "base alone")
    with pytest.raises(InvalidInput, match="reads 'base:7', but 'base' has 3 blocks. Was it fitted on another model?"):
        Hybrid(pair, on_probe(probe)).decode(BATCH)


@pytest.fixture(scope="module")
def small(make_organisms):
    return make_organisms(), load_task("chain", split="fit", limit=10), Sampling(n=3, max_new_tokens=12)


def test_continuing_a_swap_is_decoding_on_from_it(small):
    """Continued by the base alone, a completion that took the base's token goes on as the base would: same text, same grade, no change."""
    pair, problems, sampling = small
    values = swap_values(pair, problems, sampling=sampling, limit=30, continuations=2, continued_by=never(), progress=False)
    assert len(values.table) == 30 and (values.table["cost"] == 1).all()  # later on nothing is changed on either side
    assert values.table["value"].abs().max() <= 1 and (values.table["base_token"] != values.table["rl_token"]).all()
    for swap in values.table.itertuples():
        table = values.rollouts.table
        row = table[(table["arm"] == swap.arm) & (table["problem"] == swap.problem) & (table["sample"] == swap.sample)].iloc[0]
        assert (row["token_ids"][swap.start], row["base_token_ids"][swap.start]) == (swap.rl_token, swap.base_token)


def test_values_and_costs_against_a_pair_where_they_are_known():
    """On the built-in pair the format `direct` is nearly always wrong and the RL model's format nearly always right."""
    from latentreason.models.pair import ModelPair

    pair = ModelPair.from_organism()
    values = swap_values(pair, load_task("chain", split="fit", limit=60), sampling=Sampling(n=3), limit=150, continuations=2, progress=False).table
    words = pair.base.tokenizer.get_vocab()
    direct = values[values["base_token"] == words["direct"]]
    style = values[(values["base_token"] == words[";"]) & (values["rl_token"] == words[","])]
    style = style if len(style) else values[(values["base_token"] == words[","]) & (values["rl_token"] == words[";"])]
    assert len(direct) > 2 and len(style) > 5
    assert direct["value"].mean() > 0.5 and direct["cost"].mean() > 1  # a long trace in place of an answer: more to change
    assert abs(style["value"].mean()) < 0.1 and abs(style["cost"].mean() - 1) < 0.1


def test_probes_of_values_make_routers_of_both_kinds(small):
    pair, problems, sampling = small
    values = swap_values(pair, problems, sampling=sampling, limit=60, continuations=1, progress=False)
    for base_only, name in ((False, "on_value"), (True, "on_value(base)")):
        value, cost = value_probes(pair, values, layers=(0, 1), base_only=base_only)
        router = on_value(value, cost)
        assert router.name == name and ("rl:1" in router.reads) != base_only
        assert value.timing_source == ("trained on RL labels" if base_only else "RL model live")
        assert np.isfinite(value.info["r2"]) and value.info["n"] == 60
        assert len(Hybrid(pair, router).decode(Batch([[1, 4, 5]], torch.zeros(4, dtype=torch.long), torch.arange(4), 1.0, 1.0, 6, gumbel)).length) == 4


def test_defaults_and_refusals(small):
    pair, _, sampling = small
    one, same = (swap_values(pair, load_task("chain", split="fit", limit=3), sampling=sampling, limit=9, continued_by=router, progress=False).table for router in (None, always()))
    assert one.equals(same)  # always-RL goes on where nothing else is said
    with pytest.raises(InvalidInput, match="must not see the test split"):
        swap_values(pair, load_task("chain", split="test", limit=3), progress=False)
    same = type(pair)(pair.base, pair.base)
    with pytest.raises(InvalidInput, match="never differ on these problems"):
        swap_values(same, load_task("chain", split="fit", limit=3), sampling=sampling, progress=False)
