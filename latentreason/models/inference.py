"""oneDNN's kernels for the linear layers of a model that is read: `inference()`, and `fast_linear()` where gradients pass through to a vector.

A CPU build of torch hands fp32 matrix products to MKL, which on the AMD processor that this was written on gets less than half of their speed; oneDNN, which comes
with torch, gets it (docs/benchmarks.md). The values are the same up to fp32 rounding. What is affected is what runs inside, in the same thread: a user's own
`model(...)` and the training of weights are torch's. torch's own switch, `torch.backends.mkldnn.flags(enabled=False)`, turns it off.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

WORTH_IT = 2**21
"""Multiplications from which oneDNN's call pays: below, MKL is done before it has begun."""
LARGER_THAN = 2**16
"""Numbers of a weight: products of smaller models are too short to earn back what oneDNN takes for each new shape."""
AT_ONCE = 2048
"""Rows in one product at most. oneDNN keeps a kernel and its memory for each number of rows that it has seen, so there are few of them: see `_padded`."""

_LOCK = threading.Lock()
_HERE = threading.local()
_torch: dict[Any, Any] = {}  # the forwards that were found, by class
_open = 0


@contextmanager
def inference() -> Iterator[None]:
    """Torch's inference mode with fast linear layers, as a context or a decorator."""
    with torch.inference_mode(), fast_linear():
        yield


@contextmanager
def fast_linear() -> Iterator[None]:
    """While open, linear layers (`nn.Linear`, GPT-2's `Conv1D`) that need no gradient of their own run on oneDNN where it pays, in fp32 on a CPU. May be nested.

    It is the classes that change, not a model, and what they have become does nothing in other threads, nor afterwards.
    """
    global _open
    with _LOCK:
        _open += 1
        if _open == 1 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            _torch.update({nn.Linear: nn.Linear.forward, Conv1D: Conv1D.forward})
            _set({nn.Linear: _linear, Conv1D: _conv1d})
    _HERE.depth = getattr(_HERE, "depth", 0) + 1
    try:
        yield
    finally:
        _HERE.depth -= 1
        with _LOCK:
            _open -= 1
            if _open == 0:
                _set(_torch)


def _set(forward: dict[Any, Any]) -> None:
    for kind, function in forward.items():
        kind.forward = function


def _linear(self: nn.Linear, x: Float[Tensor, "*row n_in"]) -> Float[Tensor, "*row n_out"]:
    found: Tensor = _product(x, self.weight, self.bias) if _pays(x, self.weight, self.bias) else _torch[nn.Linear](self, x)
    return found


def _conv1d(self: Any, x: Float[Tensor, "*row n_in"]) -> Float[Tensor, "*row n_out"]:
    """GPT-2's linear layer, whose weight is the transpose."""
    found: Tensor = _product(x, self.weight.t(), self.bias) if _pays(x, self.weight, self.bias) else _torch[Conv1D](self, x)
    return found


def _pays(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if not getattr(_HERE, "depth", 0) or type(x) is not Tensor or type(weight) not in (Tensor, nn.Parameter):  # quantised and distributed weights know better
        return False
    if x.dtype != torch.float32 or weight.dtype != torch.float32 or x.device.type != "cpu" or weight.device.type != "cpu" or not x.numel():
        return False
    if weight.numel() <= LARGER_THAN or x.numel() // x.shape[-1] * weight.numel() < WORTH_IT:
        return False
    trained = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    return bool(torch.backends.mkldnn.enabled) and not trained and not torch.is_autocast_enabled("cpu") and not torch._C._are_functorch_transforms_active()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        found: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return found
    return _onednn(x, weight, bias)


def _onednn(x: Float[Tensor, "*row n_in"], weight: Float[Tensor, "n_out n_in"], bias: Float[Tensor, "n_out"] | None = None) -> Float[Tensor, "*row n_out"]:
    rows = x.reshape(-1, x.shape[-1])
    parts = [torch.ops.mkldnn._linear_pointwise(_padded(part), weight, bias, "none", [], "")[: len(part)] for part in rows.split(AT_ONCE)]
    found: Tensor = (parts[0] if len(parts) == 1 else torch.cat(parts)).view(*x.shape[:-1], weight.shape[0])
    return found


def _padded(rows: Float[Tensor, "row n_in"]) -> Float[Tensor, "more n_in"]:
    """With zeros below, up to the next of four sizes an octave (8, 10, 12, 14, 16, 20, ...)."""
    step = 1 << max(0, (len(rows) - 1).bit_length() - 3)
    lacking = -len(rows) % step
    return torch.cat([rows, rows.new_zeros(lacking, rows.shape[1])]) if lacking else rows


class _Product(torch.autograd.Function):
    """x W^T + b with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _onednn(grads[0], ctx.saved_tensors[0].t()), None, None
