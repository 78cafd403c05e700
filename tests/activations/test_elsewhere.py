"""Backends that run another model than the caller's: copies that follow it, remote runs, and refusals to read past an edit."""

import gc
import os
import subprocess
import sys
import weakref
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from latentreason.activations import lens, nnsight, places
from latentreason.activations.capture import capture
from latentreason.activations.editing import Edit, chosen, editing
from latentreason.activations.sites import Site
from latentreason.errors import InvalidInput, UnsupportedSite
from latentreason.models.language_model import LM

VECTOR = torch.linspace(-2, 3, 32)
IDS = torch.tensor([[1, 5, 9, 33, 12, 40]])
ROOT = Path(__file__).parents[2]
OTHERS = ("lens", "nnsight")


@pytest.fixture
def own(make_tiny, tiny_tokenizer) -> LM:
    return LM(deepcopy(make_tiny("llama")), tiny_tokenizer, "own")


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were wrapped, as they are."""
    seen: list[str] = []
    for module, name in ((lens, "_booted"), (nnsight, "_wrapped")):
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda lm, plain=plain: (seen.append(lm.name), plain(lm))[1])
    return seen


@pytest.mark.parametrize("backend", OTHERS)
def test_a_copy_is_made_once_follows_the_weights_and_goes_with_the_model(own: LM, make_rollouts, booted: list[str], backend: str) -> None:
    rollouts, site = make_rollouts(2), Site(1, "mlp_out")
    first = capture(own, rollouts, site, backend=backend).values[site]
    assert capture(own, rollouts, site, backend=backend).values[site].equal(first) and booted == ["own"]
    with torch.no_grad():
        own.model.model.layers[0].mlp.up_proj.weight.mul_(-1.0)  # as a trainer does
    second = capture(own, rollouts, site, backend=backend).values[site]
    assert booted == ["own", "own"] and (second - first).abs().max() > 0.1
    torch.testing.assert_close(second, capture(own, rollouts, site).values[site], atol=1e-5, rtol=0)
    model = weakref.ref(own.model)
    object.__setattr__(own, "model", None)
    gc.collect()
    assert model() is None


@pytest.mark.parametrize("backend", OTHERS)
def test_nothing_of_the_caller_is_changed(own: LM, make_rollouts, backend: str) -> None:
    def state() -> Any:
        model, tokenizer = own.model, own.tokenizer
        modules = [(name, type(m), m.training, sorted(m.__dict__), dict(m._forward_hooks)) for name, m in model.named_modules()]
        return modules, model.config.to_dict(), model.generation_config.to_dict(), tokenizer.padding_side, dict(tokenizer.init_kwargs), tokenizer.get_vocab()

    before = state()
    capture(own, make_rollouts(2), [Site(1), Site(1, "z")], backend=backend)
    with editing(own, [Edit(Site(1), VECTOR)], backend=backend) as edited:
        edited.model.generate(IDS, max_new_tokens=2, pad_token_id=0)
    assert state() == before


def test_a_hook_of_the_caller_is_not_on_the_copies(own: LM, make_rollouts) -> None:
    rollouts = make_rollouts(2)
    plain = capture(own, rollouts, 1).values[Site(1)]
    handle = own.model.model.layers[0].register_forward_hook(lambda module, args, output: output + 1)
    try:
        assert (capture(own, rollouts, 1).values[Site(1)] - plain).abs().max() > 0.1
        for backend in OTHERS:
            torch.testing.assert_close(capture(own, rollouts, 1, backend=backend).values[Site(1)], plain, atol=1e-5, rtol=0)
    finally:
        handle.remove()


def test_reading_past_an_open_edit_is_refused(own: LM, make_rollouts) -> None:
    rollouts = make_rollouts(1)
    with editing(own, [Edit(Site(1), VECTOR)]):
        for backend in OTHERS:
            with pytest.raises(InvalidInput, match="edit of the backend 'hf' is open"):
                capture(own, rollouts, 1, backend=backend)
    with editing(own, [Edit(Site(1), VECTOR)], backend="nnsight") as edited, pytest.raises(InvalidInput, match="backend='nnsight'"):
        capture(edited, rollouts, 1)
    with editing(own, [Edit(Site(1), VECTOR, "replace")], backend="lens") as edited:
        assert torch.allclose(capture(edited, rollouts, 1).values[Site(1)], VECTOR)


def test_a_place_that_no_forward_pass_comes_by_is_refused(own: LM, make_rollouts, monkeypatch: pytest.MonkeyPatch) -> None:
    own.model.model.layers[1].idle = nn.Identity()
    monkeypatch.setitem(places.ANATOMIES, "llama", places.ANATOMIES["llama"]._replace(mlp="idle"))
    with pytest.raises(UnsupportedSite, match=r"never came by mlp_out\.1"):
        capture(own, make_rollouts(2), [Site(1), Site(1, "mlp_out")])
    with pytest.raises(UnsupportedSite, match="no module 'idle'"):
        capture(own, make_rollouts(2), Site(0, "mlp_out"))


def test_an_architecture_without_an_adapter_is_refused_by_the_bridge_alone(own: LM, make_rollouts, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    def boot(*args: Any, **kwargs: Any) -> None:
        raise ValueError("Could not determine supported architecture from config.")

    monkeypatch.setattr(TransformerBridge, "boot_transformers", boot)
    with pytest.raises(UnsupportedSite, match=r"cannot bridge 'own' \(LlamaForCausalLM\).*Use backend='hf'"):
        capture(own, make_rollouts(1), 1, backend="lens")


@pytest.fixture
def remotes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `remote` was in each trace; True is turned into "local", which serialises the request and answers it here."""
    from nnsight import TransformersModel

    seen: list[Any] = []
    plain = TransformersModel.trace

    def trace(self: Any, *args: Any, remote: Any = False, **kwargs: Any) -> Any:
        seen.append(remote)
        return plain(self, *args, remote="local" if remote is True else remote, **kwargs)

    monkeypatch.setattr(TransformersModel, "trace", trace)
    return seen


def test_remote_is_passed_through_and_what_travels_can_travel(own: LM, make_rollouts, remotes: list[Any]) -> None:
    rollouts, sites = make_rollouts(3), [Site(0, "resid_mid"), Site(1), Site(2, "z")]
    found = capture(own, rollouts, sites, backend="nnsight", remote=True)
    assert remotes == [True]
    for site, values in capture(own, rollouts, sites).values.items():
        torch.testing.assert_close(found.values[site], values, atol=1e-4, rtol=0)
    capture(own, rollouts, 1, backend="nnsight")
    assert remotes == [True, False]
    with pytest.raises(InvalidInput, match="'hf' runs here only"):
        chosen("hf", remote=True)


REMOTE_EDIT = """
import torch, nnsight
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from tokenizers import Tokenizer, models
import latentreason as lr
from latentreason.activations.editing import Edit

plain, seen = nnsight.TransformersModel.trace, []
def trace(self, *args, remote=False, **kwargs):
    seen.append(remote)
    return plain(self, *args, remote="local", **kwargs)
nnsight.TransformersModel.trace = trace

config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, initializer_range=0.2)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), pad_token="a")
lm, ids, vector = lr.LM(AutoModelForCausalLM.from_config(config).eval(), tokenizer, "tiny", n_vocab=64), torch.tensor([[1, 5, 9, 33]]), torch.linspace(-2, 3, 32)
edits = [Edit(lr.Site(1, "resid_mid"), vector, "ablate"), Edit(lr.Site(1), vector, positions=torch.tensor([[False, True]])),
         Edit(lr.Site(2, "z"), vector, "replace", positions=lambda p: p > 1)]
with torch.inference_mode():
    with lr.editing(lm, edits) as here:
        expected = here.model(ids).logits
    with lr.editing(lm, edits, backend="nnsight", remote=True) as there:
        found = there.model(ids, use_cache=False).logits
        try:
            there.model.generate(ids, max_new_tokens=2, pad_token_id=0)
        except lr.LatentReasonError as error:
            assert "use_cache=False" in str(error)
    assert (expected - lm.model(ids).logits).abs().max() > 0.1 and (found - expected).abs().max() < 1e-5, (found - expected).abs().max()
assert seen == [True]
"""


def test_a_remote_edit_travels_by_value(tmp_path: Path) -> None:
    """In a process of its own: the checks that tests put around every function cannot be sent anywhere."""
    script = tmp_path / "remote_edit.py"
    script.write_text(REMOTE_EDIT)
    run = subprocess.run([sys.executable, script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]


def test_a_remote_model_needs_no_weights_here(own: LM, make_rollouts, remotes: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from nnsight import TransformersModel
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty = LM(AutoModelForCausalLM.from_config(own.model.config), own.tokenizer, "empty")
    served: nn.Module = own.model
    wrapped, ids = TransformersModel(deepcopy(served), task="text-generation", tokenizer=deepcopy(own.tokenizer)), []

    def trace(self: Any, *args: Any, remote: Any = False, **kwargs: Any) -> Any:
        assert self._module.device.type == "meta" and remote is True
        ids.append(kwargs["input_ids"])
        raise ConnectionError("no server here")

    monkeypatch.setattr(TransformersModel, "trace", trace)
    with pytest.raises(ConnectionError):
        capture(empty, make_rollouts(1), 1, backend="nnsight", remote=True)
    assert ids[0].device.type == "cpu" and wrapped._module.device.type == "cpu"
