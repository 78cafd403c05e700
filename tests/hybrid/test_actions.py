"""Actions other than swap, against full forwards that are edited by hand at the last position only."""

import pytest
import torch

from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput
from latentreason.hybrid.actions import RL, STEERED, logit_bias, logit_delta, rerank, steer, steer_persistent, swap
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


def steered_logits(lm, ids, added, window=1):
    """Logits of the last position of a full forward, with vectors added to the outputs of blocks at the last positions alone."""
    blocks = lm.model.transformer.h if hasattr(lm.model, "transformer") else lm.model.model.layers

    def adding(vector):
        def hook(module, inputs, output):
            hidden = (output if isinstance(output, torch.Tensor) else output[0]).clone()
            hidden[:, -window:] += vector
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


@pytest.mark.parametrize("window", [1, 3, 50])
def test_persistent_steering_is_felt_in_a_window_of_the_completion_and_never_enters_the_cache(pair, window):
    chosen = vectors(0, 1)
    decoded = Hybrid(pair, HALF, steer_persistent(chosen, window=window)).decode(BATCH)
    added, differs = {v.site.layer: v.vector for v in chosen.values()}, 0
    for i, (tokens, routed) in enumerate(zip(rows(decoded), rows(decoded, "routed"), strict=True)):
        prompt = PROMPTS[int(BATCH.problem[i])]
        for t, token in enumerate(tokens):
            ids, noise = prompt + tokens[:t], gumbel(BATCH.keys[i : i + 1], torch.tensor([len(prompt) + t]), 64)[0]
            said = [int((steered_logits(pair.base, ids, added if routed[t] else {}, w) + noise).argmax()) for w in (max(1, min(window, t)), 1)]
            assert token == said[0]
            differs += said[0] != said[1]
    assert (differs > 0) is (window > 1)
    assert window > 1 or rows(decoded) == rows(Hybrid(pair, HALF, steer(chosen)).decode(BATCH))
    with pytest.raises(InvalidInput, match="window=0 steers nothing"):
        steer_persistent(chosen, window=0)


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


def logits_of(pair, prompt, tokens):
    with torch.inference_mode():
        return [lm.model(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[0, -1] for lm in (pair.base, pair.rl)]


def expected_at_routed_tokens(pair, action, choose):
    """Each routed token against `choose(base logits, RL logits, noise)` from full forwards; how many were routed."""
    decoded, count = Hybrid(pair, HALF, action).decode(BATCH), 0
    for i, (tokens, routed) in enumerate(zip(rows(decoded), rows(decoded, "routed"), strict=True)):
        prompt = PROMPTS[int(BATCH.problem[i])]
        for t in (t for t, here in enumerate(routed) if here):
            noise = gumbel(BATCH.keys[i : i + 1], torch.tensor([len(prompt) + t]), 64)[0]
            assert tokens[t] == choose(*logits_of(pair, prompt, tokens[:t]), noise)
            count += 1
    assert set(decoded.records["source"][decoded.records["routed"]].tolist()) == {action.source}
    return count


@pytest.mark.parametrize("k", [1, 3, 64, 1000])
def test_rerank_takes_the_rl_models_choice_among_the_bases_favourites(pair, k):
    def choose(base, rl, noise):
        favourites = base.argsort(descending=True)[:k].tolist()
        return max(favourites, key=lambda token: float(rl[token] + noise[token]))

    assert expected_at_routed_tokens(pair, rerank(k), choose) > 10
    assert rerank(k).source == RL


@pytest.mark.parametrize("strength", [-0.5, 0.0, 0.4, 1.0, 1.7])
def test_logit_delta_goes_from_base_to_rl_and_beyond(pair, strength):
    assert expected_at_routed_tokens(pair, logit_delta(strength), lambda base, rl, noise: int((base + strength * (rl - base) + noise).argmax())) > 10


def test_the_ends_of_rerank_and_logit_delta_are_base_and_rl(pair):
    def tokens(action):
        return rows(Hybrid(pair, always(), action).decode(BATCH))

    assert tokens(rerank(64)) == tokens(swap()) == tokens(logit_delta(1.0))
    assert tokens(logit_delta(0.0)) == rows(pair.base.decode(BATCH))


def test_rerank_and_logit_delta_refuse_what_means_nothing():
    with pytest.raises(InvalidInput, match="at least one candidate, got k=0"):
        rerank(0)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match="is not finite; 0 is the base model, 1 the RL model"):
            logit_delta(bad)
