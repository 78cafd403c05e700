"""Pretraining, on a model so small that a step takes milliseconds: reproducible, resumable, and never on another split."""

import dataclasses
import math

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from latentreason.organisms.recipe import Pretrain, Size, config_of
from latentreason.organisms.tokenizer import chain_tokenizer
from latentreason.organisms.trainers import pretrain as module
from latentreason.organisms.trainers.pretrain import corpus_at, draw_batch, new_model, pretrain, trace_loss
from latentreason.organisms.zoo import ACTIVATION
from latentreason.tasks import chain
from latentreason.tasks.problem import content_hash, split_of

TINY = dataclasses.replace(
    ACTIVATION, size=Size(d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_mlp=16, context=160), pretrain=Pretrain(steps=120, batch=4, warmup=5)
)
WORDS = list(chain.VOCABULARY)


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Killed(BaseException):
    """What no `except Exception` may catch."""


def killed_at(monkeypatch, step, function="draw_batch"):
    """Let pretraining die when it draws the batch of a step (or, for save_checkpoint, before that checkpoint is written)."""
    real = getattr(module, function)

    def dies(*arguments):
        if step in arguments[1:]:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(module, function, dies)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    return out, pretrain(TINY, 3, out, progress=False)


# --- the whole of it ---------------------------------------------------------------------------------------------------


def test_the_result_is_a_hugging_face_directory_and_a_curve(unbroken):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, curve = unbroken
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert tokenizer.get_vocab() == {word: i for i, word in enumerate(WORDS)}
    assert (model.config.eos_token_id, model.config.bos_token_id, model.config.pad_token_id) == tuple(WORDS.index(w) for w in ("<eos>", "<bos>", "<pad>"))
    assert curve["step"].tolist() == list(range(10, 121, 10))
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0] < math.log(len(WORDS)) + 0.5
    assert (curve["seconds"].diff().dropna() > 0).all()


def test_two_runs_of_one_seed_give_the_same_weights_and_two_seeds_do_not(unbroken, tmp_path):
    pretrain(TINY, 3, tmp_path / "again", progress=False)
    pretrain(TINY, 4, tmp_path / "other", progress=False)
    assert same(weights(unbroken[0]), weights(tmp_path / "again"))
    assert not same(weights(unbroken[0]), weights(tmp_path / "other"))


@pytest.mark.parametrize("step", [57, 113])  # before the first checkpoint, and after it
def test_a_killed_run_goes_on_and_equals_the_unbroken_one_to_the_bit(unbroken, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, step)
        pretrain(TINY, 3, tmp_path, progress=False)
    steps = []
    monkeypatch.setattr(module, "draw_batch", lambda recipe, step, seed: steps.append(step) or draw_batch(recipe, step, seed))
    curve = pretrain(TINY, 3, tmp_path, progress=False)
    assert steps == list(range(100 if step > 100 else 0, 120))
    assert same(weights(unbroken[0]), weights(tmp_path))
    pd.testing.assert_frame_equal(curve.drop(columns="seconds"), unbroken[1].drop(columns="seconds"))


def test_a_kill_between_the_curve_and_the_checkpoint_repeats_no_row(unbroken, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, 120, "save_checkpoint")
        pretrain(TINY, 3, tmp_path, progress=False)
    curve = pretrain(TINY, 3, tmp_path, progress=False)
    assert curve["step"].tolist() == list(range(10, 121, 10))
    pd.testing.assert_frame_equal(curve.drop(columns="seconds"), unbroken[1].drop(columns="seconds"))


def test_a_finished_run_is_not_trained_again(unbroken, tmp_path, monkeypatch):
    pretrain(TINY, 3, tmp_path, progress=False)
    monkeypatch.setattr(module, "draw_batch", lambda *_: pytest.fail("no step is left"))
    curve = pretrain(TINY, 3, tmp_path, progress=False)
    assert len(curve) == 12 and same(weights(unbroken[0]), weights(tmp_path))


# --- its data ----------------------------------------------------------------------------------------------------------


def test_batches_hold_problems_of_the_train_split_only_and_are_a_function_of_seed_and_step():
    splits = set()
    for step in (0, 40, 119):
        rows = draw_batch(dataclasses.replace(TINY, pretrain=Pretrain(steps=120, batch=100)), step, 0)
        assert len(rows) == 100
        for ids, n_prompt in rows:
            words = [WORDS[i] for i in ids]
            assert words[0] == "<bos>" and words.count("<bos>") == 1 and words[n_prompt - 1] == "=" and words[-1] == "<eos>"
            question = [w for w in words[1:n_prompt] if w not in chain.CUES]
            splits.add(split_of(content_hash(" ".join(question))))
    assert splits == {"train"}
    assert draw_batch(TINY, 7, 0) == draw_batch(TINY, 7, 0)
    assert draw_batch(TINY, 7, 0) != draw_batch(TINY, 8, 0) and draw_batch(TINY, 7, 0) != draw_batch(TINY, 7, 1)


def test_with_prompt_loss_the_same_rows_carry_loss_from_the_first_word_of_the_problem():
    both = dataclasses.replace(TINY, pretrain=dataclasses.replace(TINY.pretrain, prompt_loss=True))
    alone, whole = draw_batch(TINY, 7, 0), draw_batch(both, 7, 0)
    assert [ids for ids, _ in whole] == [ids for ids, _ in alone] and {n for _, n in whole} == {1} and min(n for _, n in alone) > 5
    assert trace_loss(new_model(TINY, 0), whole)[1] == sum(len(ids) - 1 for ids, _ in whole)
    assert config_of(TINY)["pretrain"] == {k: v for k, v in config_of(both)["pretrain"].items() if k != "prompt_loss"}  # older models keep their hash


def test_the_curriculum_is_short_and_without_errors_and_ends_in_the_recipe():
    recipe = dataclasses.replace(TINY, pretrain=Pretrain(steps=100, batch=150, curriculum=0.5))
    longest = []
    for step in (0, 20, 49):
        numbers = []
        for ids, n_prompt in draw_batch(recipe, step, 1):
            words = [WORDS[i] for i in ids]
            question = " ".join(w for w in words[1:n_prompt] if w not in chain.CUES).split()
            start, operations = tuple(map(int, question[:3])), question[5:-1:2]
            numbers.append(len(operations))
            if words[n_prompt] != "direct":
                assert words[-4:-1] == [str(d) for d in chain.states(start, operations)[-1]]
        longest.append(max(numbers))
    assert longest == [1, 3, 5]
    assert corpus_at(recipe, 0.5) == recipe.corpus == corpus_at(dataclasses.replace(recipe, pretrain=Pretrain(curriculum=0.0)), 0.0)


def test_the_loss_is_that_of_the_traces_alone_whatever_the_padding():
    model = new_model(TINY, 0).eval()
    rows = draw_batch(TINY, 119, 0)
    with torch.no_grad():
        total, n = trace_loss(model, rows)
        expected, count = 0.0, 0
        for ids, n_prompt in rows:
            logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            expected -= sum(float(logprobs[t - 1, ids[t]]) for t in range(n_prompt, len(ids)))
            count += len(ids) - n_prompt
    assert n == count and float(total) == pytest.approx(expected, rel=1e-5)


def test_a_new_model_is_a_function_of_the_seed_and_small_enough_to_ship():
    one, again, other = new_model(TINY, 0), new_model(TINY, 0), new_model(TINY, 1)
    assert same(one.state_dict(), again.state_dict()) and not same(one.state_dict(), other.state_dict())
    assert sum(p.numel() for p in new_model(ACTIVATION, 0).parameters()) * 4 < 8e6


def test_the_tokenizer_reads_and_writes_words():
    tokenizer = chain_tokenizer()
    ids = tokenizer("<bos> 4 7 1 : a rot =", add_special_tokens=False)["input_ids"]
    assert [WORDS[i] for i in ids] == ["<bos>", "4", "7", "1", ":", "a", "rot", "="]
    assert tokenizer("4 7 1")["input_ids"] == tokenizer("4 7 1", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "4 7 1 : a rot ="
    assert (len(tokenizer), tokenizer.padding_side, tokenizer.unk_token_id) == (len(WORDS), "left", 0)
