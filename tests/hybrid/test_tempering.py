"""Arms whose base tokens, or whose RL tokens, are drawn at another temperature: against each model alone at that temperature, with the same noise."""

from dataclasses import replace

import pytest
import torch

from latentreason.errors import InvalidInput
from latentreason.hybrid.actions import logit_delta
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.models.decoding import Batch
from latentreason.models.pair import ModelPair
from latentreason.routing.controls import always, first_token, never
from latentreason.routing.oracle import on_disagreement
from latentreason.sampling.noise import gumbel

PROMPTS = [[1, 9, 40, 17, 33], [1, 12], [1, 7, 21, 8, 50, 3]]


def batch(temperature=1.0, n=4, top_p=1.0):
    keys = 31 + torch.arange(len(PROMPTS) * n) * 104729
    return Batch(PROMPTS, torch.arange(len(PROMPTS)).repeat_interleave(n), keys, temperature, top_p, 10, gumbel)


def rows(decoded, name="token_ids"):
    return [row[:n].tolist() for row, n in zip(decoded.records[name], decoded.length, strict=True)]


@pytest.mark.parametrize("mode", ["lockstep", "lazy"])
def test_each_side_is_its_model_at_its_temperature(pair, mode):
    cold = Hybrid(pair, never(), mode=mode, tempering=(0.4, 3.0)).decode(batch(0.8, top_p=0.9))
    assert rows(cold) == rows(pair.base.decode(batch(0.8 * 0.4, top_p=0.9))) != rows(pair.base.decode(batch(0.8, top_p=0.9)))
    assert rows(cold, "base_token_ids") == rows(cold) and not any(map(any, rows(cold, "changed")))
    hot = Hybrid(pair, always(), mode=mode, tempering=(0.4, 3.0)).decode(batch())
    assert rows(hot) == rows(pair.rl.decode(batch(3.0))) != rows(pair.rl.decode(batch()))


def test_both_sides_meet_in_one_arm(pair):
    """The first token is the RL model's at its temperature; what follows is the base's at its own, as the base alone goes on after that prefix."""
    mixed = Hybrid(pair, first_token(), tempering=(0.5, 2.0)).decode(batch(n=1))
    hot = rows(pair.rl.decode(batch(2.0, n=1)))
    for i, (row, first) in enumerate(zip(rows(mixed), hot, strict=True)):
        assert row[0] == first[0]
        if row[0] != 2:
            later = replace(batch(0.5, n=1), prompts=[PROMPTS[i] + row[:1]], problem=torch.tensor([0]), keys=batch(n=1).keys[i : i + 1], max_new_tokens=9)
            assert rows(pair.base.decode(later))[0] == row[1:]
    swapped = Hybrid(pair, on_disagreement(), tempering=(0.5, 2.0)).decode(batch())
    assert rows(swapped) == rows(pair.rl.decode(batch(2.0)))  # they disagree as they are drawn


def test_arms_of_several_temperatures_decode_together_as_they_do_alone(pair):
    hybrids = [Hybrid(pair, router, name=f"{router.name}{t}", tempering=t) for router in (never(), first_token(), always()) for t in ((1.0, 1.0), (0.5, 1.0), (1.0, 2.0), (0.5, 2.0))]
    together = rows(Arms(hybrids).decode(batch()))
    size = len(together) // len(hybrids)
    for i, hybrid in enumerate(hybrids):
        assert together[i * size : (i + 1) * size] == rows(hybrid.decode(batch())), hybrid.name


def test_an_action_draws_its_token_at_the_second_temperature(pair):
    assert rows(Hybrid(pair, always(), logit_delta(1.0), tempering=(1.0, 2.0)).decode(batch())) == rows(pair.rl.decode(batch(2.0)))


def test_greedy_arms_know_no_temperature(pair):
    greedy = batch(0.0, n=1)
    assert rows(Hybrid(pair, first_token(), tempering=(0.2, 5.0)).decode(greedy)) == rows(Hybrid(pair, first_token()).decode(greedy))


def test_an_arm_says_how_it_is_tempered_and_a_plain_one_is_as_before(pair):
    assert Hybrid(pair, never(), name="x", tempering=(0.5, 2.0)).info["x"]["tempering"] == [0.5, 2.0] and "tempering" not in Hybrid(pair, never(), name="x").info["x"]


@pytest.mark.parametrize(("how", "said"), [({"tempering": (0.0, 1.0)}, "two factors above 0"), ({"tempering": (1.0, float("inf"))}, "two factors above 0"),
                                           ({"tempering": (0.5, 1.0), "mode": "speculative"}, "mode='lockstep' or 'lazy'")])  # fmt: skip
def test_temperatures_that_cannot_be_are_refused(pair: ModelPair, how, said):
    with pytest.raises(InvalidInput, match=said):
        Hybrid(pair, never(), **how)
