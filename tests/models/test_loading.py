"""What can be loaded and what is refused: hub ids without a hub, encoders, loaded models, code of a repository, numbers that overflow."""

import copy
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPTNeoXConfig,
    LlamaModel,
    MambaConfig,
    T5Config,
)

from latentreason.errors import InvalidInput, MissingDependency, NonFinite, UnknownName
from latentreason.models.language_model import LM
from latentreason.models.loading import shared_copy
from latentreason.models.pair import ModelPair
from latentreason.sampling.local import Sampling, sample
from latentreason.tasks.problem import Problem

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture
def save(tiny_tokenizer, tmp_path):
    """save(model, name="model"): its directory, with the tokenizer."""

    def write(model, name="model") -> Path:
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


# --- a model that is loaded already ------------------------------------------------------------------------------------


def test_a_loaded_model_is_used_as_it_is(tiny_model, tiny_tokenizer):
    lm = LM.from_pretrained(tiny_model, tokenizer=tiny_tokenizer, name="mine")
    assert lm.model is tiny_model and lm.tokenizer is tiny_tokenizer and lm.name == "mine"
    pair = ModelPair.from_pretrained(tiny_model, tiny_model, tokenizer=tiny_tokenizer, verbose=False)
    assert (pair.base.name, pair.rl.name) == ("base", "rl") and pair.base.model is tiny_model


def test_a_loaded_model_in_training_mode_stays_in_it(make_tiny, tiny_tokenizer):
    model = copy.deepcopy(make_tiny("gpt2")).train()
    lm = LM.from_pretrained(model, tokenizer=tiny_tokenizer)
    assert model.training and not lm.model.training and lm.name == "GPT2LMHeadModel"
    assert {w.data_ptr() for w in lm.model.parameters()} == {w.data_ptr() for w in model.parameters()}
    ids = torch.tensor([[1, 5, 9]])
    assert torch.equal(lm.model(ids).logits, make_tiny("gpt2")(ids).logits)


def test_a_shared_copy_keeps_ties_and_its_own_modules(tiny_tokenizer):
    config = GPTNeoXConfig(**SMALL, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config)
    twin = shared_copy(model)
    assert twin.get_output_embeddings().weight is twin.get_input_embeddings().weight
    twin.eval().requires_grad_(False)
    assert model.training and all(w.requires_grad for w in model.parameters())
    assert not {id(m) for m in model.modules()} & {id(m) for m in twin.modules()}


@pytest.mark.parametrize(("options", "said"), [
    ({"tokenizer": None}, r"comes without its tokenizer: give tokenizer="),
    ({"dtype": torch.bfloat16}, r"dtype, device_map and gguf_file say how to load, and this LlamaForCausalLM is loaded \(torch\.float32, cpu\)"),
    ({"device_map": "cpu"}, "say how to load"),
    ({"gguf_file": "x.gguf"}, "say how to load"),
])  # fmt: skip
def test_options_that_a_loaded_model_cannot_follow_are_refused(tiny_llama, tiny_tokenizer, options, said):
    with pytest.raises(InvalidInput, match=said):
        LM.from_pretrained(tiny_llama, **{"tokenizer": tiny_tokenizer, **options})


def test_what_is_no_model_is_refused(tiny_llama, tiny_tokenizer):
    from peft import LoraConfig, get_peft_model

    with pytest.raises(InvalidInput, match=r"Cannot use a dict as a model: give a hub id, a local directory or a model of transformers"):
        LM.from_pretrained({}, tokenizer=tiny_tokenizer)
    with pytest.raises(InvalidInput, match=r"Cannot use a PeftModel.* as a model: give its merge_and_unload\(\), or the base with adapter="):
        LM.from_pretrained(get_peft_model(copy.deepcopy(tiny_llama), LoraConfig(target_modules="all-linear")), tokenizer=tiny_tokenizer)


# --- models that do not continue a text --------------------------------------------------------------------------------


def test_a_model_without_generate_is_refused(make_tiny, tiny_tokenizer):
    for model in (LlamaModel(make_tiny("llama").config), BertModel(BertConfig(**SMALL))):
        with pytest.raises(InvalidInput, match=r"is a (Llama|Bert)Model, which cannot generate: it has no language-model head\. Load it with AutoModelForCausalLM"):
            LM.from_pretrained(model, tokenizer=tiny_tokenizer)
        with pytest.raises(InvalidInput, match="cannot generate"):
            LM(model, tiny_tokenizer, "direct")


def test_a_checkpoint_without_its_head_is_refused_instead_of_drawing_one(make_tiny, save):
    with pytest.raises(InvalidInput, match=r"lacks 1 weights of a LlamaForCausalLM \(first 'lm_head\.weight'\), which would be random"):
        LM.from_pretrained(save(LlamaModel(make_tiny("llama").config)))


def test_an_encoder_is_refused_though_transformers_would_load_it(save, tiny_tokenizer):
    folder = save(BertForMaskedLM(BertConfig(**SMALL, initializer_range=0.2)))
    assert AutoModelForCausalLM.from_pretrained(folder).can_generate()
    with pytest.raises(InvalidInput, match=r"is an encoder-only BertLMHeadModel: its tokens see those after them.*decoder-only"):
        LM.from_pretrained(folder)
    decoder = AutoModelForCausalLM.from_config(BertConfig(**SMALL, is_decoder=True)).eval()
    assert LM.from_pretrained(decoder, tokenizer=tiny_tokenizer).n_vocab == 64
    neox = AutoModelForCausalLM.from_config(GPTNeoXConfig(**SMALL)).eval()  # is_decoder=False in its config, yet one
    assert LM.from_pretrained(neox, tokenizer=tiny_tokenizer).n_vocab == 64


def test_an_encoder_decoder_and_a_state_space_model_are_refused(save, tiny_tokenizer):
    t5 = transformers.T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=32, num_layers=2, num_heads=4, d_ff=64, d_kv=8))
    with pytest.raises(InvalidInput, match=r"is no causal language model .*T5Config.*Give a decoder-only one"):
        LM.from_pretrained(save(t5))
    with pytest.raises(InvalidInput, match="an encoder-decoder"):
        LM.from_pretrained(t5, tokenizer=tiny_tokenizer)
    mamba = transformers.MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2))
    with pytest.raises(InvalidInput, match="takes no past_key_values"):
        LM.from_pretrained(mamba, tokenizer=tiny_tokenizer)


# --- numbers -----------------------------------------------------------------------------------------------------------

PROBLEM = Problem("p", "w5 w9 w12", "w5", "chain", {})


@pytest.mark.parametrize(("dtype", "factor"), [("float16", 3e4), (torch.bfloat16, 1e38)])
def test_activations_that_overflow_in_a_narrow_dtype_are_an_error_at_sampling(make_tiny, save, dtype, factor):
    model = copy.deepcopy(make_tiny("llama"))
    model.lm_head.weight.mul_(factor / model.lm_head.weight.abs().max())  # each weight is finite in that dtype, the logits are not
    model.model.norm.weight.fill_(100.0)
    lm = LM.from_pretrained(save(model), dtype=dtype, name="narrow")
    with pytest.raises(NonFinite, match=r"'narrow' gives logits with NaN or Inf at position 3\..*wider dtype"):
        sample(lm, [PROBLEM], Sampling(n=1, max_new_tokens=4), progress=False)


def test_weights_that_overflow_in_a_narrow_dtype_are_an_error_at_loading(make_tiny, save):
    model = copy.deepcopy(make_tiny("llama"))
    model.model.layers[1].mlp.up_proj.weight[3, 4] = 1e6
    folder = save(model)
    LM.from_pretrained(folder)
    with pytest.raises(NonFinite, match=r"Weight 'model\.layers\.1\.mlp\.up_proj\.weight' of .* holds NaN or Inf"):
        LM.from_pretrained(folder, dtype="float16")


def test_a_dtype_that_does_not_exist_suggests_one(make_tiny, save):
    with pytest.raises(UnknownName, match=r"Unknown dtype 'bfloat'\. Did you mean 'bfloat16'\?"):
        LM.from_pretrained(save(make_tiny("llama")), dtype="bfloat")


# --- devices -----------------------------------------------------------------------------------------------------------


def test_a_device_map_without_accelerate_names_the_extra(make_tiny, save, monkeypatch):
    folder = save(make_tiny("llama"))
    assert str(LM.from_pretrained(folder, device_map="cpu").device) == "cpu"
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingDependency, match=r"A device_map needs the package accelerate\. Install it: pip install 'latentreason\[train\]'"):
        LM.from_pretrained(folder, device_map="cpu")


def test_two_models_on_two_devices_are_refused(make_lm, make_tiny, tiny_tokenizer):
    away = LM(copy.deepcopy(make_tiny("llama", 1)).to("meta"), tiny_tokenizer, "rl")
    with pytest.raises(InvalidInput, match=r"'base' is on cpu, 'rl' on meta, but the two decode in step\. Load both on one device, as in device_map="):
        ModelPair(make_lm("llama"), away)


# --- code of a repository ----------------------------------------------------------------------------------------------


def test_code_of_a_repository_runs_only_where_the_caller_says_so(make_tiny, save, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, ran = save(make_tiny("llama")), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "strange.StrangeConfig", "AutoModelForCausalLM": "strange.Strange"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "strange.py").write_text(
        f"from pathlib import Path\nfrom transformers import LlamaConfig, LlamaForCausalLM\nPath({str(ran)!r}).touch()\n"
        "class StrangeConfig(LlamaConfig):\n    model_type = 'strange'\nclass Strange(LlamaForCausalLM):\n    config_class = StrangeConfig\n"
    )
    with pytest.raises(InvalidInput, match=r"brings Python code of its own, which is never run unasked\. Read it; if you trust it, pass trust_remote_code=True"):
        LM.from_pretrained(folder)
    assert not ran.exists()
    lm = LM.from_pretrained(folder, trust_remote_code=True)
    assert ran.exists() and type(lm.model).__name__ == "Strange"


# --- the hub -----------------------------------------------------------------------------------------------------------


def test_a_hub_id_that_is_not_cached_says_how_to_get_it_when_offline():
    with pytest.raises(InvalidInput) as caught:
        LM.from_pretrained("nobody/nothing")
    assert str(caught.value) == (
        "No model at 'nobody/nothing': give a local directory with config.json, or a hub id that is cached. It is not in the cache of this machine "
        "and HF_HUB_OFFLINE=1 forbids asking the hub: run `hf download nobody/nothing` where there is a network (a gated one wants `hf auth login` there first)."
    )


def test_a_hub_id_loads_from_a_filled_cache_offline(save, make_tiny, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit, repository = "a1b2c3d4" * 5, tmp_path / "cache" / "models--someone--tiny"  # as `hf download` lays it out
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    save(make_tiny("llama", 1)).rename(repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("socket.socket.connect", None)  # nothing may ask
    assert constants.HF_HUB_OFFLINE
    for revision in (None, "main", commit):
        lm = LM.from_pretrained("someone/tiny", revision=revision)
        assert lm.revision == commit and torch.equal(lm.model.lm_head.weight, make_tiny("llama", 1).lm_head.weight)
    pair = ModelPair.from_pretrained("someone/tiny", "someone/tiny", verbose=False)
    assert pair.name == "tiny-tiny" and pair.rl.revision == commit
    with pytest.raises(InvalidInput, match="not in the cache of this machine"):
        LM.from_pretrained("someone/tiny", revision="another")


class Hub(BaseHTTPRequestHandler):
    """A hub that holds one gated repository, one with a single branch, and nothing else."""

    def do_GET(self) -> None:
        code = "GatedRepo" if "gated" in self.path else "RevisionNotFound" if "known" in self.path else "RepoNotFound"
        self.send_response(403 if code == "GatedRepo" else 404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{code}: asked for {self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Online, with that hub as the only one."""
    from huggingface_hub import close_session, constants

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {"HF_HUB_OFFLINE": False, "ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}", "HF_HUB_CACHE": str(tmp_path)}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()
    yield
    close_session()
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_a_gated_a_missing_and_an_unknown_revision_of_a_hub_id_each_say_their_fix():
    def refusal(name: str) -> str:
        with pytest.raises(InvalidInput) as caught:
            LM.from_pretrained(name, revision="r1")
        return str(caught.value)

    assert refusal("someone/gated") == "'someone/gated' is gated: ask for access at https://huggingface.co/someone/gated, run `hf auth login`, then `hf download someone/gated` to have it offline."
    missing = refusal("someone/missing")
    assert missing.startswith("No model at 'someone/missing'") and "no such repository, or it is private: check the id, or run `hf auth login`" in missing
    assert refusal("someone/known").startswith("'someone/known' has no such revision: give a branch, tag or commit")


@pytest.mark.usefixtures("hub")
def test_a_hub_that_cannot_be_reached_is_not_called_offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr("time.sleep", lambda _: None)  # between its attempts
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}")
    with pytest.raises(InvalidInput, match=r"not in the cache of this machine and the hub cannot be reached: run `hf download someone/away`"):
        LM.from_pretrained("someone/away")
