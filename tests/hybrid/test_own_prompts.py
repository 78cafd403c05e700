"""Each model of a pair under its own prompt: against full forwards of each on its prompt and the hybrid's text."""

from dataclasses import replace

import pytest
import torch

from latentreason.errors import ContextTooLong, InvalidInput
from latentreason.hybrid.decode import Hybrid
from latentreason.models.decoding import Batch
from latentreason.routing.controls import always, never, random_places
from latentreason.routing.oracle import on_disagreement, on_divergence
from latentreason.sampling.noise import gumbel

BOS, EOS = 1, 2
PROMPTS = [[BOS, 9, 40, 17, 33, 5, 60, 28], [BOS, 12], [BOS, 7, 21, 8, 50]]
OWN = [[BOS, 9], [BOS, 44, 45, 46, 12, 13, 14, 15, 16, 17], [BOS, 7, 21, 8, 50]]  # shorter, longer, the same
BATCH = Batch(PROMPTS, torch.arange(3).repeat_interleave(3), 5 + torch.arange(9) * 7919, 1.0, 1.0, 10, gumbel, OWN)


def rows(decoded, name="token_ids"):
    return [row[:n].tolist() for row, n in zip(decoded.records[name], decoded.length, strict=True)]


def by_hand(pair, batch, routes):
    """Tokens of each row; `routes(t, base token, RL token)` says where the RL model speaks. The noise is that of the place in the base model's sequence."""
    out = []
    for i, problem in enumerate(batch.problem.tolist()):
        row = []
        while len(row) < batch.max_new_tokens and EOS not in row:
            noise = gumbel(batch.keys[i : i + 1], torch.tensor([len(batch.prompts[problem]) + len(row)]), 64)[0] if batch.temperature else 0
            with torch.inference_mode():
                base, rl = (int((lm.model(torch.tensor([p[problem] + row])).logits[0, -1] + noise).argmax()) for lm, p in ((pair.base, batch.prompts), (pair.rl, batch.rl_prompts)))
            row.append(rl if routes(len(row), base, rl) else base)
        out.append(row)
    return out


@pytest.mark.parametrize("mode", ["lockstep", "lazy", "speculative"])
def test_each_model_sees_its_own_prompt_and_the_hybrids_text(pair, mode):
    half = random_places("odd", [0], [0.0])
    half = replace(half, decide=lambda step: torch.full((len(step.keys),), step.t % 3 == 1))
    for router, routes in ((half, lambda t, base, rl: t % 3 == 1), (always(), lambda *_: True), (never(), lambda *_: False)):
        assert rows(Hybrid(pair, router, mode=mode).decode(BATCH)) == by_hand(pair, BATCH, routes)


def test_greedy_always_is_the_rl_model_under_its_own_prompt_and_never_the_base_under_the_shared_one(pair):
    greedy = replace(BATCH, temperature=0.0, problem=torch.arange(3), keys=torch.arange(3))
    assert rows(Hybrid(pair, always()).decode(greedy)) == rows(pair.rl.decode(replace(greedy, prompts=OWN, rl_prompts=None)))
    assert rows(Hybrid(pair, never()).decode(greedy)) == rows(pair.base.decode(greedy)) == rows(pair.base.decode(replace(greedy, rl_prompts=None)))


def test_modes_agree_under_own_prompts(pair):
    for router in (on_disagreement(), on_divergence("js", 0.24)):
        assert rows(Hybrid(pair, router).decode(BATCH)) == rows(Hybrid(pair, router, mode="speculative").decode(BATCH))


def test_the_same_prompt_twice_is_the_shared_prompt(pair):
    one, other = (Hybrid(pair, on_divergence("js", 0.24)).decode(replace(BATCH, rl_prompts=own)) for own in (None, PROMPTS))
    assert rows(one) == rows(other) and rows(one, "rl_logprob") == rows(other, "rl_logprob")


def test_prompts_that_do_not_fit(pair):
    with pytest.raises(InvalidInput, match="3 problems have 2 prompts for the RL model"):
        Hybrid(pair, never()).decode(replace(BATCH, rl_prompts=OWN[:2]))
    with pytest.raises(InvalidInput, match="prompts of at least one token"):
        Hybrid(pair, never()).decode(replace(BATCH, rl_prompts=[[], *OWN[1:]]))
    with pytest.raises(ContextTooLong, match="Prompt of 125 tokens and max_new_tokens=10 exceed the 128 positions of 'rl'"):
        Hybrid(pair, never()).decode(replace(BATCH, rl_prompts=[[BOS] * 125, *OWN[1:]]))
