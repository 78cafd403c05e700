"""Lazy and speculative decoding give the tokens of lockstep, for every router; and each model reads each token once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from latentreason.activations.sites import Site
from latentreason.errors import ContextTooLong, InvalidInput, UnknownName
from latentreason.hybrid import speculative
from latentreason.hybrid.actions import logit_bias, logit_delta, rerank, steer, swap
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.hybrid.steering import random_category, steer_by
from latentreason.models.decoding import Batch, Decoded
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.routing.base_only import on_entropy, on_margin
from latentreason.routing.controls import always, first_token, never, opposite, random_places
from latentreason.routing.named import ROUTERS
from latentreason.routing.oracle import on_disagreement, on_divergence, on_entropy_drop, on_likelihood_gain
from latentreason.routing.probe import Probe, on_nearest, on_probe, on_value
from latentreason.sampling.local import Sampling, sample
from latentreason.sampling.noise import gumbel
from latentreason.tasks.registry import load_task
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

BOS, EOS = 1, 2
PROMPTS = [[BOS, 9, 40, 17, 33, 5, 60, 28], [BOS, 12], [BOS, 7, 21, 8, 50], [BOS, 30, 31]]


def make_batch(rows=8, *, temperature=1.0, max_new_tokens=20, top_p=1.0, first_key=77):
    n_prompts = min(rows, len(PROMPTS))
    keys = first_key + torch.arange(rows) * 104729
    return Batch(PROMPTS[:n_prompts], torch.arange(n_prompts).repeat_interleave(rows // n_prompts), keys, temperature, top_p, max_new_tokens, gumbel)


EIGHT, ONE, GREEDY = make_batch(max_new_tokens=9), make_batch(1, temperature=0.7, top_p=0.9, first_key=8, max_new_tokens=12), make_batch(4, temperature=0.0, max_new_tokens=9)
LLAMA, QWEN2, GPT2 = ("llama", 0, 1), ("qwen2", 0, 1), ("gpt2", 3, 4)
COMBINATIONS = [(LLAMA, EIGHT), (QWEN2, EIGHT), (GPT2, EIGHT), (GPT2, ONE), (LLAMA, GREEDY)]
each_family = pytest.mark.parametrize(("pair", "batch"), COMBINATIONS, indirect=["pair"], ids=["llama, 8 rows", "qwen2, 8 rows", "gpt2, 8 rows", "gpt2, 1 row", "llama, greedy"])
one_family = pytest.mark.parametrize("pair", [GPT2], indirect=True, ids=["gpt2"])


def vectors():
    noise = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    return VectorSet(tuple(SteeringVector.of(Site(layer), noise[layer] * 2, "check", 10) for layer in (0, 1)))


def probe(*places):
    noise = torch.randn(len(places), 32, generator=torch.Generator().manual_seed(2))
    return Probe(dict(zip(places, noise, strict=True)), 0.0, "x", "base alone")


BASE_ONLY = {
    "never": never(), "always": always(), "first_token": first_token(), "on_entropy": on_entropy(3.2), "on_margin": on_margin(0.93), "opposite": opposite(on_entropy()),
    "matched_random": random_places("matched_random", [0, 1, 5], [0.5, 0.1, 0.2]), "not first and uncertain": ~first_token() & on_entropy(3.0),
    "on_probe": on_probe(probe("base:0", "base:2")), "on_nearest": on_nearest(vectors(), 1, 0.3), "on_value(base)": on_value(probe("base:1"), probe("base:0", "base:2"), 0.5),
}  # fmt: skip
ORACLES = {
    "on_divergence(js)": on_divergence("js", 0.22), "on_divergence(kl)": on_divergence("kl", 1.2), "on_divergence(tv)": on_divergence("tv", 0.5), "on_disagreement": on_disagreement(),
    "on_entropy_drop": on_entropy_drop(0.2), "on_likelihood_gain": on_likelihood_gain(2.0), "opposite": opposite(on_divergence()),
    "matched_disagreement": random_places("matched_disagreement", [0, 1, 5], [0.5, 0.1, 0.3], disagreements=True), "both": on_disagreement() & on_entropy(3.0) | first_token(),
}  # fmt: skip
READS_LOGITS = {**{name: BASE_ONLY[name] for name in ("always", "first_token", "matched_random")}, **ORACLES}
ACTIONS = {"swap": swap(), "rerank": rerank(3), "logit_delta": logit_delta(1.5), "logit_bias": logit_bias(40, 3.0)}


def arms_alone(hybrids, batch):
    """Each hybrid's rows, decoded together: in lockstep these are its rows alone (see test_hybrid_decode.py)."""
    decoded, n = Arms(hybrids).decode(batch), len(batch.problem)
    parts = [slice(i * n, i * n + n) for i in range(len(hybrids))]
    return [Decoded({name: values[part] for name, values in decoded.records.items()}, decoded.length[part], decoded.stopped[part]) for part in parts]


def rows(decoded, name="token_ids"):
    return [row[:n].tolist() for row, n in zip(decoded.records[name], decoded.length, strict=True)]


def assert_same(pair, batch, one, other, *, router):
    """The same tokens, or, where arithmetic flipped one, two best scores (or a score and its threshold) within 1e-4; and the same columns."""
    flips = 0
    for i, (a, b) in enumerate(zip(rows(one), rows(other), strict=True)):
        if a == b:
            continue
        at = next(t for t, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
        ids = torch.tensor([[*batch.prompts[batch.problem[i]], *a[:at]]])
        margins = []
        for lm in (pair.base, pair.rl):
            with torch.inference_mode():
                logits = lm.model(input_ids=ids).logits[:, -1]
            scores = logits / batch.temperature + gumbel(batch.keys[i : i + 1], torch.tensor([ids.shape[1]]), logits.shape[1]) if batch.temperature else logits
            margins.append(float(scores.topk(2).values.diff().abs()))
        assert router.score is not None or min(margins) < 1e-4, (i, at, margins)
        flips += 1
    assert flips <= len(one.length) // 8
    if not flips:
        assert torch.equal(one.stopped, other.stopped)
        for name in set(one.records) & set(other.records):
            a, b = (np.concatenate(rows(x, name)) for x in (one, other))
            if a.dtype.kind == "f":
                known = ~np.isnan(b)
                np.testing.assert_allclose(a[known], b[known], atol=3e-5)
            else:
                assert np.array_equal(a, b), name
    return flips


def long_row(pair, router, max_new_tokens):
    """One row of the first prompt, with a key that makes a long completion."""
    batch = Batch(PROMPTS[:1], torch.zeros(24, dtype=torch.long), torch.arange(24) * 7919, 1.0, 1.0, max_new_tokens, gumbel)
    best = int(Hybrid(pair, router).decode(batch).length.argmax())
    return replace(batch, problem=batch.problem[:1], keys=batch.keys[best : best + 1])


class Counter:
    """How many tokens each forward pass of a model read, padding included."""

    def __init__(self, lm):
        self.passes = []
        self.handle = lm.model.get_decoder().register_forward_pre_hook(lambda module, args, kwargs: self.passes.append((args[0] if args else kwargs["input_ids"]).numel()), with_kwargs=True)

    def __enter__(self):
        return self.passes

    def __exit__(self, *exc):
        self.handle.remove()


# --- lazy --------------------------------------------------------------------------------------------------------------


@each_family
def test_lazy_is_lockstep_for_every_router_that_reads_the_base_alone(pair, batch):
    hybrids = [Hybrid(pair, router, name=name) for name, router in BASE_ONLY.items()]
    routed = set()
    for one, other, router in zip(arms_alone(hybrids, batch), arms_alone([replace(h, mode="lazy") for h in hybrids], batch), BASE_ONLY.values(), strict=True):
        assert_same(pair, batch, one, other, router=router)
        routed.add(np.concatenate(rows(one, "routed")).mean())
    assert len(routed) > 5


@one_family
def test_and_each_of_them_alone(pair):
    for router in BASE_ONLY.values():
        assert_same(pair, ONE, Hybrid(pair, router).decode(ONE), Hybrid(pair, router, mode="lazy").decode(ONE), router=router)


@pytest.mark.parametrize("action", [*ACTIONS.values(), steer(vectors(), strength=1.5), steer_by(vectors(), random_category(("check",)))], ids=lambda a: a.name)
@one_family
def test_lazy_is_lockstep_for_every_action_and_steering_never_runs_the_rl_model(pair, action):
    router, batch = random_places("some", [0], [0.3]), make_batch()
    with Counter(pair.rl) as passes:
        other = Hybrid(pair, router, action, mode="lazy").decode(batch)
    assert_same(pair, batch, Hybrid(pair, router, action).decode(batch), other, router=router)
    assert bool(passes) == ("rl" in action.reads) == (action.name not in ("steer", "logit_bias"))


@one_family
def test_where_the_rl_model_was_not_asked_its_columns_are_nan(pair):
    router, batch = random_places("some", [0], [0.3]), make_batch(4, max_new_tokens=12)
    decoded = Hybrid(pair, router, mode="lazy").decode(batch)
    for name in ("rl_logprob", "divergence"):
        for values, routed, tokens in zip(rows(decoded, name), rows(decoded, "routed"), rows(decoded), strict=True):
            assert len(values) == len(tokens) and np.isnan(values).tolist() == [not r for r in routed]
    assert "disagree" not in decoded.records and not torch.isnan(decoded.records["base_logprob"]).any()


def test_each_token_is_read_once_and_what_comes_after_the_last_question_never(pair):
    router = random_places("some", [0, 1], [0.0, 0.15])
    batch = long_row(pair, router, 40)
    with Counter(pair.base) as base, Counter(pair.rl) as rl:
        decoded = Hybrid(pair, router, mode="lazy").decode(batch)
    places = np.flatnonzero(rows(decoded, "routed")[0])
    assert len(places) > 2
    assert base == [8] + [1] * (int(decoded.length[0]) - 1)
    assert rl == [7, 1 + places[0], *np.diff(places)]  # the prompt but for its last token; then chunk by chunk
    with Counter(pair.base) as base, Counter(pair.rl) as rl:
        Hybrid(pair, never(), mode="lazy").decode(batch)
    assert rl == [] and len(base) > 3


@pytest.mark.parametrize("mode", ["lockstep", "lazy"])
def test_steering_costs_the_base_one_pass_more_at_a_routed_token_and_nothing_elsewhere(pair, mode):
    router = random_places("some", [0, 1], [0.0, 0.3])
    batch = long_row(pair, router, 40)
    with Counter(pair.base) as base, Counter(pair.rl) as rl:
        decoded = Hybrid(pair, router, steer(vectors(), strength=1.0), mode=mode).decode(batch)
    n, routed = int(decoded.length[0]), sum(rows(decoded, "routed")[0])
    assert routed > 1 and len(base) == n + routed and sum(base) == 8 + (n - 1) + routed
    assert len(rl) == (n if mode == "lockstep" else 0)


def test_in_a_batch_each_row_reads_its_own_tokens_only(pair):
    """Rows of one prompt, so no padding: with packed rows the RL model reads as many tokens as lie before each row's last question."""
    batch = Batch(PROMPTS[:1], torch.zeros(16, dtype=torch.long), torch.arange(16) * 7919, 1.0, 1.0, 30, gumbel)
    with pytest.MonkeyPatch.context() as patch, Counter(pair.rl) as rl:
        patch.setattr(LM, "d_model", property(lambda self: 10_000))  # as if wide, so that packing always pays
        decoded = Hybrid(pair, random_places("some", [0, 1], [0.0, 0.1]), mode="lazy").decode(batch)
    last = [max(np.flatnonzero(routed), default=-1) for routed in rows(decoded, "routed")]
    assert 0 <= 7 + sum(t + 1 for t in last if t >= 0) - sum(rl) < 16  # less where rows had their first tokens in common
    assert len(set(rows(decoded)[0])) > 3


@one_family
def test_end_of_text_of_the_model_that_lags_ends_the_row(pair):
    router, batch = random_places("half", [0], [0.5]), make_batch(32, max_new_tokens=20)
    one, other = (Hybrid(pair, router, mode=mode).decode(batch) for mode in ("lockstep", "lazy"))
    assert_same(pair, batch, one, other, router=router)
    assert {(EOS, 0), (EOS, 1)} <= {(row[-1], source[-1]) for row, source in zip(rows(other), rows(other, "source"), strict=True)}


# --- speculative -------------------------------------------------------------------------------------------------------


@each_family
def test_speculative_is_lockstep_for_every_router_that_reads_logits_or_tokens(pair, batch):
    expected = arms_alone([Hybrid(pair, router, name=name) for name, router in READS_LOGITS.items()], batch)
    for one, router in zip(expected, READS_LOGITS.values(), strict=True):
        other = Hybrid(pair, router, mode="speculative").decode(batch)
        assert_same(pair, batch, one, other, router=router)
        assert set(one.records) == set(other.records)


@pytest.mark.parametrize(("block", "action"), [(1, swap()), (2, rerank(3)), (5, logit_delta(1.5)), (16, logit_bias(40, 3.0)), (40, swap())], ids=lambda x: getattr(x, "name", x))
@one_family
def test_whatever_the_block_and_the_action(pair, block, action, monkeypatch):
    router = on_divergence("js", 0.24)
    monkeypatch.setattr(speculative, "_length", lambda *_: block)
    for batch in (make_batch(1), make_batch(8)):
        one, other = Hybrid(pair, router, action).decode(batch), Hybrid(pair, router, action, mode="speculative").decode(batch)
        assert_same(pair, batch, one, other, router=router)


def test_each_model_reads_what_it_must_and_takes_back_what_was_rejected(pair, monkeypatch):
    monkeypatch.setattr(speculative, "_length", lambda *_: 6)
    batch, prompt = long_row(pair, never(), 36), len(PROMPTS[0])
    with Counter(pair.base) as base, Counter(pair.rl) as rl:
        decoded = Hybrid(pair, never(), mode="speculative").decode(batch)
    n = int(decoded.length[0])
    blocks = -(-n // 6)
    assert base == [prompt] + [1] * (6 * blocks - 1) and rl == [prompt - 1] + [6] * blocks  # one pass of the RL model a block
    batch = long_row(pair, on_disagreement(), 24)
    with Counter(pair.base) as base, Counter(pair.rl) as rl:
        decoded = Hybrid(pair, on_disagreement(), mode="speculative").decode(batch)
    changed, n, blocks, t = rows(decoded, "changed")[0], int(decoded.length[0]), 0, 0
    while t < n:  # a block ends at the first changed token
        ahead = changed[t : t + 6]
        t, blocks = t + (ahead.index(True) + 1 if True in ahead else 6), blocks + 1
    assert len(rl) == 1 + blocks and any(changed)


def test_the_caches_of_both_models_have_one_length_after_each_block(pair, monkeypatch):
    lengths, forget = [], speculative.PrefixDecoder.forget

    def watched(self, n):
        forget(self, n)
        lengths.append({layer.get_seq_length() for reader in self.readers for layer in reader.layers} | {reader.length for reader in self.readers})

    monkeypatch.setattr(speculative.PrefixDecoder, "forget", watched)
    Hybrid(pair, on_divergence("js", 0.24), mode="speculative").decode(make_batch(8))
    assert len(lengths) > 3 and all(len(found) == 1 for found in lengths)


@pytest.mark.parametrize("block", [3, 8])
@one_family
def test_end_of_text_of_one_model_inside_the_others_block(pair, block, monkeypatch):
    """One model ends on 2, the other on ten more. Drafted ends that are replaced do not end the row, those that stay do."""
    import copy

    model = copy.deepcopy(pair.rl.model)
    model.generation_config.eos_token_id = [*range(20, 30)]
    two, ends = ModelPair(pair.base, LM(model, pair.rl.tokenizer, "rl")), {2, *range(20, 30)}
    monkeypatch.setattr(speculative, "_length", lambda *_: block)
    ended, replaced = set(), 0
    for router, rate in ((on_divergence("js", 0.22), 8), (random_places("some", [0], [0.3]), 1)):
        for i in range(3):
            batch = replace(make_batch(rate, max_new_tokens=30), keys=torch.arange(rate) * 31 + i * 1009)
            one, other = (Hybrid(two, router, mode=mode).decode(batch) for mode in ("lockstep", "speculative"))
            assert_same(two, batch, one, other, router=router)
            for tokens, own, source, stopped in zip(rows(other), rows(other, "base_token_ids"), rows(other, "source"), other.stopped.tolist(), strict=True):
                assert not ends & set(tokens[:-1]) and stopped == (tokens[-1] in ends)
                ended |= {source[-1]} if stopped else set()
                replaced += sum(drafted in ends and token not in ends for drafted, token in zip(own, tokens, strict=True))
    assert ended == {0, 1} and replaced > 2


def test_the_block_follows_how_often_tokens_are_replaced():
    assert [speculative._length(cuts, 400) for cuts in (0, 4, 20, 40, 100, 400)] == [16, 15, 7, 5, 3, 2]
    assert speculative._length(0, 0) == 7


@one_family
def test_a_length_limit_inside_a_block_and_a_context_that_is_too_short(pair):
    for limit in (1, 2, 7):
        batch = make_batch(4, max_new_tokens=limit)
        assert_same(pair, batch, Hybrid(pair, on_disagreement()).decode(batch), Hybrid(pair, on_disagreement(), mode="speculative").decode(batch), router=on_disagreement())
    for mode in ("lazy", "speculative"):
        with pytest.raises(ContextTooLong, match="the 128 positions of 'base'"):
            Hybrid(pair, never(), mode=mode).decode(make_batch(1, max_new_tokens=122))
        assert len(Hybrid(pair, never(), mode=mode).decode(make_batch(1, max_new_tokens=121)).length) == 1


# --- the built-in pair, and what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "routers"), [(1.0, [*ROUTERS]), (0.0, ["on_divergence", "on_entropy"])], ids=["sampled", "greedy"])
def test_on_the_built_in_pair_every_router_by_name_gives_the_same_table(temperature, routers):
    pair, problems = ModelPair.from_organism(), load_task("chain", split="test", limit=2, seed=0)
    sampling, columns = Sampling(n=2 if temperature else 1, temperature=temperature, max_new_tokens=12), ["problem", "sample", "n_tokens", "n_routed", "n_changed", "grade_strict", "text", "finish"]
    for router in (ROUTERS[name](*([[5, 9]] if name == "on_opening" else [])) for name in routers):
        modes = ("lockstep", "speculative", *(() if "rl" in router.reads else ("lazy",)))
        first, *others = (sample(Hybrid(pair, router, name="x", mode=mode), problems, sampling, progress=False).table for mode in modes)
        assert others and all(table[columns].equals(first[columns]) for table in others), router.name


@one_family
def test_a_mode_that_the_router_or_the_action_rules_out_is_refused_and_the_fix_is_named(pair):
    with pytest.raises(UnknownName, match=r"Unknown mode 'speculate'\. Did you mean 'speculative'\?"):
        Hybrid(pair, never(), mode="speculate")
    for router in (on_divergence(), on_disagreement(), on_probe(probe("rl:1"))):
        with pytest.raises(InvalidInput, match=r"Hybrid\(mode='lazy'\) cannot run .* They need the RL model at every token: use mode='lockstep'"):
            Hybrid(pair, router, mode="lazy")
    with pytest.raises(InvalidInput, match=r"with 'steer', which read 'again'\. The base model has read ahead"):
        Hybrid(pair, on_divergence(), steer(vectors()), mode="speculative")
    with pytest.raises(InvalidInput, match=r"cannot run 'on_probe\(x\)' with 'swap', which read 'base:1'"):
        Hybrid(pair, on_probe(probe("base:1")), mode="speculative")
    with pytest.raises(InvalidInput, match="all must have one mode"):
        Arms([Hybrid(pair, never()), Hybrid(pair, always(), mode="lazy")])


@one_family
def test_an_action_that_looks_back_without_saying_so_is_refused(pair):
    sly = replace(swap(), name="sly", tokens=lambda moment: moment.decoder.again(0, moment.slot)[0].argmax(-1))
    with pytest.raises(InvalidInput, match=r"must say so, with reads=\{'again'\}"):
        Hybrid(pair, always(), sly, mode="speculative").decode(make_batch(1))


@one_family
def test_the_mode_stands_in_the_info_unless_it_is_lockstep(pair):
    assert "mode" not in Hybrid(pair, never()).info["never"] and Hybrid(pair, never(), mode="lazy").info["never"]["mode"] == "lazy"
