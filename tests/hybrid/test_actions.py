"""Actions other than swap, against full forwards that are edited by hand at the last position only."""

import pytest
import torch

from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput
from latentreason.hybrid.actions import STEERED, logit_bias, steer
from latentreason.hybrid.decode import Hybrid
from latentreason.models.decoding import Batch
from latentreason.routing.controls import always, first_token, random_places
from latentreason.sampling.noise import gumbel
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

PROMPTS = [[1, 9, 40, 17, 33, 5, 60, 28], [1, 12], [1, 7, 21, 8, 50]]
BATCH = Batch(PROMPTS, torch.arange(3).repeat_interleave(4), 5 + torch.arange(12) * 7919, 1.0, 1.0, 10, gumbel)
HALF = random_places("half", [0], [0.5])


def vectors(*layers):
    noise = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    return VectorSet(tuple(SteeringVector.of(Site(layer), noise[layer] * 2, "check", 10) for layer in layers))


def rows(decoded, name="token_ids"):
    return [row[:n].tolist() for row, n in zip(decoded.records[name], decoded.length, strict=True)]


def steered_logits(lm, ids, added):
    """Logits of the last position of a full forward, with vectors added to the outputs of blocks at that position alone."""
    blocks = lm.model.transformer.h if hasattr(lm.model, "transformer") else lm.model.model.layers

    def adding(vector):
        def hook(module, inputs, output):
            hidden = (output if isinstance(output, torch.Tensor) else output[0]).clone()
            hidden[:, -1] += vector
            return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

        return hook

    handles = [blocks[layer].register_forward_hook(adding(vector)) for layer, vector in added.items()]
    with torch.inference_mode():
        logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize("layers", [(0,), (1, 2)])
def test_steering_is_felt_at_routed_tokens_only_and_never_enters_the_cache(pair, layers):
    chosen = vectors(*layers)
    decoded = Hybrid(pair, HALF, steer(chosen, strength=1.5)).decode(BATCH)
    added = {v.site.layer: 1.5 * v.vector for v in chosen.values()}
    changed = 0
    for i, (tokens, routed) in enumerate(zip(rows(decoded), rows(decoded, "routed"), strict=True)):
        prompt = PROMPTS[int(BATCH.problem[i])]
        for t, token in enumerate(tokens):
            ids, noise = prompt + tokens[:t], gumbel(BATCH.keys[i : i + 1], torch.tensor([len(prompt) + t]), 64)[0]
            plain = int((steered_logits(pair.base, ids, {}) + noise).argmax())
            assert token == (int((steered_logits(pair.base, ids, added) + noise).argmax()) if routed[t] else plain)
            changed += token != plain
    assert changed > 5
    assert {s for row in rows(decoded, "source") for s in row} == {0, STEERED}


def test_steering_by_nothing_is_the_base_model(pair):
    assert rows(Hybrid(pair, always(), steer(vectors(1), strength=0.0)).decode(BATCH)) == rows(pair.base.decode(BATCH))


def test_a_bias_is_added_to_one_logit_at_routed_tokens(pair):
    decoded = Hybrid(pair, HALF, logit_bias(30, 3.0)).decode(BATCH)
    for i, (tokens, routed) in enumerate(zip(rows(decoded), rows(decoded, "routed"), strict=True)):
        prompt = PROMPTS[int(BATCH.problem[i])]
        for t, token in enumerate(tokens):
            logits = steered_logits(pair.base, prompt + tokens[:t], {}).clone()
            logits[30] += 3.0 * routed[t]
            assert token == int((logits + gumbel(BATCH.keys[i : i + 1], torch.tensor([len(prompt) + t]), 64)[0]).argmax())
    assert rows(Hybrid(pair, always(), logit_bias(30, 0.0)).decode(BATCH)) == rows(pair.base.decode(BATCH))
    assert {row[0] for row in rows(Hybrid(pair, first_token(), logit_bias(30, 1e6)).decode(BATCH))} == {30}


def test_a_bias_that_is_no_number_or_on_no_token(pair):
    for bias in (float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match="is not finite"):
            logit_bias(3, bias)
    for token in (-1, 64):
        with pytest.raises(InvalidInput, match=r"the models share tokens 0 to 63"):
            Hybrid(pair, always(), logit_bias(token, 1.0)).decode(BATCH)
