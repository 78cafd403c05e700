"""LM: what it says of its model, and what it refuses."""

import copy

import pytest
import torch

from latentreason.errors import InvalidInput, NonFinite
from latentreason.models.language_model import LM


def test_facts_of_a_model(make_lm):
    for family in ("llama", "qwen2", "gpt2"):
        lm = make_lm(family)
        assert (lm.n_layers, lm.d_model, lm.n_vocab, lm.context, lm.eos_ids) == (3, 32, 64, 128, frozenset({2}))
        assert lm.arms == ("base",) and str(lm.device) == "cpu"


def test_padded_rows_of_the_vocabulary_are_not_real_tokens(make_tiny, tiny_tokenizer):
    model = copy.deepcopy(make_tiny("llama"))
    model.resize_token_embeddings(80, mean_resizing=False)
    assert LM(model, tiny_tokenizer, "padded").n_vocab == 64
    assert LM(model, tiny_tokenizer, "told", n_vocab=60).n_vocab == 60


def test_all_tokens_that_end_a_completion_are_known(make_tiny, tiny_tokenizer):
    model = copy.deepcopy(make_tiny("llama"))
    model.generation_config.eos_token_id = [5, 6]
    assert LM(model, tiny_tokenizer, "chat").eos_ids == {2, 5, 6}
    model.generation_config = None
    assert LM(model, tiny_tokenizer, "bare").eos_ids == {2}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_weight_that_is_not_finite_is_named(make_tiny, tiny_tokenizer, bad):
    model = copy.deepcopy(make_tiny("gpt2"))
    LM(model, tiny_tokenizer, "fine").check_finite()
    model.transformer.h[1].mlp.c_fc.bias[7] = bad
    with pytest.raises(NonFinite, match=r"^Weight 'transformer\.h\.1\.mlp\.c_fc\.bias' of 'broken' holds NaN or Inf\. Use a checkpoint"):
        LM(model, tiny_tokenizer, "broken").check_finite()


def test_a_saved_model_comes_back_and_a_broken_one_is_refused_at_loading(make_tiny, tiny_tokenizer, tmp_path):
    model = copy.deepcopy(make_tiny("qwen2"))
    model.save_pretrained(tmp_path / "good")
    tiny_tokenizer.save_pretrained(tmp_path / "good")
    lm = LM.from_pretrained(tmp_path / "good")
    assert not lm.model.training and lm.name == str(tmp_path / "good") and LM.from_pretrained(tmp_path / "good", name="base").name == "base"
    ids = torch.tensor([[1, 5, 9]])
    with torch.inference_mode():
        torch.testing.assert_close(lm.model(ids).logits, model(ids).logits, atol=1e-5, rtol=0)  # eager there, sdpa here
    model.model.norm.weight[0] = float("nan")
    model.save_pretrained(tmp_path / "good")
    with pytest.raises(NonFinite, match=r"Weight 'model\.norm\.weight'"):
        LM.from_pretrained(tmp_path / "good")


def test_a_model_that_is_nowhere_is_an_error_that_says_what_to_give(tmp_path):
    with pytest.raises(InvalidInput, match="give a local directory with config.json, or a hub id"):
        LM.from_pretrained(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="No model at"):
        LM.from_pretrained(tmp_path / "empty")
