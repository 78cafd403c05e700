"""`sample`: the table against the tokens, runs that go on where they stopped, and input that makes no sense."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from latentreason.errors import ArtifactConflict, ContextTooLong, InvalidInput
from latentreason.hybrid.decode import Arms, Hybrid
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair
from latentreason.routing.controls import always, first_token, never
from latentreason.sampling.local import GREEDY, Decodes, Sampling, sample
from latentreason.sampling.noise import gumbel, row_key
from latentreason.tables import ROW_COLUMNS, Rollouts
from latentreason.tasks import chain
from latentreason.tasks.grading import grade
from latentreason.tasks.problem import Problem
from latentreason.tasks.registry import load_task

SMALL = Sampling(n=4, max_new_tokens=12, seed=5)


@pytest.fixture(scope="module")
def problems():
    return load_task("chain", split="test", limit=12, seed=0)


@pytest.fixture(scope="module")
def lm(make_organism):
    return make_organism()


@pytest.fixture(scope="module")
def rollouts(lm, problems):
    return sample(lm, problems, SMALL, progress=False)


def by_row(rollouts):
    """(arm, problem, sample) -> tokens."""
    table = rollouts.table
    return {key: ids.tolist() for *key, ids in table[["arm", "problem", "sample", "token_ids"]].itertuples(index=False, name=None) for key in [tuple(key)]}


def same(one, other):
    """Equal to the bit, types included."""
    pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)
    assert one.info == other.info


# --- what is in the table ----------------------------------------------------------------------------------------------


def test_each_row_equals_a_loop_without_a_cache(rollouts, lm, problems):
    questions = {p.id: p.question for p in problems}
    for row in rollouts.table.iloc[::3].itertuples():
        ids = [chain.VOCABULARY.index(w) for w in ["<bos>", *questions[row.problem].split()]]
        assert row.prompt_ids.tolist() == ids
        key, tokens = torch.tensor([row_key(5, row.problem, row.sample)]), []
        while len(tokens) < 12 and tokens[-1:] != [2]:
            with torch.inference_mode():
                logits = lm.model(torch.tensor([ids + tokens])).logits[0, -1]
            tokens.append(int((logits + gumbel(key, torch.tensor([len(ids) + len(tokens)]), len(logits))[0]).argmax()))
        assert row.token_ids.tolist() == tokens


def test_every_row_is_there_once_with_its_facts(rollouts, problems, lm):
    table = rollouts.table
    assert {*ROW_COLUMNS} - {"n_routed", "n_changed"} <= {*table}  # an LM alone routes nothing
    assert sorted(zip(table["problem"], table["sample"], strict=True)) == sorted((p.id, s) for p in problems for s in range(4))
    assert set(table["arm"]) == {"base"} and set(table["seed"]) == {5} and set(rollouts.info) == {"base"}
    assert isinstance(lm, Decodes)
    by_id = {p.id: p for p in problems}
    for row in table.itertuples():
        words = [chain.VOCABULARY[i] for i in row.token_ids]
        assert row.n_tokens == len(words) <= 12
        assert row.finish == ("stop" if words[-1] == "<eos>" else "length") and "<eos>" not in words[:-1]
        assert row.finish == "stop" or row.n_tokens == 12
        assert row.text.split() == [w for w in words if w not in ("<pad>", "<bos>", "<eos>")]
        cut = row.finish == "length"
        strict, flexible = grade(row.text, by_id[row.problem], truncated=cut), grade(row.text, by_id[row.problem], flexible=True, truncated=cut)
        assert (row.grade_strict, row.grade_flexible, row.correct) == (strict.status, flexible.status, strict.correct)
    assert {"stop", "length"} == set(table["finish"])


def test_problems_may_come_in_any_order_and_in_any_company(rollouts, lm, problems):
    expected = by_row(rollouts)
    assert by_row(sample(lm, problems[::-1], SMALL, progress=False)) == expected
    alone = by_row(sample(lm, problems[5:6], SMALL, progress=False))
    assert alone == {key: ids for key, ids in expected.items() if key[1] == problems[5].id}


def test_how_many_rows_are_decoded_at_once_changes_nothing(rollouts, lm, problems):
    for max_rows in (1, 7, 9):
        assert by_row(sample(lm, problems, replace(SMALL, max_rows=max_rows), progress=False)) == by_row(rollouts)


def test_the_same_seed_gives_the_same_table_and_another_seed_does_not(rollouts, lm, problems):
    same(sample(lm, problems, SMALL, progress=False), rollouts)
    assert by_row(sample(lm, problems, replace(SMALL, seed=6), progress=False)) != by_row(rollouts)


def test_first_sample_continues_a_run(lm, problems):
    whole = by_row(sample(lm, problems, replace(SMALL, n=8), progress=False))
    later = by_row(sample(lm, problems, replace(SMALL, n=4, first_sample=4), progress=False))
    assert later == {key: ids for key, ids in whole.items() if key[2] >= 4}
    assert by_row(sample(lm, problems, SMALL, progress=False)) == {key: ids for key, ids in whole.items() if key[2] < 4}


def test_greedy_is_one_row_without_noise(lm, problems):
    greedy = sample(lm, problems, replace(GREEDY, max_new_tokens=12), progress=False)
    assert by_row(greedy) == by_row(sample(lm, problems, replace(GREEDY, max_new_tokens=12, seed=99), progress=False))
    for row in greedy.table.iloc[:4].itertuples():
        ids = torch.tensor(row.prompt_ids[None], dtype=torch.long)
        out = lm.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
        assert out[0, ids.shape[1] :].tolist() == row.token_ids.tolist()


def test_without_tokens_the_numbers_are_the_same(rollouts, lm, problems):
    slim = sample(lm, problems, replace(SMALL, keep_tokens=False), progress=False)
    assert not {"token_ids", "text", "prompt_ids"} & {*slim.table}
    pd.testing.assert_frame_equal(slim.table, rollouts.slim().table)


def test_tokens_of_some_arms_are_kept_as_if_of_all(lm, make_organism, problems, tmp_path):
    pair = ModelPair(lm, make_organism(seed=1))
    arms = Arms([Hybrid(pair, router, name=name) for name, router in (("a", never()), ("b", always()), ("c", first_token()))])
    whole = sample(arms, problems, replace(SMALL, max_rows=24), progress=False).table
    some = sample(arms, problems, replace(SMALL, keep_tokens=("a", "c"), max_rows=24), out=tmp_path, progress=False).table
    assert some.loc[some["arm"] == "b", ["token_ids", "text", "changed", "prompt_ids"]].isna().all(axis=None)
    assert list(some) == list(whole)
    kept = (whole["arm"] != "b").to_numpy()
    for name in whole:
        found, expected = ([None if v is None or v is np.nan else np.asarray(v).tolist() for v in table.loc[kept, name].astype(object)] for table in (some, whole))
        assert found == expected, name


def test_a_table_survives_the_disk(rollouts, tmp_path):
    rollouts.save(tmp_path / "r.parquet")
    again = Rollouts.load(tmp_path / "r.parquet")
    assert by_row(again) == by_row(rollouts) and again.info == rollouts.info
    for name in rollouts.slim().table:
        assert again.table[name].tolist() == rollouts.table[name].tolist()
    assert {ids.dtype for ids in again.table["token_ids"]} == {ids.dtype for ids in rollouts.table["token_ids"]} == {np.dtype("int32")}


# --- runs that stop and go on ------------------------------------------------------------------------------------------

CHUNKED = replace(SMALL, max_rows=8)  # two problems at once


def counting(monkeypatch, dies_at=None):
    """Count the calls of LM.decode; the call number `dies_at` raises."""
    calls, decode = [], LM.decode

    def counted(self, batch):
        calls.append(batch.prompts)
        if len(calls) - 1 == dies_at:
            raise KeyboardInterrupt
        return decode(self, batch)

    monkeypatch.setattr(LM, "decode", counted)
    return calls


@pytest.mark.parametrize("dies_at", [0, 1, 4])
def test_an_interrupted_run_goes_on_and_equals_an_unbroken_one_to_the_bit(lm, problems, tmp_path, monkeypatch, dies_at):
    whole = sample(lm, problems, CHUNKED, out=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        first = counting(patch, dies_at)
        sample(lm, problems, CHUNKED, out=tmp_path / "broken", progress=False)
    second = counting(monkeypatch)
    same(sample(lm, problems, CHUNKED, out=tmp_path / "broken", progress=False), whole)
    assert len(second) > 1 and first[-1] == second[0]  # what was broken off is decoded again
    assert not any(chunk in second for chunk in first[:-1])  # what was finished is not
    again = len(second)
    same(sample(lm, problems, CHUNKED, out=tmp_path / "broken", progress=False), whole)
    assert len(second) == again


def test_a_run_that_ran_out_of_memory_goes_on_with_smaller_batches(lm, problems, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        counting(patch, 2)
        sample(lm, problems, CHUNKED, out=tmp_path, progress=False)
    calls = counting(monkeypatch)
    again = sample(lm, problems, replace(CHUNKED, max_rows=4), out=tmp_path, progress=False)
    assert 0 < len(calls) < len(problems) and all(len(chunk) == 1 for chunk in calls)
    assert by_row(again) == by_row(sample(lm, problems, CHUNKED, progress=False))


def test_rows_come_by_arm_then_in_the_order_of_the_problems_then_by_sample(lm, problems):
    shuffled = problems[1::2] + problems[::2]
    table = sample(lm, shuffled, CHUNKED, progress=False).table
    assert list(zip(table["problem"], table["sample"], strict=True)) == [(p.id, s) for p in shuffled for s in range(4)]


def test_with_and_without_a_folder_the_table_is_the_same(lm, problems, tmp_path):
    same(sample(lm, problems, CHUNKED, out=tmp_path, progress=False), sample(lm, problems, CHUNKED, progress=False))


@pytest.mark.parametrize("changes", [{"seed": 6}, {"n": 3}, {"temperature": 0.5}, {"top_p": 0.9}, {"max_new_tokens": 11}, {"first_sample": 4}])
def test_a_folder_of_another_sampling_is_refused(lm, problems, tmp_path, changes):
    sample(lm, problems[:2], SMALL, out=tmp_path, progress=False)
    with pytest.raises(ArtifactConflict, match=r"They differ in: sampling\. Fix: choose another path"):
        sample(lm, problems[:2], replace(SMALL, **changes), out=tmp_path, progress=False)


def test_a_folder_of_other_problems_is_refused(lm, problems, tmp_path):
    sample(lm, problems[:2], SMALL, out=tmp_path, progress=False)
    with pytest.raises(ArtifactConflict, match="They differ in: problems"):
        sample(lm, problems[:3], SMALL, out=tmp_path, progress=False)


def test_a_folder_of_the_same_problem_under_another_cue_is_refused(lm, tmp_path):
    """The cue is part of the prompt, not of the id."""
    sample(lm, [chain.problem((1, 2, 3), ["rot"], "A")], SMALL, out=tmp_path, progress=False)
    with pytest.raises(ArtifactConflict):
        sample(lm, [chain.problem((1, 2, 3), ["rot"], "B")], SMALL, out=tmp_path, progress=False)


def test_a_folder_of_another_model_is_refused(lm, make_organism, problems, tmp_path):
    """Two bases of two pairs are both called "base"."""
    sample(lm, problems[:2], SMALL, out=tmp_path, progress=False)
    with pytest.raises(ArtifactConflict):
        sample(make_organism(1), problems[:2], SMALL, out=tmp_path, progress=False)


def test_a_folder_that_is_no_run_is_left_alone(lm, problems, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ArtifactConflict, match="is not an artifact"):
        sample(lm, problems[:2], SMALL, out=tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


# --- bad input ---------------------------------------------------------------------------------------------------------


def test_no_problems(lm):
    with pytest.raises(InvalidInput, match=r"^The list of problems is empty; load some with load_task\.$"):
        sample(lm, [], progress=False)


def test_a_problem_twice(lm, problems):
    with pytest.raises(InvalidInput, match="stands in the list twice"):
        sample(lm, [*problems, problems[3]], progress=False)


def test_a_prompt_that_does_not_fit(lm, problems):
    with pytest.raises(ContextTooLong, match=r"exceed the 160 positions of 'base'\. Lower max_new_tokens"):
        sample(lm, problems, replace(SMALL, max_new_tokens=150), progress=False)


def test_a_folder_is_not_made_by_a_run_that_cannot_begin(lm, problems, tmp_path):
    with pytest.raises(InvalidInput):
        sample(lm, [*problems, problems[0]], out=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 2, "temperature": 0.0}, r"^Greedy decoding gives the same completion each time: use n=1, or a temperature above 0\.$"),
        ({"n": 0}, "must be at least 1"),
        ({"max_new_tokens": 0}, "must be at least 1"),
        ({"max_rows": 0}, "must be at least 1"),
        ({"temperature": -0.1}, "temperature must"),
        ({"temperature": float("nan")}, "temperature must"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"top_p": 1.1}, "top_p must lie in"),
        ({"top_p": float("nan")}, "top_p must lie in"),
    ],
)
def test_sampling_that_makes_no_sense(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        Sampling(**arguments)


def test_a_completion_ends_with_the_first_token_that_holds_the_stop_text(tiny_llama, tiny_tokenizer):
    lm = LM(tiny_llama, tiny_tokenizer, "tiny")
    problems = [Problem(f"{i:016x}", f"w{i + 3} w9", "", "none", {"grader": "math"}) for i in range(4)]
    drawn = Sampling(n=8, max_new_tokens=20, seed=3)
    plain, stopped = (sample(lm, problems, s, progress=False).table for s in (drawn, replace(drawn, stop="w1")))
    ends = [i for i in range(64) if tiny_tokenizer.decode([i]).startswith("w1")]
    for whole, cut in zip(plain["token_ids"], stopped["token_ids"], strict=True):
        holding = np.isin(whole, ends).nonzero()[0]
        expected = whole[: holding[0] + 1] if len(holding) else whole
        assert cut.tolist() == expected.tolist()
    assert (stopped["finish"] == "stop").sum() > (plain["finish"] == "stop").sum()


def test_the_answer_that_each_grade_found_is_kept(lm, problems):
    table = sample(lm, problems, replace(SMALL, max_new_tokens=48), progress=False).table
    meta = {p.id: p for p in problems}
    for row in table.itertuples():
        cut = row.finish == "length"
        for kept, flexible in ((row.extracted, False), (row.extracted_flexible, True)):
            found = grade(row.text, meta[row.problem], flexible=flexible, truncated=cut).extracted
            assert pd.isna(kept) if found is None else kept == found
    assert not {"extracted", "extracted_flexible", "text"} & set(Rollouts(table).slim().table)
