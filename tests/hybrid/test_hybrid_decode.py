"""Hybrid decoding against its two ends and against a loop in which both models read every prefix afresh."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special, stats
from scipy.spatial import distance

from latentreason.errors import InvalidInput
from latentreason.hybrid.actions import BASE, RL, Action, swap
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.models.decoding import Batch, sampled
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.routing.base_only import on_entropy
from latentreason.routing.controls import always, first_token, never, random_places
from latentreason.routing.oracle import on_disagreement, on_divergence
from latentreason.sampling.local import Decodes, Sampling, sample
from latentreason.sampling.noise import gumbel
from latentreason.tasks.registry import load_task

BOS, EOS = 1, 2
PROMPTS = [[BOS, 9, 40, 17, 33, 5, 60, 28], [BOS, 12], [BOS, 7, 21, 8, 50]]


def make_batch(n=5, *, temperature=1.0, max_new_tokens=12, prompts=PROMPTS):
    keys = 31 + torch.arange(len(prompts) * n) * 104729
    return Batch(prompts, torch.arange(len(prompts)).repeat_interleave(n), keys, temperature, 1.0, max_new_tokens, gumbel)


GREEDY = make_batch(1, temperature=0.0)


def rows(decoded, name="token_ids"):
    return [row[:n].tolist() for row, n in zip(decoded.records[name], decoded.length, strict=True)]


def equal(one, other):
    return rows(one) == rows(other) and torch.equal(one.stopped, other.stopped)


# --- the two ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [make_batch(), GREEDY], ids=["sampled", "greedy"])
def test_never_is_the_base_model_token_for_token_and_changes_nothing(pair, batch):
    decoded = Hybrid(pair, never()).decode(batch)
    assert equal(decoded, pair.base.decode(batch))
    assert rows(decoded, "token_ids") == rows(decoded, "base_token_ids")
    assert not any(map(any, rows(decoded, "changed"))) and not any(map(any, rows(decoded, "routed")))
    assert {s for row in rows(decoded, "source") for s in row} == {BASE}


@pytest.mark.parametrize("router", [always(), on_disagreement(), random_places("all", [0], [1.0], disagreements=True), ~never(), never() | always()], ids=lambda r: r.name)
@pytest.mark.parametrize("batch", [make_batch(), make_batch(temperature=0.7), GREEDY], ids=["sampled", "colder", "greedy"])
def test_always_is_the_rl_model_token_for_token_and_so_is_every_disagreement(pair, batch, router):
    decoded = Hybrid(pair, router).decode(batch)
    assert equal(decoded, pair.rl.decode(batch))
    changed = [c for row in rows(decoded, "changed") for c in row]
    assert np.mean(changed) > 0.2 and changed == [d for row in rows(decoded, "disagree") for d in row]


def test_the_two_ends_differ(pair):
    assert rows(pair.base.decode(make_batch())) != rows(pair.rl.decode(make_batch()))


def test_models_of_two_architectures_make_a_pair(make_tiny, tiny_tokenizer):
    pair = ModelPair(LM(make_tiny("gpt2", 3), tiny_tokenizer, "base"), LM(make_tiny("llama"), tiny_tokenizer, "rl"))
    assert equal(Hybrid(pair, never()).decode(make_batch()), pair.base.decode(make_batch()))
    assert equal(Hybrid(pair, always()).decode(make_batch()), pair.rl.decode(make_batch()))


# --- the middle --------------------------------------------------------------------------------------------------------


def brute_force(pair, batch, router):
    """Every column of every row, from full forwards of both models on each prefix and from scipy in float64."""
    out = []
    for i, problem in enumerate(batch.problem.tolist()):
        prompt, row = batch.prompts[problem], []
        key = batch.keys[i : i + 1]
        for t in range(batch.max_new_tokens):
            ids = torch.tensor([prompt + [cell["token_ids"] for cell in row]])
            with torch.inference_mode():
                logits = [lm.model(input_ids=ids, use_cache=False).logits[0, -1] for lm in (pair.base, pair.rl)]
            noise = gumbel(key, torch.tensor([len(prompt) + t]), 64)[0]
            base, rl = (int((x / batch.temperature + noise).argmax()) if batch.temperature else int(x.argmax()) for x in logits)
            p, q = (special.softmax(x.double().numpy()) for x in logits)
            facts = {"base_entropy": stats.entropy(p), "js": distance.jensenshannon(p, q) ** 2, "tv": np.abs(p - q).sum() / 2, "kl": stats.entropy(q, p)}
            routed = router(facts, t, base != rl)
            token = rl if routed else base
            row.append({
                "token_ids": token, "base_token_ids": base, "source": RL if routed else BASE, "routed": routed, "changed": token != base, "disagree": base != rl,
                "base_logprob": np.log(p[token]), "rl_logprob": np.log(q[token]), "base_entropy": facts["base_entropy"], "divergence": facts["js"],
            })  # fmt: skip
            if token == EOS:
                break
        out.append(row)
    return out


@pytest.mark.parametrize(
    ("router", "rule"),
    [
        (on_divergence("js", 0.22), lambda facts, t, differ: facts["js"] > 0.22),
        (on_divergence("kl", 1.2), lambda facts, t, differ: facts["kl"] > 1.2),
        (on_divergence("tv", 0.5), lambda facts, t, differ: facts["tv"] > 0.5),
        (on_entropy(3.6), lambda facts, t, differ: facts["base_entropy"] > 3.6),
        (first_token(), lambda facts, t, differ: t == 0),
        (~first_token() & on_disagreement(), lambda facts, t, differ: t > 0 and differ),
        (on_divergence("js", 0.25) | on_entropy(3.8), lambda facts, t, differ: facts["js"] > 0.25 or facts["base_entropy"] > 3.8),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_every_column_of_every_row_equals_a_loop_without_a_cache(pair, router, rule):
    batch = make_batch(2, max_new_tokens=10)
    decoded, expected = Hybrid(pair, router).decode(batch), brute_force(pair, batch, rule)
    assert decoded.stopped.tolist() == [row[-1]["token_ids"] == EOS for row in expected]
    for name in expected[0][0]:
        found, right = rows(decoded, name), [[cell[name] for cell in row] for row in expected]
        if name in ("base_logprob", "rl_logprob", "base_entropy", "divergence"):
            np.testing.assert_allclose(np.concatenate(found), np.concatenate(right), atol=2e-5)
        else:
            assert found == right, name
    routed = np.concatenate(rows(decoded, "routed"))
    assert 0 < routed.mean() < 1


def test_greedy_rows_too(pair):
    decoded, expected = Hybrid(pair, on_divergence("js", 0.22)).decode(GREEDY), brute_force(pair, GREEDY, lambda facts, t, differ: facts["js"] > 0.22)
    for name in ("token_ids", "base_token_ids", "routed", "changed", "disagree"):
        assert rows(decoded, name) == [[cell[name] for cell in row] for row in expected]


def test_changed_is_a_subset_of_routed_and_of_disagreements(pair):
    for router in (on_divergence("js", 0.22), random_places("half", [0], [0.5]), on_entropy(3.6)):
        decoded = Hybrid(pair, router).decode(make_batch())
        changed, routed, disagree = (np.concatenate(rows(decoded, name)) for name in ("changed", "routed", "disagree"))
        assert np.array_equal(changed, routed & disagree)
        assert changed.any() and (routed & ~disagree).any() and (disagree & ~routed).any()


def test_end_of_text_of_either_source_ends_the_row(pair):
    """One model ends on 2, the other on 7 too; whoever says either of them ends the row."""
    model = copy.deepcopy(pair.rl.model)
    model.generation_config.eos_token_id = [7]
    two = ModelPair(pair.base, LM(model, pair.rl.tokenizer, "rl"))
    assert two.rl.eos_ids == {2, 7} and two.base.eos_ids == {2}
    ended = set()
    for router in (on_divergence("js", 0.22), never(), always()):
        decoded = Hybrid(two, router).decode(make_batch(40))
        for tokens, sources, stopped in zip(rows(decoded), rows(decoded, "source"), decoded.stopped.tolist(), strict=True):
            assert not {2, 7} & set(tokens[:-1]) and stopped == (tokens[-1] in (2, 7))
            if stopped:
                ended.add((tokens[-1], sources[-1]))
    assert ended == {(2, BASE), (2, RL), (7, BASE), (7, RL)}


def test_padded_rows_of_a_vocabulary_change_nothing_even_if_they_are_the_likeliest(pair):
    model = copy.deepcopy(pair.rl.model)
    model.resize_token_embeddings(80, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[64:] = 50 * pair.rl.model.get_output_embeddings().weight[10:26]
    padded = ModelPair(pair.base, LM(model, pair.rl.tokenizer, "rl"))
    for batch in (make_batch(3), GREEDY):
        with torch.inference_mode():
            assert max(int(model(torch.tensor([prompt])).logits[0, -1].argmax()) for prompt in PROMPTS) >= 64
        for router in (never(), always(), on_divergence("js", 0.22)):
            one, other = Hybrid(padded, router).decode(batch), Hybrid(pair, router).decode(batch)
            assert equal(one, other) and rows(one, "changed") == rows(other, "changed")
            np.testing.assert_allclose(np.concatenate(rows(one, "rl_logprob")), np.concatenate(rows(other, "rl_logprob")), atol=1e-5)
    swapped = ModelPair(LM(model, pair.rl.tokenizer, "base"), pair.base)
    assert equal(Hybrid(swapped, never()).decode(make_batch()), pair.rl.decode(make_batch()))


def test_an_action_of_ones_own_speaks_at_routed_tokens_only(pair):
    seen = []

    def loudest_other(moment):
        seen.append(len(moment.row))
        return sampled(moment.logits[0] - 1e9 * torch.nn.functional.one_hot(moment.logits[0].argmax(-1), 64), moment)

    action = Action("second", source=2, tokens=loudest_other)
    decoded = Hybrid(pair, first_token(), action).decode(GREEDY)
    assert seen == [3]
    for i, prompt in enumerate(PROMPTS):
        with torch.inference_mode():
            second = int(pair.base.model(torch.tensor([prompt])).logits[0, -1].topk(2).indices[1])
        assert rows(decoded)[i][0] == second and rows(decoded, "source")[i][:2] == [2, BASE][: len(rows(decoded)[i])]


def test_a_router_without_rl_never_sees_it_and_one_without_tokens_never_sees_them(pair):
    seen = []
    for reads in ({"base"}, {"base", "rl"}, {"base", "rl", "sampled"}):
        router = replace(never(), reads=frozenset(reads), decide=lambda step: seen.append(step) or torch.zeros(len(step.keys), dtype=torch.bool))
        Hybrid(pair, router).decode(make_batch(1, max_new_tokens=2))
        step = seen[-1]
        assert (step.rl_logits is None, step.base_token is None, step.rl_token is None) == ("rl" not in reads, "sampled" not in reads, "sampled" not in reads)


# --- several arms at once ----------------------------------------------------------------------------------------------


def arms_of(pair):
    routers = [
        never(), always(), on_divergence("js", 0.22), on_divergence("js", 0.25), on_entropy(3.6), first_token(), on_disagreement() & on_divergence("tv", 0.5),
        random_places("random", [0], [0.4]), random_places("among disagreements", [0, 2], [0.2, 0.6], disagreements=True),
    ]  # fmt: skip
    return [Hybrid(pair, router, name=f"{i}") for i, router in enumerate(routers)]


@pytest.mark.parametrize("batch", [make_batch(3), GREEDY], ids=["sampled", "greedy"])
def test_each_arm_equals_its_hybrid_alone_row_by_row(pair, batch):
    hybrids, n = arms_of(pair), len(batch.problem)
    together = Arms(hybrids).decode(batch)
    for i, hybrid in enumerate(hybrids):
        alone = hybrid.decode(batch)
        part = slice(i * n, (i + 1) * n)
        assert torch.equal(together.length[part], alone.length) and torch.equal(together.stopped[part], alone.stopped)
        for name, values in alone.records.items():
            found = [row[:k].tolist() for row, k in zip(together.records[name][part], alone.length, strict=True)]
            if values.is_floating_point():
                np.testing.assert_allclose(np.concatenate(found), np.concatenate(rows(alone, name)), atol=1e-5)
            else:
                assert found == rows(alone, name), name


def test_arms_that_agree_share_their_prefixes(pair, monkeypatch):
    from latentreason.models.decoding import PrefixDecoder

    widths, extend = [], PrefixDecoder.extend

    def counted(self, slot, token):
        out = extend(self, slot, token)
        widths.append(len(set(out.tolist())))
        return out

    monkeypatch.setattr(PrefixDecoder, "extend", counted)
    Arms([Hybrid(pair, never(), name=f"{i}") for i in range(5)]).decode(make_batch(4))
    assert max(widths) <= 12  # rows of one sample under five equal arms


def test_arms_must_share_one_pair_and_have_names(pair):
    with pytest.raises(InvalidInput, match="at least one hybrid, all of the same ModelPair"):
        Arms([])
    with pytest.raises(InvalidInput, match="all of the same ModelPair object"):
        Arms([Hybrid(pair, never()), Hybrid(ModelPair(pair.base, pair.rl), always())])
    with pytest.raises(InvalidInput, match=r"equal names \['never', 'never'\]; give each Hybrid a name"):
        Arms([Hybrid(pair, never()), Hybrid(pair, never())])


def test_controls_of_several_routers_and_budgets_have_names_of_their_own(pair):
    def control(of, budget):
        return random_places("matched_disagreement", [0], [0.5], disagreements=True, of=of, budget=budget)

    arms = Arms([Hybrid(pair, control(of, budget)) for of in ("on_entropy", "on_divergence(js)") for budget in (0.25, 0.5)])
    assert arms.arms[:2] == ("matched_disagreement(on_entropy)@0.25", "matched_disagreement(on_entropy)@0.50") and len(set(arms.arms)) == 4
    assert Hybrid(pair, control("on_entropy", 0.5), name="mine").arms == ("mine",)
    assert Hybrid(pair, random_places("places", [0], [0.5])).arms == ("places",)


# --- through sample ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problems():
    return load_task("chain", split="test", limit=8, seed=0)


SMALL = Sampling(n=3, max_new_tokens=12)


def tokens_by_row(rollouts):
    return {(p, s): ids.tolist() for p, s, ids in rollouts.table[["problem", "sample", "token_ids"]].itertuples(index=False, name=None)}


@pytest.mark.parametrize("sampling", [SMALL, replace(SMALL, n=1, temperature=0.0)], ids=["sampled", "greedy"])
def test_in_tables_never_is_base_and_always_is_rl(make_organisms, problems, sampling):
    pair = make_organisms()
    base, rl, low, high = (sample(x, problems, sampling, progress=False) for x in (pair.base, pair.rl, Hybrid(pair, never()), Hybrid(pair, always())))
    assert tokens_by_row(base) == tokens_by_row(low) and tokens_by_row(rl) == tokens_by_row(high) and tokens_by_row(base) != tokens_by_row(rl)
    assert low.arms == ["never"] and (low.table["n_changed"] == 0).all() and (low.table["n_routed"] == 0).all()
    assert (high.table["n_routed"] == high.table["n_tokens"]).all() and 0 < high.table["n_changed"].sum() <= high.table["n_tokens"].sum()
    for rollouts in (low, high):
        table = rollouts.table
        assert all(len(table[name][i]) == n for name in ("base_token_ids", "source", "routed", "changed", "base_logprob") for i, n in enumerate(table["n_tokens"]))
        assert [int(c.sum()) for c in table["changed"]] == table["n_changed"].tolist()
        assert all(np.array_equal(r.token_ids != r.base_token_ids, r.changed) for r in table.itertuples())


def test_a_table_of_arms_is_the_tables_of_its_hybrids(make_organisms, problems):
    pair = make_organisms()
    hybrids = arms_of(pair)
    together = sample(Arms(hybrids), problems, SMALL, progress=False)
    assert together.arms == [h.name for h in hybrids]
    for hybrid in hybrids:
        alone = sample(hybrid, problems, SMALL, progress=False)
        part = together.arm(hybrid.name)
        assert part.info == alone.info and isinstance(hybrid, Decodes)
        assert all(part.info[arm].items() >= facts.items() for arm, facts in hybrid.info.items())
        names = ["problem", "sample", "arm", "n_tokens", "n_routed", "n_changed", "finish", "correct", "grade_strict", "grade_flexible", "text", "seed"]
        order = ["problem", "sample"]
        one, other = (t.sort_values(order, ignore_index=True) for t in (part.table, alone.table))
        assert one[names].equals(other[names])
        assert [ids.tolist() for ids in one["token_ids"]] == [ids.tolist() for ids in other["token_ids"]]


def test_what_a_hybrid_was_stands_in_the_info(make_organisms):
    pair = make_organisms()
    info = Hybrid(pair, on_divergence("kl", 0.3) & ~on_entropy(1.0), name="mine").info
    assert info["mine"]["router"]["reads"] == ["base", "rl"] and info["mine"]["action"] == {"name": "swap", "params": {}}
    assert swap() == Action("swap") and Hybrid(pair, never()).action == swap()
