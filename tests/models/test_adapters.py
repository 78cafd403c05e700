"""LoRA pairs: one set of base weights, a base that stays as it is to the bit, and an RL model that is peft's own."""

import copy
import json
import sys
from pathlib import Path

import peft  # noqa: TID253 (a test of nothing else)
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from latentreason.activations.capture import capture
from latentreason.activations.sites import Site
from latentreason.errors import CorruptArtifact, InvalidInput, MissingDependency
from latentreason.hybrid.decode import Hybrid
from latentreason.models.adapters import with_adapter
from latentreason.models.language_model import LM
from latentreason.models.merge import weight_changes
from latentreason.models.pair import ModelPair
from latentreason.routing.controls import always, never
from latentreason.sampling.local import Sampling, sample
from latentreason.tasks.problem import Problem

IDS = torch.tensor([[1, 5, 9, 33, 12, 7], [1, 60, 3, 3, 21, 8]])
PROBLEMS = [Problem(f"p{i}", " ".join(f"w{w}" for w in words), "w5", "chain", {}) for i, words in enumerate([(5, 9, 12), (33, 40, 41, 7, 6)])]


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS).logits


def save_adapter(model, folder: Path, **options) -> Path:
    """An adapter with random matrices, made by peft on a copy of the model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        tuned = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "target_modules": "all-linear", **options}))
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.data.normal_(std=0.2)
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def saved(request, make_tiny, tiny_tokenizer, tmp_path_factory) -> tuple[Path, Path]:
    """Directories of a base and of an adapter that was made for it."""
    folder, model = tmp_path_factory.mktemp(request.param), make_tiny(request.param)
    model.save_pretrained(folder / "base")
    tiny_tokenizer.save_pretrained(folder / "base")
    return folder / "base", save_adapter(model, folder / "adapter")


def test_the_adapter_shares_the_weights_and_changes_the_rl_model_only(saved):
    base, adapter = saved
    alone = LM.from_pretrained(base, name="base")
    pair = ModelPair.from_pretrained(base, adapter=adapter, verbose=False)
    assert torch.equal(logits(pair.base.model), logits(alone.model)) and pair.base.fingerprint == alone.fingerprint != pair.rl.fingerprint
    held = {w.data_ptr() for w in pair.base.model.parameters()}
    own = {name for name, w in pair.rl.model.named_parameters() if w.data_ptr() not in held}
    assert own and all(".lora_" in name for name in own)
    assert {w.data_ptr() for w in pair.rl.model.parameters()} >= held
    truth = peft.PeftModel.from_pretrained(LM.from_pretrained(base).model, adapter).eval()
    assert torch.equal(logits(pair.rl.model), logits(truth))
    assert not torch.allclose(logits(pair.rl.model), logits(pair.base.model), atol=0.1)


def test_a_merged_copy_is_the_same_model_up_to_rounding(saved):
    base, adapter = saved
    shared = ModelPair.from_pretrained(base, adapter=adapter, verbose=False)
    merged = ModelPair.from_pretrained(base, adapter=adapter, merge=True, verbose=False)
    torch.testing.assert_close(logits(merged.rl.model), logits(shared.rl.model), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(merged.base.model), logits(shared.base.model))
    assert {n for n, _ in merged.rl.model.named_parameters()} == {n for n, _ in merged.base.model.named_parameters()}
    changes = weight_changes(merged)
    assert changes["stable_rank"].max() <= 4.001 and (changes["relative"] > 0).any()  # r=4
    with pytest.raises(InvalidInput, match=r"a LoRA pair with merge=True"):
        weight_changes(shared)


def test_base_and_rl_decode_in_step_as_each_does_alone(saved):
    base, adapter = saved
    pair = ModelPair.from_pretrained(base, adapter, verbose=False)  # a local adapter is known as one
    sampling = Sampling(n=3, max_new_tokens=12)

    def tokens(model):
        return [list(row) for row in sample(model, PROBLEMS, sampling, progress=False).table["token_ids"]]

    apart = ModelPair(LM.from_pretrained(base, name="base"), LM(peft.PeftModel.from_pretrained(LM.from_pretrained(base).model, adapter).merge_and_unload().eval(), pair.base.tokenizer, "rl"))
    assert tokens(Hybrid(pair, never())) == tokens(apart.base) == tokens(pair.base)
    assert tokens(Hybrid(pair, always())) == tokens(pair.rl) == tokens(apart.rl)
    assert tokens(pair.base) != tokens(pair.rl)


def test_activations_are_read_from_each_of_the_two(saved):
    base, adapter = saved
    pair = ModelPair.from_pretrained(base, adapter=adapter, verbose=False)
    rollouts, site = sample(pair.base, PROBLEMS, Sampling(n=1, max_new_tokens=4), progress=False), Site(1)
    merged = with_adapter(pair.base, adapter, merge=True)
    of_base, of_rl, truth = (capture(lm, rollouts, [site]).values[site] for lm in (pair.base, pair.rl, merged))
    torch.testing.assert_close(of_rl, truth, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(of_base, of_rl, atol=0.1)


def test_a_callers_model_is_never_changed(make_tiny, tiny_tokenizer, tmp_path):
    model = copy.deepcopy(make_tiny("llama")).train().requires_grad_(True)
    adapter = save_adapter(model, tmp_path / "adapter")
    before, state = [type(m) for m in model.modules()], {n: w.clone() for n, w in model.state_dict().items()}
    for merge in (False, True):
        pair = ModelPair.from_pretrained(model, adapter=adapter, tokenizer=tiny_tokenizer, merge=merge, verbose=False)
        assert not pair.base.model.training and not pair.rl.model.training
        assert [type(m) for m in model.modules()] == before and all(m.training for m in model.modules())
        assert all(w.requires_grad for w in model.parameters()) and not hasattr(model, "peft_config")
        assert all(torch.equal(w, state[n]) for n, w in model.state_dict().items())


@pytest.mark.parametrize("options", [{"bias": "all"}, {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}, {"init_lora_weights": "olora"}, {"init_lora_weights": "pissa"}], ids=str)
def test_an_adapter_that_holds_more_than_lora_gets_weights_of_its_own(make_tiny, tiny_tokenizer, tmp_path, options):
    model = make_tiny("qwen2")
    before, adapter = logits(model), save_adapter(model, tmp_path / "adapter", **options)
    pair = ModelPair.from_pretrained(model, adapter=adapter, tokenizer=tiny_tokenizer, verbose=False)
    truth = peft.PeftModel.from_pretrained(copy.deepcopy(model), adapter).eval()
    torch.testing.assert_close(logits(pair.rl.model), logits(truth), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(model), before) and torch.equal(logits(pair.base.model), before)
    assert pair.rl.n_rows == 64 and pair.rl.n_layers == 3


def test_dora_and_tied_embeddings_are_fine(tmp_path, tiny_tokenizer):
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, tie_word_embeddings=True, initializer_range=0.2, eos_token_id=2)
    model = LlamaForCausalLM(config).eval()
    adapter = save_adapter(model, tmp_path / "adapter", use_dora=True)
    pair = ModelPair.from_pretrained(model, adapter=adapter, tokenizer=tiny_tokenizer, verbose=False)
    assert torch.equal(logits(pair.rl.model), logits(peft.PeftModel.from_pretrained(copy.deepcopy(model), adapter).eval()))
    assert pair.rl.model.lm_head.weight is pair.rl.model.model.embed_tokens.weight


def test_a_lora_pair_costs_the_memory_of_one_model(make_tiny, tiny_tokenizer, tmp_path):
    model = make_tiny("llama")
    adapter = save_adapter(model, tmp_path / "adapter")

    def copies(**options) -> float:
        """Bytes of all distinct tensors of the pair, in sizes of the model."""
        pair = ModelPair.from_pretrained(model, adapter=adapter, tokenizer=tiny_tokenizer, verbose=False, **options)
        storages = [w.untyped_storage() for lm in (pair.base, pair.rl) for name, w in lm.model.named_parameters() if "lora_" not in name]
        held = {storage.data_ptr(): storage.nbytes() for storage in storages}
        return sum(held.values()) / sum(w.untyped_storage().nbytes() for w in model.parameters())

    assert copies() == 1
    assert copies(merge=True) == 2


# --- what does not fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "said"), [
    ({"hidden_size": 48, "num_attention_heads": 4}, r"size mismatch for .*lora_"),
    ({"num_hidden_layers": 2}, r"no module for .*layers\.2\."),
    ({"num_hidden_layers": 5}, r"no weights for .*layers\.3\."),
], ids=["wider", "fewer layers", "more layers"])  # fmt: skip
def test_an_adapter_for_another_base_is_refused(make_tiny, tiny_tokenizer, tmp_path, change, said):
    adapter = save_adapter(make_tiny("llama"), tmp_path / "adapter")
    facts = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(facts | {"base_model_name_or_path": "someone/llama-3"}))
    config = make_tiny("llama").config
    config = LlamaConfig(**{**config.to_dict(), "head_dim": None, **change})
    with pytest.raises(InvalidInput, match=rf"does not fit .*\({said}.*made for another base\. It names 'someone/llama-3'; give that one"):
        ModelPair.from_pretrained(LlamaForCausalLM(config).eval(), adapter=adapter, tokenizer=tiny_tokenizer)


def test_target_modules_that_the_base_lacks_are_named(make_tiny, tiny_tokenizer, tmp_path):
    adapter = save_adapter(make_tiny("gpt2"), tmp_path / "adapter", target_modules=["c_attn"])
    with pytest.raises(InvalidInput, match=r"c_attn.*not found in the base model.*made for another base"):
        ModelPair.from_pretrained(make_tiny("llama"), adapter=adapter, tokenizer=tiny_tokenizer)


def test_an_adapter_that_names_another_base_but_fits_is_used_with_a_warning(saved, tmp_path):
    base, adapter = saved
    (tmp_path / "a").mkdir()
    for file in adapter.iterdir():
        (tmp_path / "a" / file.name).write_bytes(file.read_bytes())
    facts = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(facts | {"base_model_name_or_path": "someone/else"}))
    with pytest.warns(UserWarning, match="names 'someone/else' as its base; it is put on"):
        ModelPair.from_pretrained(base, adapter=tmp_path / "a", verbose=False)


def test_an_adapter_that_is_cut_short_missing_or_of_another_kind_is_an_error(saved, tmp_path):
    base, adapter = LM.from_pretrained(saved[0]), saved[1]
    with pytest.raises(InvalidInput, match=r"No adapter at 'nobody/adapter': give a directory with adapter_config\.json, or a hub id that is cached \(`hf download nobody/adapter`"):
        with_adapter(base, "nobody/adapter")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="No adapter at"):
        with_adapter(base, tmp_path / "empty")
    cut = tmp_path / "cut"
    cut.mkdir()
    for file in adapter.iterdir():
        (cut / file.name).write_bytes(file.read_bytes()[: None if file.suffix == ".json" else 500])
    with pytest.raises(CorruptArtifact, match=r"The adapter at .*cut' is cut short or damaged"):
        with_adapter(base, cut)
    facts = json.loads((adapter / "adapter_config.json").read_text())
    (cut / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    (cut / "adapter_config.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3, "base_model_name_or_path": facts["base_model_name_or_path"]}))
    with pytest.raises(InvalidInput, match="LoRA alone is supported"):
        with_adapter(base, cut)


def test_without_peft_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependency, match=r"A LoRA adapter needs the package peft\. Install it: pip install 'latentreason\[train\]'"):
        ModelPair.from_pretrained(saved[0], adapter=saved[1])


def test_a_pair_is_given_once(saved):
    base, adapter = saved
    for rl, also in ((None, None), (base, adapter)):
        with pytest.raises(InvalidInput, match="base and rl, or base and adapter=: give one of the two"):
            ModelPair.from_pretrained(base, rl, adapter=also)


def test_the_line_says_what_the_adapter_adds(saved, capsys):
    pair = ModelPair.from_pretrained(saved[0], adapter=saved[1])
    said = capsys.readouterr()
    assert said.err.rstrip().endswith(repr(pair)) and said.out == ""
    assert "K of its own)" in repr(pair) and "tokenizers agree" in repr(pair)
