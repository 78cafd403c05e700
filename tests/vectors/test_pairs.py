"""Vectors of prompt pairs against the model's own hidden states, read one prompt at a time and as the peers read them."""

import numpy as np
import pytest
import torch

from latentreason.activations.sites import Site
from latentreason.errors import ContextTooLong, InvalidInput, UnknownName
from latentreason.models.language_model import LM
from latentreason.vectors.contrast import METHODS, PAIRED
from latentreason.vectors.pairs import contrast_prompts


@pytest.fixture
def lm(tiny_model, tiny_tokenizer) -> LM:
    return LM(tiny_model, tiny_tokenizer, "tiny")


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    """Twelve pairs of prompts of 2 to 14 words."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(3, 64, size=size)) for size in rng.integers(2, 15, size=24)]
    return list(zip(texts[::2], texts[1::2], strict=True))


def states(lm: LM, text: str, position: int = -1) -> dict[int, np.ndarray]:
    """The output of each block at one token of one prompt, alone and unpadded."""
    seen: list[torch.Tensor] = []
    blocks = next(m for m in lm.model.modules() if isinstance(m, torch.nn.ModuleList))
    hooks = [block.register_forward_hook(lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)) for block in blocks]
    with torch.inference_mode():
        out = lm.model(**lm.tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    for i, hidden in enumerate(out.hidden_states[1:-1]):  # the last of them is after the final norm, the hook's is before
        torch.testing.assert_close(hidden, seen[i])
    return {i: hidden[0, position].numpy() for i, hidden in enumerate(seen)}


@pytest.mark.parametrize("batch_tokens", [1, 40, 16_384])
def test_the_vector_is_the_mean_difference_of_the_last_tokens_at_every_layer(lm: LM, pairs, batch_tokens: int) -> None:
    found = contrast_prompts(lm, pairs, label="joy", batch_tokens=batch_tokens)
    read = [(states(lm, a), states(lm, b)) for a, b in pairs]
    assert list(found) == [("joy", Site(i)) for i in range(lm.n_layers)]
    for (_, site), v in found.items():
        expected = np.mean([a[site.layer] - b[site.layer] for a, b in read], axis=0)
        np.testing.assert_allclose(v.vector, expected, atol=1e-4)
        assert v.n == len(pairs) and v.info["n_without"] == len(pairs)


def test_it_agrees_with_the_peers_way_of_reading(lm: LM, pairs) -> None:
    """steering-vectors and repeng: all prompts in one batch, padded as the tokenizer pads (right), the last token by the mask."""
    sides = []
    for texts in zip(*pairs, strict=True):
        batch = lm.tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt")
        with torch.no_grad():
            hidden = lm.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True).hidden_states
        last = batch["attention_mask"].sum(1) - 1
        sides.append([h[torch.arange(len(last)), last] for h in hidden])
    found = contrast_prompts(lm, pairs)
    for i in range(lm.n_layers - 1):
        peer = (sides[0][i + 1] - sides[1][i + 1]).mean(0)
        assert float(torch.cosine_similarity(peer, found["prompts", Site(i)].vector, dim=0)) > 0.9999


@pytest.mark.parametrize("position", [0, 1, -2])
def test_a_position_counts_from_the_first_token_or_from_the_last(lm: LM, pairs, position: int) -> None:
    found = contrast_prompts(lm, pairs, layers=1, position=position)["prompts", Site(1)]
    expected = np.mean([states(lm, a, position)[1] - states(lm, b, position)[1] for a, b in pairs], axis=0)
    np.testing.assert_allclose(found.vector, expected, atol=1e-4)
    assert contrast_prompts(lm, pairs, layers=[2, 0]).sites == [Site(0), Site(2)]


@pytest.mark.parametrize("method", METHODS)
def test_methods_halves_and_what_the_set_says_of_itself(lm: LM, pairs, method: str) -> None:
    found = contrast_prompts(lm, pairs, method=method, layers=2)
    read = np.array([states(lm, text)[2] for pair in pairs for text in pair])
    np.testing.assert_allclose(found["prompts", Site(2)].vector, METHODS[method](read, np.arange(24) % 2 == 0, *([np.arange(24) // 2] if method in PAIRED else [])), atol=1e-3)
    assert -1 <= found["prompts", Site(2)].info["split_half"] <= 1
    assert "split_half" not in contrast_prompts(lm, pairs, layers=2, control=False)["prompts", Site(2)].info
    family = lm.model.config.model_type
    assert dict(found.info) == {
        "method": method,
        "against": "pairs",
        "position": -1,
        "model": "tiny",
        "revision": None,
        "weights": lm.fingerprint,
        "model_type": family,
    }


def test_token_ids_are_taken_as_they_are_and_one_pair_is_enough(lm: LM, pairs) -> None:
    ids = [tuple(lm.tokenizer(text)["input_ids"] for text in pair) for pair in pairs]
    assert contrast_prompts(lm, ids) == contrast_prompts(lm, pairs)
    one = contrast_prompts(lm, [(pairs[0][0], ids[0][1])], layers=0)["prompts", Site(0)]
    np.testing.assert_allclose(one.vector, states(lm, pairs[0][0])[0] - states(lm, pairs[0][1])[0], atol=1e-5)
    assert one.info["split_half"] is None


def test_model_and_tokenizer_are_left_as_they_were(lm: LM, pairs) -> None:
    def facts() -> tuple[object, ...]:
        hooks = [len(module._forward_hooks) for module in lm.model.modules()]  # transformers leaves some of its own
        return lm.tokenizer.padding_side, lm.tokenizer.pad_token, lm.tokenizer.backend_tokenizer.to_str(), lm.model.training, hooks

    before = facts()
    contrast_prompts(lm, pairs)
    assert facts() == before


def test_a_tokenizer_that_adds_bos_does_so_once(tiny_llama, tiny_tokenizer, pairs) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = type(tiny_tokenizer.backend_tokenizer).from_str(tiny_tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    adds = LM(
        tiny_llama, PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"), "adds"
    )
    plain = LM(tiny_llama, tiny_tokenizer, "plain")
    assert contrast_prompts(adds, pairs) == contrast_prompts(plain, [(f"<bos> {a}", f"<bos> {b}") for a, b in pairs])
    with pytest.raises(InvalidInput, match=r"opens with two BOS.*Pass token ids"):
        contrast_prompts(adds, [("<bos> w3", "w4")])


def test_what_cannot_be_fitted_says_the_fix(tiny_llama, tiny_tokenizer, unchecked_shapes) -> None:
    lm = LM(tiny_llama, tiny_tokenizer, "tiny")
    for bad in ([], ["w3 w4", "w5 w6"], [("w3",)]):
        with pytest.raises(InvalidInput, match=r"list of \(prompt with, prompt without\)"):
            contrast_prompts(lm, bad)
    with pytest.raises(InvalidInput, match=r"read the same at resid\.0, resid\.1, resid\.2.*texts differ"):
        contrast_prompts(lm, [("w3 w4", "w3 w5")], position=0)
    with pytest.raises(InvalidInput, match="Prompt 1 has 1 tokens, none at position -2"):
        contrast_prompts(lm, [("w3 w4", "w3")], position=-2)
    with pytest.raises(InvalidInput, match="Prompt 0 has 0 tokens"):
        contrast_prompts(lm, [("", "w3")])
    with pytest.raises(InvalidInput, match="token id 70"):
        contrast_prompts(lm, [([3, 70], [4])])
    with pytest.raises(ContextTooLong, match="129 tokens"):
        contrast_prompts(lm, [("w3 " * 129, "w3")])
    with pytest.raises(UnknownName, match="'diff_mean'"):
        contrast_prompts(lm, [("w3", "w4")], method="diff_mean")
