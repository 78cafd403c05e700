"""oneDNN's kernels for the linear layers of a model that is read: `inference()`, and `fast_linear()` where gradients pass through to a vector.

A CPU build of torch hands fp32 matrix products to MKL, which on AMD processors gets less than half of their speed; oneDNN, which comes with
torch, gets it on either maker's (docs/benchmarks.md). The values are the same up to fp32 rounding. Only what this package runs inside is
affected: a user's own `model(...)`, and the training of weights, are torch's. torch's own switch, `torch.backends.mkldnn.flags(enabled=False)`, turns it off.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

WORTH_IT = 2**21
"""Multiplications from which oneDNN's call pays: below, MKL is done before it has begun."""
LARGER_THAN = 2**16
"""Numbers of a weight. oneDNN makes a kernel for each new shape, in about 0.4 ms, and decoding has many: products of smaller models are too short to earn that back."""

_TORCH: dict[Any, Any] = {nn.Linear: nn.Linear.forward, Conv1D: Conv1D.forward}
_LOCK = Lock()
_open = 0


@contextmanager
def inference() -> Iterator[None]:
    """Torch's inference mode with fast linear layers, as a context or a decorator."""
    with torch.inference_mode(), fast_linear():
        yield


@contextmanager
def fast_linear() -> Iterator[None]:
    """While open, linear layers whose weights need no gradient run on oneDNN where it pays, in fp32 on a CPU. May be nested.

    It is the classes that change, so that no model is touched and a copy that is made meanwhile holds nothing of it.
    """
    global _open
    with _LOCK:
        _open += 1
        if _open == 1 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            _set({nn.Linear: _linear, Conv1D: _conv1d})
    try:
        yield
    finally:
        with _LOCK:
            _open -= 1
            if _open == 0:
                _set(_TORCH)


def _set(forward: dict[Any, Any]) -> None:
    for kind, function in forward.items():
        kind.forward = function


def _linear(self: nn.Linear, x: Float[Tensor, "*row n_in"]) -> Float[Tensor, "*row n_out"]:
    found: Tensor = _product(x, self.weight, self.bias) if _pays(x, self.weight) else _TORCH[nn.Linear](self, x)
    return found


def _conv1d(self: Any, x: Float[Tensor, "*row n_in"]) -> Float[Tensor, "*row n_out"]:
    """GPT-2's linear layer, whose weight is the transpose."""
    found: Tensor = _product(x, self.weight.t(), self.bias) if _pays(x, self.weight) else _TORCH[Conv1D](self, x)
    return found


def _pays(x: Tensor, weight: Tensor) -> bool:
    if x.dtype != torch.float32 or weight.dtype != torch.float32 or x.device.type != "cpu" or weight.device.type != "cpu" or not x.numel():
        return False
    enough = weight.numel() > LARGER_THAN and x.numel() // x.shape[-1] * weight.numel() >= WORTH_IT
    return enough and bool(torch.backends.mkldnn.enabled) and not (torch.is_grad_enabled() and weight.requires_grad)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        found: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return found
    return _onednn(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


class _Product(torch.autograd.Function):
    """x W^T + b with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _onednn(grads[0], ctx.saved_tensors[0].t()), None, None
