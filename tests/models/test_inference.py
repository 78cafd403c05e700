"""Fast linear layers: the products of fp64, torch's own gradients, and nothing left behind."""

import copy
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from latentreason.activations.capture import capture
from latentreason.activations.sites import Site
from latentreason.models import inference as module
from latentreason.models.decoding import Batch
from latentreason.models.inference import LARGER_THAN, WORTH_IT, fast_linear, inference
from latentreason.models.scoring import token_logprobs
from latentreason.sampling.noise import gumbel
from latentreason.tables import Rollouts

ORIGINAL = nn.Linear.forward, Conv1D.forward


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """One entry for each product that oneDNN did."""
    found: list[int] = []
    real = module._onednn
    monkeypatch.setattr(module, "_onednn", lambda *args: (found.append(1), real(*args))[1])
    return found


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    assert (nn.Linear.forward, Conv1D.forward) == ORIGINAL


def layer(kind: type, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Linear(224, 320, bias=bias) if kind is nn.Linear else Conv1D(320, 224)
    if made.bias is not None:
        nn.init.normal_(made.bias)
    return made.eval()


@pytest.mark.parametrize(("kind", "bias"), [(nn.Linear, True), (nn.Linear, False), (Conv1D, True)])
@pytest.mark.parametrize("shape", [(64,), (4, 16), (2, 3, 40), (1, 1), (0, 5)])
def test_the_product_is_that_of_fp64(kind, bias, shape, calls) -> None:
    made = layer(kind, bias)
    x = torch.randn(*shape, 224)
    with inference():
        found = made(x)
        strided = made(torch.stack([x, x], -1)[..., 0])
    expected = copy.deepcopy(made).double()(x.double())
    for value in (found, strided):
        torch.testing.assert_close(value.double(), expected, atol=1e-5, rtol=1e-5)
    assert len(calls) == (2 if x.numel() * 320 >= WORTH_IT and LARGER_THAN < 224 * 320 else 0)


def test_the_gradient_of_the_input_is_torchs_and_weights_that_are_trained_are_left_to_torch(calls) -> None:
    made, x = layer(nn.Linear), torch.randn(64, 224, requires_grad=True)
    with fast_linear():
        made(x).square().sum().backward()
    assert not calls
    assert made.weight.grad is not None
    expected, x.grad = x.grad, None
    made.requires_grad_(False)
    with fast_linear():
        y = made(x)
    y.square().sum().backward()  # the graph holds what it needs after the context
    assert len(calls) == 2
    torch.testing.assert_close(x.grad, expected)
    assert torch.autograd.gradcheck(lambda z: module._Product.apply(z.float(), made.weight, made.bias).double(), x.detach()[:3].double().requires_grad_(), eps=1e-2, atol=1e-2)


def test_nesting_an_exception_and_a_copy_leave_nothing_behind(calls) -> None:
    made, x = layer(nn.Linear), torch.randn(64, 224)
    with inference():
        with pytest.raises(RuntimeError, match="stop"), inference():
            raise RuntimeError("stop")
        assert torch.is_inference_mode_enabled()
        made(x)
        twin = copy.deepcopy(made)
    assert len(calls) == 1, "still on after the inner one has ended"
    twin(x), made(x)
    assert len(calls) == 1
    assert "forward" not in made.__dict__
    assert "forward" not in twin.__dict__


def test_other_dtypes_and_torchs_switch_are_respected(calls) -> None:
    made, x = layer(nn.Linear), torch.randn(64, 224)
    with inference():
        made.to(torch.bfloat16)(x.to(torch.bfloat16))
        made.double()(x.double())
        with torch.backends.mkldnn.flags(enabled=False):
            made.float()(x)
    assert not calls
    with inference():
        made(x)
    assert len(calls) == 1


def test_threads_that_overlap_leave_nothing_behind_and_do_not_touch_each_other(calls) -> None:
    made, x, entered, leave = layer(nn.Linear), torch.randn(64, 224), threading.Event(), threading.Event()

    def other() -> None:
        with inference():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)
    made(x)
    assert nn.Linear.forward is not ORIGINAL[0] and not calls, "open in the other thread alone"
    with fast_linear():
        leave.set()
        thread.join()
        made.requires_grad_(False)(x)
        assert len(calls) == 1


def test_a_patch_of_somebody_else_is_asked_and_put_back(monkeypatch, calls) -> None:
    asked = []
    patch = lambda self, x: (asked.append(1), ORIGINAL[0](self, x))[1]  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(nn.Linear, "forward", patch)
        with inference():
            nn.Linear(8, 8)(torch.ones(1, 8))
        assert asked == [1]
        assert nn.Linear.forward is patch


def test_a_trained_bias_has_its_gradient_and_tensors_of_other_kinds_and_autocast_are_left_alone(calls) -> None:
    class Wrapped(torch.Tensor):
        pass

    made, x = layer(nn.Linear), torch.randn(64, 224)
    made.weight.requires_grad_(False)
    with fast_linear():
        made(x).sum().backward()
    torch.testing.assert_close(made.bias.grad, torch.full((320,), 64.0))
    made.requires_grad_(False)
    with inference():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert made(x).dtype == torch.bfloat16
        made(x.as_subclass(Wrapped))
    assert not calls
    with fast_linear():
        tangent = torch.func.jvp(made, (x,), (x,))[1]
    torch.testing.assert_close(tangent, x @ made.weight.T, atol=1e-4, rtol=1e-4)
    assert not calls


def test_few_numbers_of_rows_are_asked_for(monkeypatch) -> None:
    """oneDNN keeps a kernel for each; and what is added below the rows does not show."""
    sizes, made = set(), layer(nn.Linear)
    padded = module._padded
    monkeypatch.setattr(module, "_padded", lambda rows: (sizes.add(len(out := padded(rows))), out)[1])
    with inference():
        for n in [*range(30, 700), 2048, 2049, 5000]:
            x = torch.randn(n, 224)
            torch.testing.assert_close(made(x), torch.nn.functional.linear(x, made.weight, made.bias), atol=1e-4, rtol=1e-4)
    assert len(sizes) < 32
    assert max(sizes) == module.AT_ONCE


def test_what_the_package_reads_draws_and_scores_is_what_torch_gives(lm, calls, monkeypatch) -> None:
    """On models of three families, with every product done by oneDNN, however small."""
    monkeypatch.setattr(module, "WORTH_IT", 0)
    monkeypatch.setattr(module, "LARGER_THAN", 0)
    rng = np.random.default_rng(0)
    rows = [(rng.integers(3, 60, 4).tolist(), rng.integers(3, 60, n).tolist()) for n in (5, 9, 12)]
    rollouts = Rollouts(pd.DataFrame({"arm": "a", "problem": list("pqr"), "sample": 0, "prompt_ids": [p for p, _ in rows], "token_ids": [c for _, c in rows]}))
    hidden, scores = capture(lm, rollouts, [0, 2]).values, token_logprobs(lm, rows)
    batch = Batch([p for p, _ in rows], torch.tensor([0, 0, 1, 2]), torch.arange(4), 1.0, 1.0, 16, gumbel)
    drawn = lm.decode(batch)
    assert len(calls) > 100
    n = len(calls)
    with torch.backends.mkldnn.flags(enabled=False):
        again = lm.decode(batch)
        with torch.no_grad():
            for i, (prompt, rest) in enumerate(rows):
                out = lm.model(torch.tensor([prompt + rest]), output_hidden_states=True)
                mine = (rollouts.table["problem"].repeat(rollouts.table["token_ids"].str.len()) == "pqr"[i]).to_numpy()
                torch.testing.assert_close(hidden[Site(0)][mine], out.hidden_states[1][0, len(prompt) - 1 : -1], atol=1e-5, rtol=1e-4)
                expected = out.logits[0].log_softmax(-1)[torch.arange(len(prompt) - 1, len(prompt) + len(rest) - 1), torch.tensor(rest)]
                assert scores[i].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert len(calls) == n
    assert torch.equal(drawn.records["token_ids"], again.records["token_ids"])


def test_a_small_weight_is_left_to_torch(calls) -> None:
    small = nn.Linear(128, 512)
    with inference():
        small(torch.randn(4096, 128))
    assert not calls
