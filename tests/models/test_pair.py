"""ModelPair: two models that really share their tokens."""

import copy
import importlib.resources

import pytest
import torch
from transformers.utils.logging import enable_progress_bar, tqdm as transformers_tqdm

from latentreason.errors import InvalidInput, LatentReasonError, NonFinite, UnknownName, VocabMismatch
from latentreason.models import pair as pair_module
from latentreason.models.language_model import LM
from latentreason.models.pair import ModelPair, organism_dir


def retokenized(tokenizer, rename):
    """The tokenizer with some words renamed."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {rename.get(word, word): i for word, i in tokenizer.get_vocab().items()}
    new = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    new.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=new, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def test_equal_tokenizers_that_are_different_objects_make_a_pair(make_lm, make_tiny, tiny_tokenizer):
    ModelPair(make_lm("llama"), LM(make_tiny("gpt2", 1), copy.deepcopy(tiny_tokenizer), "rl"))


def test_real_tokens_that_differ_are_listed_with_both_ids(make_lm, make_tiny, tiny_tokenizer):
    other = retokenized(tiny_tokenizer, {"w5": "w7", "w7": "w5", "w60": "new"})
    with pytest.raises(VocabMismatch) as caught:
        ModelPair(make_lm("llama"), LM(make_tiny("llama", 1), other, "rl"))
    assert str(caught.value) == (
        "'base' and 'rl' differ in 4 real tokens, so their ids cannot be exchanged. First (base id / RL id): "
        "'w5' (5 / 7), 'w7' (7 / 5), 'new' (None / 60), 'w60' (60 / None). Use two models with one tokenizer."
    )


def test_one_ordinary_token_that_differs_is_enough_for_a_refusal(make_lm, make_tiny, tiny_tokenizer):
    other = retokenized(tiny_tokenizer, {"w33": "another"})
    for allowed in (False, True):
        with pytest.raises(VocabMismatch, match=r"differ in 2 real tokens.*'another' \(None / 33\), 'w33' \(33 / None\)\. Use two models with one tokenizer\.$"):
            ModelPair(make_lm("llama"), LM(make_tiny("llama", 1), other, "rl"), renamed_special=allowed)


def test_ten_tokens_are_shown_at_most(make_lm, make_tiny, tiny_tokenizer):
    other = retokenized(tiny_tokenizer, {f"w{i}": f"w{i + 1}" for i in range(20, 40)} | {"w40": "w20"})
    with pytest.raises(VocabMismatch, match="differ in 21 real tokens") as caught:
        ModelPair(make_lm("llama"), LM(make_tiny("llama", 1), other, "rl"))
    assert str(caught.value).count(" / ") == 11  # ten tokens, and the header


def test_special_tokens_of_other_names_are_exchanged_only_where_one_says_so(make_lm, make_tiny, tiny_tokenizer):
    distilled = retokenized(tiny_tokenizer, {"w62": "<think>"})
    distilled.add_special_tokens({"additional_special_tokens": ["<think>"]})
    rl = LM(make_tiny("llama", 1), distilled, "rl")
    with pytest.raises(VocabMismatch, match=r"differ in 2 real tokens.*Use two models with one tokenizer; or, since all of these are added tokens, renamed_special=True\."):
        ModelPair(make_lm("llama"), rl)
    pair = ModelPair(make_lm("llama"), rl, renamed_special=True)
    assert pair.exchanged().renamed_special
    words = retokenized(tiny_tokenizer, {"w62": "<think>", "w5": "w7", "w7": "w5"})
    words.add_special_tokens({"additional_special_tokens": ["<think>"]})
    with pytest.raises(VocabMismatch, match="Use two models with one tokenizer[.]"):
        ModelPair(make_lm("llama"), LM(make_tiny("llama", 1), words, "rl"), renamed_special=True)


def test_an_organism_is_loaded_as_it_was_made():
    with pytest.raises(InvalidInput, match="dtype: only for a pair BASE,RL; 'activation' is loaded as it was made"):
        ModelPair.named("activation", dtype="bfloat16")


def test_a_pair_from_directories_names_its_arms(make_tiny, tiny_tokenizer, tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        make_tiny("llama", seed).save_pretrained(tmp_path / name)
        tiny_tokenizer.save_pretrained(tmp_path / name)
    pair = ModelPair.from_pretrained(tmp_path / "one", tmp_path / "two")
    assert (pair.base.name, pair.rl.name, pair.name) == ("base", "rl", "one-two")
    broken = copy.deepcopy(make_tiny("llama", 1))
    broken.lm_head.weight[3, 3] = torch.inf
    broken.save_pretrained(tmp_path / "two")
    with pytest.raises(NonFinite, match=r"Weight 'lm_head\.weight' of 'rl'"):
        ModelPair.from_pretrained(tmp_path / "one", tmp_path / "two")


def test_the_line_of_a_pair_says_parameters_dtype_device_vocabulary_and_agreement(make_tiny, tiny_tokenizer, tmp_path, capsys):
    wide = copy.deepcopy(make_tiny("llama", 1)).to(torch.bfloat16)
    wide.resize_token_embeddings(80, mean_resizing=False)
    chat = copy.deepcopy(tiny_tokenizer)
    chat.chat_template = "{{ messages }}"
    for name, model, tokenizer in (("base", make_tiny("llama"), tiny_tokenizer), ("tuned", wide, chat)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    enable_progress_bar()  # a command with --quiet in this process has put them out for good
    capsys.readouterr()  # saving has a bar
    pair = ModelPair.from_pretrained(tmp_path / "base", tmp_path / "tuned")
    line = "base-tuned: base 32.0K parameters, float32, cpu; rl 33.0K parameters, bfloat16, cpu; 64 real tokens, padded to 64 and 80; tokenizers agree but for chat_template; templates differ: prompts are the base's"
    said = capsys.readouterr()
    assert repr(pair) == line and said.err == f"{line}\n" and said.out == ""  # and no bar of transformers
    ModelPair.from_pretrained(tmp_path / "base", tmp_path / "base", verbose=False)
    assert capsys.readouterr() == ("", "")
    list(transformers_tqdm([1]))
    assert "1/1" in capsys.readouterr().err  # which has its bars again
    per_layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32
    assert sum(w.numel() for w in make_tiny("llama").parameters()) == 3 * per_layer + 2 * 64 * 32 + 32 == 31_968


def test_ids_with_gaps_are_all_real_tokens(make_tiny):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    gaps = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 7, "c": 50}, unk_token="a")), eos_token="b")
    assert len(gaps) == 3 and LM(make_tiny("llama"), gaps, "gaps").n_vocab == 51


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package directory of our own, without organisms."""
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(pair_module.resources, "files", lambda _: tmp_path / "package")
    assert importlib.resources.files("latentreason") == tmp_path / "package"
    return tmp_path


def test_an_unknown_organism_suggests_the_nearest(installed):
    for name in ("activation", "sharpening"):
        (installed / "artifacts" / "organisms" / name / "base").mkdir(parents=True)
    with pytest.raises(UnknownName, match=r"^Unknown organism 'activatoin'\. Did you mean 'activation'\? Known: activation, sharpening\.$"):
        ModelPair.from_organism("activatoin")


def test_the_checkout_comes_before_the_wheel_and_either_will_do(installed):
    wheel, checkout = installed / "package" / "_organisms" / "activation", installed / "artifacts" / "organisms" / "activation"
    (wheel / "base").mkdir(parents=True)
    assert organism_dir("activation") == wheel
    (checkout / "base").mkdir(parents=True)
    assert organism_dir("activation") == checkout


def test_without_any_weights_the_error_says_how_to_get_some(installed):
    with pytest.raises(InvalidInput, match="latentreason organisms train activation"):
        ModelPair.from_organism("activation")


def test_errors_of_pairs_are_of_the_family():
    assert issubclass(VocabMismatch, LatentReasonError) and issubclass(NonFinite, LatentReasonError)
