"""`capture` against `output_hidden_states`, against itself in other batches, and against what decoding sees."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from latentreason.activations.capture import capture
from latentreason.activations.editing import Edit, editing
from latentreason.activations.sites import Site
from latentreason.errors import ContextTooLong, InvalidInput, NonFinite, UnknownName
from latentreason.models.blocks import decoder
from latentreason.models.language_model import LM
from latentreason.tables import Rollouts, Spans

SITES = [Site(0), Site(1), Site(2)]


def final_norm(lm: LM) -> torch.nn.Module:
    body = decoder(lm)
    return body.ln_f if hasattr(body, "ln_f") else body.norm


@torch.inference_mode()
def truth(lm: LM, rollouts: Rollouts) -> list[Tensor]:
    """By block: hidden states at the tokens that predict the completions, one sequence at a time; the last AFTER the final norm."""
    rows: list[list[Tensor]] = []
    for prompt, completion in zip(rollouts.table["prompt_ids"], rollouts.table["token_ids"], strict=True):
        ids = torch.tensor(np.concatenate([prompt, completion]))[None].long()
        states = lm.model(input_ids=ids, output_hidden_states=True).hidden_states[1:]
        rows.append([s[0, len(prompt) - 1 : -1] for s in states])
    return [torch.cat(parts) for parts in zip(*rows, strict=True)]


@pytest.mark.parametrize(("batch_tokens", "tolerance"), [(1, 1e-5), (40, 1e-4), (16_384, 1e-4)])
def test_capture_equals_output_hidden_states(lm, make_rollouts, batch_tokens: int, tolerance: float) -> None:
    rollouts = make_rollouts()
    found = capture(lm, rollouts, SITES, batch_tokens=batch_tokens)
    expected = truth(lm, rollouts)
    for site in SITES[:-1]:
        torch.testing.assert_close(found.values[site], expected[site.layer], atol=tolerance, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(final_norm(lm)(found.values[Site(2)]), expected[2], atol=tolerance, rtol=0)
    assert (found.values[Site(2)] - expected[2]).abs().max() > 0.1  # so the norm is what makes them equal


def test_the_index_names_the_token_that_each_row_predicts(lm, make_rollouts) -> None:
    rollouts = make_rollouts()
    index = capture(lm, rollouts, [Site(0)]).index
    assert index.columns.tolist() == ["arm", "problem", "sample", "position", "token"]
    at = [(r.arm, r.problem, r.sample, t, token) for r in rollouts.table.itertuples() for t, token in enumerate(r.token_ids)]
    assert list(index.itertuples(index=False, name=None)) == at


def test_left_padding_changes_nothing_in_one_sequence(lm, make_rollouts) -> None:
    rollouts = make_rollouts()
    alone = [capture(lm, Rollouts(rollouts.table.iloc[[i]]), SITES) for i in range(len(rollouts))]
    together = capture(lm, rollouts, SITES)
    for site in SITES:
        torch.testing.assert_close(together.values[site], torch.cat([a.values[site] for a in alone]), atol=1e-4, rtol=0)


def test_teacher_forcing_equals_decoding_under_a_cache(lm) -> None:
    prompt = torch.tensor([[1, 5, 9, 33, 12]])
    seen: list[Tensor] = []
    block = dict(decoder(lm).named_modules())["h.1" if hasattr(decoder(lm), "h") else "layers.1"]
    handle = block.register_forward_hook(lambda module, args, output: seen.append(output[:, -1].clone()))
    try:
        out = lm.model.generate(prompt, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    finally:
        handle.remove()
    table = pd.DataFrame(
        {"arm": ["a"], "problem": ["p"], "sample": [0], "prompt_ids": [prompt[0].numpy()], "token_ids": [out[0, 5:].numpy()]}
    )
    assert len(seen) == 6 and seen[3].shape == (1, 32)
    torch.testing.assert_close(capture(lm, Rollouts(table), [Site(1)]).values[Site(1)], torch.cat(seen), atol=1e-5, rtol=0)


def test_spans_give_the_onsets_in_their_own_order(lm, make_rollouts) -> None:
    rollouts = make_rollouts()
    every = capture(lm, rollouts, SITES)
    picked = every.index.sample(9, random_state=1)
    spans = Spans(picked.rename(columns={"position": "start"})[["problem", "arm", "sample", "start"]].assign(strategy="x", end=99))
    found = capture(lm, rollouts, SITES, at=spans)
    assert found.index.columns.tolist() == ["arm", "problem", "sample", "position", "token", "strategy", "end"]
    for column in every.index:
        assert found.index[column].tolist() == picked[column].tolist()
    for site in SITES:
        torch.testing.assert_close(found.values[site], every.values[site][picked.index.tolist()], atol=1e-4, rtol=0)


def test_mean_is_over_the_tokens_of_a_rollout_or_of_a_span(lm, make_rollouts) -> None:
    rollouts = make_rollouts()
    every = capture(lm, rollouts, SITES)
    by_rollout = every.index.groupby(["problem", "sample"], sort=False).indices
    mean = capture(lm, rollouts, SITES, reduce="mean", batch_tokens=40)
    assert mean.index["token"].tolist() == [t[0] for t in rollouts.table["token_ids"]]
    keys = rollouts.table[["arm", "problem", "sample"]]
    lengths = rollouts.table["token_ids"].map(len)
    spans = pd.concat([keys.assign(start=lengths // 2, end=lengths), keys.assign(start=0, end=1)], ignore_index=True)
    parts = capture(lm, rollouts, SITES, at=spans, reduce="mean")
    for site in SITES:
        rows = [every.values[site][i] for i in by_rollout.values()]
        torch.testing.assert_close(mean.values[site], torch.stack([r.mean(0) for r in rows]), atol=1e-4, rtol=0)
        expected = [r[len(r) // 2 :].mean(0) for r in rows] + [r[0] for r in rows]
        torch.testing.assert_close(parts.values[site], torch.stack(expected), atol=1e-4, rtol=0)


def test_last_is_the_state_that_predicts_the_last_token(lm, make_rollouts) -> None:
    rollouts = make_rollouts()
    every = capture(lm, rollouts, SITES)
    keys, lengths = rollouts.table[["arm", "problem", "sample"]], rollouts.table["token_ids"].map(len)
    spans = pd.concat([keys.assign(start=0, end=(lengths + 1) // 2), keys.assign(start=lengths - 1, end=lengths)], ignore_index=True)
    for found, end in ((capture(lm, rollouts, SITES, reduce="last"), lengths), (capture(lm, rollouts, SITES, at=spans, reduce="last"), spans["end"])):
        assert found.index["position"].tolist() == (end - 1).tolist()
        same = every.index.reset_index().merge(found.index, how="right")  # in the order of what was found
        assert same["token"].tolist() == found.index["token"].tolist()
        for site in SITES:
            torch.testing.assert_close(found.values[site], every.values[site][same["index"].tolist()], atol=1e-4, rtol=0)


def test_means_by_columns_count_each_token_once(lm, make_rollouts) -> None:
    rollouts = make_rollouts()
    table = rollouts.table.assign(correct=[True, False, False, True, True, False, False])
    table.at[2, "token_ids"] = np.array([], dtype=np.int32)  # belongs to no mean
    every = capture(lm, Rollouts(table), SITES)
    of = every.index.merge(table[["arm", "problem", "sample", "correct"]])
    found = capture(lm, Rollouts(table), SITES, reduce="mean", by="correct", batch_tokens=40)
    assert found.index.to_dict("list") == {"correct": [False, True], "n": [3, 3], "n_tokens": of.groupby("correct").size().tolist()}
    lengths = table["token_ids"].map(len)
    spans = table.assign(start=lengths // 2, end=lengths, strategy=list("abcabca"))[lengths > 0]
    pooled = capture(lm, Rollouts(table), SITES, at=spans[["arm", "problem", "sample", "start", "end", "strategy"]], reduce="mean", by=["strategy", "sample"])
    assert pooled.index.columns.tolist() == ["strategy", "sample", "n", "n_tokens"] and pooled.index["n"].sum() == 6
    wide = every.index.reset_index().merge(spans[["problem", "sample", "start", "strategy"]])
    inside = wide[wide["position"] >= wide["start"]].groupby(["strategy", "sample"])["index"]
    assert pooled.index["n_tokens"].tolist() == inside.size().tolist()
    for site in SITES:
        assert found.values[site].dtype == torch.float32
        rows = [every.values[site][torch.tensor((of["correct"] == value).tolist())].mean(0) for value in (False, True)]
        torch.testing.assert_close(found.values[site], torch.stack(rows), atol=1e-4, rtol=0)
        rows = [every.values[site][group.tolist()].mean(0) for _, group in inside]
        torch.testing.assert_close(pooled.values[site], torch.stack(rows), atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", [{"reduce": "mean", "by": "sample"}, {"reduce": "mean"}, {"reduce": "last"}])
def test_what_is_reduced_is_never_held_whole(lm, make_rollouts, monkeypatch: pytest.MonkeyPatch, how: dict[str, str]) -> None:
    rollouts, added = make_rollouts(40), []
    total = int(rollouts.table["token_ids"].map(len).sum())
    plain = Tensor.index_add_
    monkeypatch.setattr(Tensor, "index_add_", lambda values, *args: (added.append((len(values), len(args[2]))), plain(values, *args))[1])
    capture(lm, rollouts, [Site(0, "z")], batch_tokens=60, **how)
    rows = 2 if "by" in how else len(rollouts)
    assert {n for n, _ in added} == {rows} and max(n for _, n in added) <= 60 and (how["reduce"] == "last" or sum(n for _, n in added) == total)


def test_a_rollout_without_tokens_has_no_rows(lm, make_rollouts) -> None:
    table = make_rollouts(3).table
    table.at[1, "token_ids"] = np.array([], dtype=np.int32)
    index = capture(lm, Rollouts(table), [Site(0)]).index
    assert set(zip(index["problem"], index["sample"], strict=True)) == {("p0", 0), ("p1", 0)}
    assert len(capture(lm, Rollouts(table), [Site(0)], reduce="mean")) == 2


def test_capture_leaves_the_model_as_it_was(lm, make_rollouts) -> None:
    rollouts = make_rollouts()
    before = capture(lm, rollouts, SITES)
    hooks = {n: (list(m._forward_hooks), list(m._forward_pre_hooks)) for n, m in lm.model.named_modules()}
    lm.model.train()
    body = decoder(lm)
    body.eval()  # a mixed state must come back as it is
    try:
        modes = {n: m.training for n, m in lm.model.named_modules()}
        after = capture(lm, rollouts, SITES)
        assert {n: m.training for n, m in lm.model.named_modules()} == modes
        body.train()  # GPT-2 has dropout: it must be off while we read
        dropped = capture(lm, rollouts, SITES)
    finally:
        lm.model.eval()
    assert {n: (list(m._forward_hooks), list(m._forward_pre_hooks)) for n, m in lm.model.named_modules()} == hooks
    assert lm.tokenizer.padding_side == "right"
    for other in (after, dropped):
        assert all(torch.equal(other.values[s], before.values[s]) for s in SITES)


def test_values_can_be_trained_on_and_are_stored_as_asked(lm, make_rollouts) -> None:
    found = capture(lm, make_rollouts(), [Site(1)], dtype=torch.float16)
    assert found.values[Site(1)].dtype == torch.float16 and not found.values[Site(1)].is_inference()


def test_a_half_precision_model_stores_fp32(make_tiny, tiny_tokenizer, make_rollouts) -> None:
    from copy import deepcopy

    half = LM(deepcopy(make_tiny("llama")).to(torch.bfloat16), tiny_tokenizer, "bf16")
    for reduce in (None, "mean"):
        assert capture(half, make_rollouts(3), [Site(1)], reduce=reduce).values[Site(1)].dtype == torch.float32


def test_capture_within_editing_reads_what_is_edited(lm, make_rollouts) -> None:
    rollouts, vector = make_rollouts(3), torch.linspace(-1, 1, 32)
    plain = capture(lm, rollouts, [Site(1)]).values[Site(1)]
    with editing(lm, [Edit(Site(1), vector, positions=lambda p: p >= 3)]):
        edited = capture(lm, rollouts, [Site(1)])
    prompt = dict(zip(rollouts.table["problem"] + rollouts.table["sample"].astype(str), rollouts.table["prompt_ids"].map(len), strict=True))
    state = edited.index["position"] + (edited.index["problem"] + edited.index["sample"].astype(str)).map(prompt) - 1
    moved = torch.from_numpy((state >= 3).to_numpy(copy=True))
    torch.testing.assert_close(edited.values[Site(1)], plain + vector * moved[:, None], atol=1e-5, rtol=0)


def test_reading_stops_after_the_deepest_site(lm, make_rollouts) -> None:
    ran: list[int] = []
    layers = getattr(decoder(lm), "h", None) or decoder(lm).layers
    handles = [layer.register_forward_pre_hook(lambda module, args, i=i: ran.append(i)) for i, layer in enumerate(layers)]
    head = lm.model.get_output_embeddings().register_forward_pre_hook(lambda module, args: ran.append(99))
    try:
        capture(lm, make_rollouts(2), [Site(1), Site(0)])
    finally:
        for handle in [*handles, head]:
            handle.remove()
    assert set(ran) == {0, 1}


def test_non_finite_activations_name_model_and_site(make_tiny, tiny_tokenizer, make_rollouts) -> None:
    from copy import deepcopy

    broken = LM(deepcopy(make_tiny("llama")), tiny_tokenizer, "broken")
    with torch.no_grad():
        broken.model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    capture(broken, make_rollouts(), [Site(0)])
    with pytest.raises(NonFinite, match=r"'broken' .*NaN or Inf at resid\.1"):
        capture(broken, make_rollouts(), SITES)
    assert all(not layer._forward_hooks or "resid" not in str(layer._forward_hooks) for layer in broken.model.model.layers)
    assert [len(layer._forward_hooks) for layer in broken.model.model.layers] == [
        len(layer._forward_hooks) for layer in make_tiny("llama").model.layers
    ]


def test_what_cannot_be_read_is_refused(lm, make_rollouts) -> None:
    rollouts = make_rollouts()
    key = {"arm": "tiny", "problem": "p0", "sample": 0}
    with pytest.raises(UnknownName, match=r"backend 'hff'\. Did you mean 'hf'"):
        capture(lm, rollouts, SITES, backend="hff")
    with pytest.raises(UnknownName, match=r"reduction 'men'\. Did you mean 'mean'"):
        capture(lm, rollouts, SITES, reduce="men")
    with pytest.raises(InvalidInput, match="reduce='mean'"):
        capture(lm, rollouts, SITES, by="sample")
    with pytest.raises(UnknownName, match=r"column 'sampl'\. Did you mean 'sample'"):
        capture(lm, rollouts, SITES, reduce="mean", by="sampl")
    with pytest.raises(InvalidInput, match="'grade' has missing values"):
        capture(lm, Rollouts(rollouts.table.assign(grade=np.nan)), SITES, reduce="mean", by="grade")
    with pytest.raises(UnknownName, match="generatd"):
        capture(lm, rollouts, SITES, at="generatd")
    with pytest.raises(InvalidInput, match="blocks 0 to 2"):
        capture(lm, rollouts, [Site(3)])
    with pytest.raises(InvalidInput, match="token_ids"):
        capture(lm, rollouts.slim(), SITES)
    with pytest.raises(InvalidInput, match="1 of 1 spans"):
        capture(lm, rollouts, SITES, at=pd.DataFrame([{**key, "start": 11}]))
    with pytest.raises(InvalidInput, match="1 of 1 spans"):
        capture(lm, rollouts, SITES, at=pd.DataFrame([{**key, "arm": "other", "start": 0}]))
    with pytest.raises(InvalidInput, match="same arm, problem and sample"):
        capture(lm, Rollouts(pd.concat([rollouts.table] * 2)), SITES, at=pd.DataFrame([{**key, "start": 0}]))
    table = rollouts.table.copy()
    table.at[0, "prompt_ids"] = np.arange(3, 60, dtype=np.int32).repeat(3)[:125]
    table.at[0, "token_ids"] = np.array([5, 6, 7, 8], dtype=np.int32)
    assert len(capture(lm, Rollouts(table), SITES)) > 0  # the last token is never read
    table.at[0, "token_ids"] = np.array([5, 6, 7, 8, 9], dtype=np.int32)
    with pytest.raises(ContextTooLong, match="129 tokens would have to be read .* 'tiny' has 128 positions"):
        capture(lm, Rollouts(table), SITES)
    table.at[0, "prompt_ids"] = np.array([3, 64])
    with pytest.raises(InvalidInput, match="token id 64"):
        capture(lm, Rollouts(table), SITES)
    table.at[0, "prompt_ids"] = np.array([], dtype=np.int32)
    with pytest.raises(InvalidInput, match="prompt is empty"):
        capture(lm, Rollouts(table), SITES)
