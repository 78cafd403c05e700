"""The prefix-sharing decoder against `generate`, against a loop without a cache, and against itself one row at a time."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers.generation.logits_process import TopPLogitsWarper

from latentreason.errors import ContextTooLong, InvalidInput, NonFinite
from latentreason.models import decoding
from latentreason.models.cache import common_prefix
from latentreason.models.decoding import Batch, PrefixDecoder, nucleus, sampled
from latentreason.models.language_model import LM
from latentreason.sampling.noise import gumbel

BOS, EOS, CONTEXT = 1, 2, 128
PROMPTS = [[BOS, 9, 40, 17, 33, 5, 60, 28], [BOS, 12], [BOS, 7, 21, 8, 50], [BOS]]


def make_batch(prompts=PROMPTS, n=1, *, temperature=1.0, top_p=1.0, max_new_tokens=24, first_key=1000):
    keys = first_key + torch.arange(len(prompts) * n) * 7919
    return Batch(prompts, torch.arange(len(prompts)).repeat_interleave(n), keys, temperature, top_p, max_new_tokens, gumbel)


def completions(decoded):
    return [row[:n].tolist() for row, n in zip(decoded.records["token_ids"], decoded.length, strict=True)]


def one_row(batch, i):
    """The batch that holds row i alone."""
    return replace(batch, prompts=[batch.prompts[batch.problem[i]]], problem=torch.tensor([0]), keys=batch.keys[i : i + 1])


def generated(lm, prompt, max_new_tokens):
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = lm.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens)
    return out[0, len(prompt) :].tolist()


# --- greedy ------------------------------------------------------------------------------------------------------------


def test_greedy_equals_generate_in_a_batch_of_different_lengths_and_alone(lm):
    batch = make_batch(temperature=0.0)
    expected = [generated(lm, prompt, 24) for prompt in PROMPTS]
    assert completions(lm.decode(batch)) == expected
    assert [completions(lm.decode(one_row(batch, i)))[0] for i in range(len(PROMPTS))] == expected
    assert any(len(set(tokens)) > 3 for tokens in expected)  # not a model that repeats one token


def test_logits_of_a_padded_prompt_equal_those_of_the_prompt_alone(lm):
    padded = PrefixDecoder([lm], PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        with torch.inference_mode():
            alone = lm.model(input_ids=torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(padded.logits[0][i], alone, atol=1e-5, rtol=0)
    assert padded.readers[0].pad.tolist() == [0, 6, 3, 7]


def test_a_step_after_padding_sees_absolute_positions(make_lm):
    lm = make_lm("gpt2")
    decoder = PrefixDecoder([lm], PROMPTS)
    slot = decoder.extend(torch.arange(4), torch.tensor([30, 31, 32, 33]))
    for i, (prompt, token) in enumerate(zip(PROMPTS, [30, 31, 32, 33], strict=True)):
        with torch.inference_mode():
            alone = lm.model(input_ids=torch.tensor([[*prompt, token]])).logits[0, -1]
        torch.testing.assert_close(decoder.logits[0][slot[i]], alone, atol=1e-5, rtol=0)
        with torch.inference_mode():  # and positions matter: the same tokens, seen as the padded row counts them, give other logits
            shifted = lm.model(input_ids=torch.tensor([[*prompt, token]]), position_ids=torch.arange(len(prompt) + 1)[None] + int(decoder.readers[0].pad[i])).logits[0, -1]
        assert bool((shifted - alone).abs().max() > 0.1) == bool(decoder.readers[0].pad[i])


# --- sampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_sampling_equals_a_loop_without_a_cache(lm, brute_force, temperature):
    batch = make_batch(n=12, temperature=temperature)
    expected = [row for i, prompt in enumerate(PROMPTS) for row in brute_force(lm, prompt, batch.keys[12 * i : 12 * i + 12].tolist(), batch)]
    decoded = lm.decode(batch)
    assert completions(decoded) == expected
    assert decoded.stopped.tolist() == [row[-1] == EOS for row in expected]
    lengths = {len(row) for row in expected}
    assert len(lengths) > 3 and 24 in lengths  # rows end at different times, and some at the limit


def test_many_rows_of_one_problem_equal_each_row_alone(lm):
    batch = make_batch(prompts=PROMPTS[2:3], n=40)
    assert completions(lm.decode(batch))[::3] == [completions(lm.decode(one_row(batch, i)))[0] for i in range(0, 40, 3)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_attention_that_models_are_loaded_with_gives_the_same(make_tiny, tiny_tokenizer, brute_force, family):
    import copy

    model = copy.deepcopy(make_tiny(family, 3))
    model.set_attn_implementation("sdpa")
    lm, batch = LM(model, tiny_tokenizer, "sdpa"), make_batch(n=8)
    expected = [row for i, prompt in enumerate(PROMPTS) for row in brute_force(LM(make_tiny(family, 3), tiny_tokenizer, "eager"), prompt, batch.keys[8 * i : 8 * i + 8].tolist(), batch)]
    assert completions(lm.decode(batch)) == expected


def test_rows_of_equal_noise_are_equal_and_share_their_slots(make_lm, monkeypatch):
    seen = []
    extend = PrefixDecoder.extend
    monkeypatch.setattr(PrefixDecoder, "extend", lambda self, slot, token: seen.append(extend(self, slot, token)) or seen[-1])
    batch = replace(make_batch(prompts=PROMPTS[:1], n=9), keys=torch.tensor([1, 2, 3] * 3))
    rows = completions(make_lm("llama").decode(batch))
    assert rows[:3] == rows[3:6] == rows[6:] and rows[0] != rows[1]
    assert all(len(set(slots.tolist())) <= 3 for slots in seen)


def test_slots_are_copied_and_laid_anew_without_a_change_of_results(lm, brute_force, monkeypatch):
    calls = []
    each_reader = PrefixDecoder._each_reader
    monkeypatch.setattr(PrefixDecoder, "_each_reader", lambda self, method, *slots: calls.append((method, len(self.readers[0].pad))) or each_reader(self, method, *slots))
    batch = make_batch(prompts=PROMPTS[:2], n=30, temperature=1.3, max_new_tokens=45)  # longer than the spare room of a cache
    expected = [row for i, prompt in enumerate(PROMPTS[:2]) for row in brute_force(lm, prompt, batch.keys[30 * i : 30 * i + 30].tolist(), batch)]
    assert completions(lm.decode(batch)) == expected
    methods = [method for method, _ in calls]
    widths = [width for method, width in calls if method == "select"]
    assert max(widths) > 2 and widths[-1] < max(widths)  # it widened as rows parted, and shrank as they ended
    assert "select" in methods


def test_a_copied_slot_goes_on_as_its_own_prefix(lm):
    decoder = PrefixDecoder([lm], [[BOS, 9, 40], [BOS, 12, 3], [BOS, 33, 34], [BOS, 55, 4]])
    calls = []
    decoder._each_reader = lambda method, *slots: calls.append(method) or PrefixDecoder._each_reader(decoder, method, *slots)
    prefixes = [[BOS, 9, 40, 20], [BOS, 9, 40, 21], [BOS, 33, 34, 20], [BOS, 55, 4, 20], [BOS, 9, 40, 20]]
    slot = decoder.extend(torch.tensor([0, 0, 2, 3, 0]), torch.tensor([20, 21, 20, 20, 20]))  # slot 1 is free for the second child
    assert calls == ["copy"] and slot.tolist() == [0, 1, 2, 3, 0]
    for _ in range(2):
        for i, prefix in enumerate(prefixes):
            with torch.inference_mode():
                alone = lm.model(input_ids=torch.tensor([prefix])).logits[0, -1]
            torch.testing.assert_close(decoder.logits[0][slot[i]], alone, atol=1e-5, rtol=0)
        slot = decoder.extend(slot, torch.tensor([7, 7, 8, 9, 7]))
        prefixes = [[*prefix, token] for prefix, token in zip(prefixes, [7, 7, 8, 9, 7], strict=True)]
    assert len({layer.get_seq_length() for reader in decoder.readers for layer in reader.layers}) == 1


def test_caches_of_two_models_always_have_one_length(make_lm):
    lms = [make_lm("llama"), make_lm("gpt2", 3, "rl")]
    lengths = []

    def choose(moment):
        lengths.append({layer.get_seq_length() for reader in moment.decoder.readers for layer in reader.layers})
        token = sampled(moment.logits[0], moment)
        return {"token_ids": torch.where(token % 2 == 0, token, sampled(moment.logits[1], moment))}

    decoding.decode(lms, make_batch(n=10), choose)
    assert lengths == [{8 + t} for t in range(len(lengths))] and len(lengths) == 24


def test_records_are_kept_by_row_and_step(make_lm):
    def choose(moment):
        return {"token_ids": torch.where(moment.row == moment.t, EOS, 10 + moment.t), "row": moment.row, "t": torch.full_like(moment.row, moment.t)}

    decoded = decoding.decode([make_lm("llama")], make_batch(max_new_tokens=3), choose)
    assert completions(decoded) == [[EOS], [10, EOS], [10, 11, EOS], [10, 11, 12]]
    assert decoded.stopped.tolist() == [True, True, True, False]
    assert all(decoded.records["row"][i, : decoded.length[i]].eq(i).all() for i in range(4))
    assert decoded.records["t"][3].tolist() == [0, 1, 2]


def test_the_prefix_that_a_choice_sees_is_what_was_emitted(make_lm):
    seen = {}

    def choose(moment):
        seen.update({(row, moment.t): prefix for row, prefix in zip(moment.row.tolist(), moment.prefix.tolist(), strict=True)})
        return {"token_ids": sampled(moment.logits[0], moment)}

    rows = completions(decoding.decode([make_lm("qwen2")], make_batch(n=5), choose))
    assert all(seen[i, t] == row[:t] for i, row in enumerate(rows) for t in range(len(row)))
    assert len(seen) == sum(map(len, rows))


# --- again -------------------------------------------------------------------------------------------------------------


def test_again_without_an_edit_gives_the_same_logits_and_leaves_the_caches(make_lm, lm):
    decoder = PrefixDecoder([make_lm("llama", 5), lm], PROMPTS)  # padded, and one prompt of a single token
    generator = torch.Generator().manual_seed(0)
    slot = torch.arange(4)
    for _ in range(5):
        for model in (0, 1):
            before = [(layer.keys[:, :, : layer.length].clone(), layer.length) for layer in decoder.readers[model].layers]
            rows = torch.tensor([2, 0, 2, 3])
            with torch.inference_mode():
                logits, place = decoder.again(model, slot[rows])
            torch.testing.assert_close(logits[place], decoder.logits[model][slot[rows]], atol=1e-5, rtol=0)
            assert len(logits) == len(set(slot[rows].tolist()))
            with torch.inference_mode():
                thrice, first = decoder.again(model, slot[rows], copies=3)
            for copy in range(3):
                torch.testing.assert_close(thrice[first + copy], logits[place], atol=1e-5, rtol=0)
            for layer, (keys, length) in zip(decoder.readers[model].layers, before, strict=True):
                assert layer.length == length and torch.equal(layer.keys[:, :, :length], keys)
        slot = decoder.extend(slot.repeat(2)[:6], torch.randint(3, 64, (6,), generator=generator))


def test_again_on_a_prompt_of_one_token(lm):
    decoder = PrefixDecoder([lm], [[BOS]])
    with torch.inference_mode():
        logits, place = decoder.again(0, torch.tensor([0, 0]))
    assert place.tolist() == [0, 0]
    torch.testing.assert_close(logits, decoder.logits[0], atol=1e-5, rtol=0)


# --- nucleus -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 0.999), st.floats(0.1, 8.0))
def test_nucleus_equals_the_warper_of_transformers(seed, top_p, scale):
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(seed)) * scale
    assert torch.equal(nucleus(logits, top_p), TopPLogitsWarper(top_p)(None, logits))


def test_nucleus_of_one_keeps_all_and_a_small_one_the_best():
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, -50.0, -50.0]])
    assert torch.equal(nucleus(logits, 1.0), logits)
    assert nucleus(logits, 1e-6).isfinite().tolist() == [[False, True, False], [True, False, False]]


def test_top_p_acts_after_the_temperature_and_before_the_noise(make_lm):
    lm, batch = make_lm("llama"), make_batch(n=10, temperature=0.8, top_p=0.5)
    for i, row in enumerate(completions(lm.decode(batch))):
        prompt = batch.prompts[batch.problem[i]]
        with torch.inference_mode():
            logits = lm.model(input_ids=torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1]
        noise = gumbel(batch.keys[i].repeat(len(row)), len(prompt) + torch.arange(len(row)), 64)
        assert (TopPLogitsWarper(0.5)(None, logits / 0.8) + noise).argmax(-1).tolist() == row


# --- bad input ---------------------------------------------------------------------------------------------------------


def test_nothing_to_decode(make_lm):
    for prompts in ([], [[BOS], []]):
        with pytest.raises(InvalidInput, match="at least one problem, and prompts of at least one token"):
            PrefixDecoder([make_lm("llama")], prompts)


def test_a_completion_that_does_not_fit_is_refused_and_one_that_does_is_not(make_lm):
    with pytest.raises(ContextTooLong, match=r"Prompt of 8 tokens and max_new_tokens=122 exceed the 128 positions of 'base'\. Lower max_new_tokens"):
        make_lm("gpt2").decode(make_batch(max_new_tokens=122))
    decoded = make_lm("gpt2").decode(make_batch(max_new_tokens=121, temperature=0.0))  # the last token is emitted and never read
    assert int(decoded.length.max()) <= 121


def test_the_smaller_context_of_two_models_counts(make_lm, make_tiny, tiny_tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    short = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=1, n_positions=16)).eval()
    lms = [make_lm("llama"), LM(short, tiny_tokenizer, "short")]
    with pytest.raises(ContextTooLong, match=r"the 16 positions of 'short'"):
        decoding.decode(lms, make_batch(max_new_tokens=10), lambda moment: {"token_ids": sampled(moment.logits[0], moment)})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_that_names_the_model(make_tiny, tiny_tokenizer, bad):
    import copy

    model = copy.deepcopy(make_tiny("llama"))
    model.lm_head.weight[5, 3] = bad
    with pytest.raises(NonFinite, match=r"'broken' gives logits with NaN or Inf at position 7\. Check its weights"):
        LM(model, tiny_tokenizer, "broken").decode(make_batch())


def test_the_model_and_its_tokenizer_stay_as_they_are(make_lm):
    lm = make_lm("qwen2")
    weights = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    before = (lm.model.config.to_dict(), lm.model.generation_config.to_dict(), lm.tokenizer.padding_side, lm.model.training)
    hooks = [{*m._forward_hooks, *m._forward_pre_hooks} for m in lm.model.modules()]  # transformers leaves some of its own after output_hidden_states
    lm.decode(make_batch(n=3))
    assert (lm.model.config.to_dict(), lm.model.generation_config.to_dict(), lm.tokenizer.padding_side, lm.model.training) == before
    assert all(torch.equal(weight, weights[name]) for name, weight in lm.model.state_dict().items())
    assert [{*m._forward_hooks, *m._forward_pre_hooks} for m in lm.model.modules()] == hooks


@pytest.mark.parametrize("lengths", [(3, 3, 3), (1, 5, 2), (4, 1, 1)])
def test_a_prefix_that_all_prompts_share_is_read_once_and_changes_nothing(tiny_model, tiny_tokenizer, monkeypatch, lengths):
    lm = LM(tiny_model, tiny_tokenizer, "tiny")
    generator = torch.Generator().manual_seed(0)
    prefix = torch.randint(3, 64, (20,), generator=generator).tolist()
    prompts = [prefix + torch.randint(3, 64, (n,), generator=generator).tolist() for n in lengths]
    read = []
    original = type(lm.model).forward

    def counted(self, input_ids=None, **kwargs):
        read.append(input_ids.numel())
        return original(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(lm.model), "forward", counted)
    with torch.inference_mode():
        together = PrefixDecoder([lm], prompts)
        assert read[0] == common_prefix(prompts) >= 20 and sum(read) <= 20 + len(prompts) * max(lengths) + 5
        for prompt, logits in zip(prompts, together.logits[0], strict=True):
            torch.testing.assert_close(logits, lm.model(torch.tensor([prompt])).logits[0, -1], atol=1e-5, rtol=1e-5)
        slot = together.extend(torch.tensor([0, 1, 2, 2]), torch.tensor([5, 6, 7, 8]))
        for row, (i, token) in enumerate(((0, 5), (1, 6), (2, 7), (2, 8))):
            expected = lm.model(torch.tensor([[*prompts[i], token]])).logits[0, -1]
            torch.testing.assert_close(together.logits[0][slot[row]], expected, atol=1e-5, rtol=1e-5)


def test_the_common_prefix_leaves_a_token_to_each_prompt():
    assert common_prefix([[1, 2, 3], [1, 2, 4]]) == 2 and common_prefix([[1, 2], [1, 2]]) == 1
    assert common_prefix([[1, 2, 3]]) == 0 and common_prefix([[1], [2, 3]]) == 0 and common_prefix([[1, 2, 3], [1, 2, 3, 4], [1, 9, 9]]) == 1
