"""A reader that lags behind against full forwards: what it says when asked, and that it reads each token once."""

import pytest
import torch

from latentreason.errors import NonFinite
from latentreason.models.decoding import PrefixDecoder
from latentreason.models.language_model import LM

BOS = 1
PROMPTS = [[BOS, 9, 40, 17, 33, 5, 60, 28], [BOS, 12], [BOS, 7, 21, 8, 50], [BOS]]


@pytest.fixture
def reading():
    """reading(lm): a list that fills with the number of tokens of each forward pass, padding included."""
    handles = []

    def watch(lm):
        seen = []
        handles.append(lm.model.get_decoder().register_forward_pre_hook(lambda module, args, kwargs: seen.append((args[0] if args else kwargs["input_ids"]).numel()), with_kwargs=True))
        return seen

    yield watch
    for handle in handles:
        handle.remove()


def alone(lm, ids, n=1):
    with torch.inference_mode():
        return lm.model(input_ids=torch.tensor([ids])).logits[0, -n:]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("width", [0, 10_000])
def test_whoever_asks_gets_the_logits_of_a_full_forward(lm, make_lm, tiny_tokenizer, attention, width, monkeypatch):
    """Random questions to slots that lag by different amounts; a wide model packs them, a narrow one reads rectangles."""
    import copy

    model = copy.deepcopy(lm.model)
    model.set_attn_implementation(attention)
    other = LM(model, tiny_tokenizer, "rl")
    monkeypatch.setattr(LM, "d_model", property(lambda self: width))
    generator, prefixes, packed = torch.Generator().manual_seed(1), [list(p) for p in PROMPTS], set()
    decoder = PrefixDecoder([make_lm("llama", 1), other], PROMPTS, lazy=[1])
    model.get_decoder().register_forward_pre_hook(lambda module, args, kwargs: packed.add(getattr(kwargs["attention_mask"], "ndim", 0) == 4), with_kwargs=True)
    slot = torch.arange(4)
    for step in range(45):  # longer than the spare room of a cache
        asking = torch.rand(len(prefixes), generator=generator) < 0.3
        if asking.any():
            with torch.inference_mode():
                logits, distinct, place = decoder.lazy[1].ask(slot[asking])
            assert len(distinct) == len(logits) and torch.equal(distinct[place], slot[asking])
            for i, row in enumerate(asking.nonzero()[:, 0].tolist()):
                torch.testing.assert_close(logits[place[i], 0], alone(other, prefixes[row])[0], atol=2e-5, rtol=0)
        if step in (3, 20):  # rows part: slots are copied, with their lag
            rows = torch.arange(len(prefixes)).repeat(2)
            slot, prefixes = slot[rows], [list(prefixes[i]) for i in rows.tolist()]
        if step == 30:  # rows end: the caches are laid anew
            slot, prefixes = slot[::3], prefixes[::3]
        token = torch.randint(3, 64, (len(prefixes),), generator=generator)
        with torch.inference_mode():
            slot = decoder.extend(slot, token)
        prefixes = [[*p, t] for p, t in zip(prefixes, token.tolist(), strict=True)]
    assert packed == ({True, False} if width else {False})


def test_it_reads_nothing_until_it_is_asked_then_each_token_once(lm, reading):
    tokens = torch.randint(3, 64, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    decoder = PrefixDecoder([lm, LM(lm.model, lm.tokenizer, "rl")], PROMPTS[:1], lazy=[1])
    seen, slot = reading(lm), torch.tensor([0])
    for i, token in enumerate(tokens):
        if i in (11, 12, 29):
            with torch.inference_mode():
                decoder.lazy[1].ask(slot)
        seen.append(-1)
        with torch.inference_mode():
            slot = decoder.extend(slot, torch.tensor([token]))
    chunks = [n for n in seen if n not in (-1, 1)]
    assert chunks == [len(PROMPTS[0]) - 1, 12, 17]  # the prompt but for its last token, then that and 11 tokens; later 17; at step 12 one
    assert sum(n for n in seen if n > 0) == len(tokens) + len(PROMPTS[0]) + 29  # the base model's 30, and what the other had to read


def test_prompts_are_read_once_however_many_slots_began_with_them(make_lm, reading):
    lm = make_lm("qwen2")
    decoder = PrefixDecoder([make_lm("llama"), lm], PROMPTS, lazy=[1])
    seen = reading(lm)
    with torch.inference_mode():
        slot = decoder.extend(torch.arange(4).repeat_interleave(5), torch.arange(20) + 30)
        logits, _, place = decoder.lazy[1].ask(slot)
    assert seen == [4 * 7, 20 * 2]
    for i in range(20):
        torch.testing.assert_close(logits[place[i], 0], alone(lm, [*PROMPTS[i // 5], 30 + i])[0], atol=1e-5, rtol=0)


def test_several_positions_at_once_and_taking_them_back(lm, make_lm):
    """As a draft: read ahead, look at all its positions, take some of it back, go on elsewhere."""
    base = make_lm("gpt2", 5)
    decoder = PrefixDecoder([base, lm], PROMPTS, lazy=[1])
    prefixes, slot, generator = [list(p) for p in PROMPTS], torch.arange(4), torch.Generator().manual_seed(3)
    for ahead, back in [(3, 1), (5, 5), (1, 0), (4, 4), (40, 37), (2, 0)]:
        for _ in range(ahead):
            token = torch.randint(3, 64, (4,), generator=generator)
            with torch.inference_mode():
                slot = decoder.extend(slot, token)
            prefixes = [[*p, t] for p, t in zip(prefixes, token.tolist(), strict=True)]
        with torch.inference_mode():
            logits, _, place = decoder.lazy[1].ask(slot, ahead + 1 if back else 1)
        for i, prefix in enumerate(prefixes):
            torch.testing.assert_close(logits[place[i]], alone(lm, prefix, logits.shape[1]), atol=2e-5, rtol=0)
            torch.testing.assert_close(decoder.logits[0][slot[i]], alone(base, prefix)[0], atol=1e-5, rtol=0)
        if back:
            decoder.forget(back)
            prefixes = [p[:-back] for p in prefixes]
        assert {layer.get_seq_length() for reader in decoder.readers for layer in reader.layers} == {decoder.readers[0].length}


def test_a_lazy_model_that_is_broken_is_named(make_lm, make_tiny, tiny_tokenizer):
    import copy

    model = copy.deepcopy(make_tiny("llama"))
    model.lm_head.weight[5, 3] = float("nan")
    decoder = PrefixDecoder([make_lm("llama"), LM(model, tiny_tokenizer, "broken")], PROMPTS, lazy=[1])
    with pytest.raises(NonFinite, match=r"'broken' gives logits with NaN or Inf at position 7"):
        decoder.lazy[1].ask(torch.arange(4))
