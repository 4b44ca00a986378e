"""Layers that compute in the dtype of their input, and the fast products of a CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# torch multiplies matrices through MKL, which on an AMD CPU is slow. oneDNN comes with torch, reads the plain
# weights, and takes 0.8 of the time at the released shapes (0.6 to 0.9 from dim 512 on); its start costs some
# 15 us, so products of fewer multiplications stay where they are.
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
ONEDNN_PRODUCTS = 2**24


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """F.linear: x (..., in), weight (out, in), bias (out,), all of one dtype and device, to (..., out).

    On a CPU in float32 the faster of torch's two libraries does it, where no gradient is recorded. `gelu`
    applies that function (its tanh form) to the result.
    """
    if (
        ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= ONEDNN_PRODUCTS
        and weight.is_contiguous()
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()  # inductor takes this operation with frozen weights only
    ):
        after = ("gelu", [], "tanh") if gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *after)
    x = F.linear(x, weight, bias)
    return gelu_tanh(x) if gelu else x


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """GELU (tanh form) of a linear layer's result; in one pass on a CPU, where GELU is 3 % of a block.

    For layers that have a method `with_gelu`, and those that are held; not where a hook changes the result.
    """
    lent = vars(layer).get("forward")
    if not layer._forward_hooks and isinstance(lent, partial) and lent.func is linear:
        return lent(x, gelu=True)
    if not layer._forward_hooks and hasattr(layer, "with_gelu"):
        return layer.with_gelu(x)
    return gelu_tanh(layer(x))


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh form, in the memory of x where no gradient is recorded."""
    if torch.is_grad_enabled():
        return F.gelu(x, approximate="tanh")
    return torch.ops.aten.gelu_(x, approximate="tanh")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """F.rms_norm over the last axis; by the vectors' lengths on a CPU, where torch takes 17 times as long."""
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return F.rms_norm(x, weight.shape, weight, eps)
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    return torch.mul(x, mean_square.add_(eps).rsqrt_()).mul_(weight)


@contextmanager
def held(layers: Iterable[nn.Module], like: Tensor) -> Iterator[None]:
    """While it lasts, linear layers that fetch, cast or decode their weights on each call have done so once.

    For loops that call the same layers for one span of tokens after the other. A layer that has something to
    save has a method `lend(like)`: a context manager that gives the (weight, bias) it multiplies with, on
    the device of `like` and in its dtype, or None when there is nothing to save. Hooks run as always.
    """
    with ExitStack() as stack:
        for layer in layers:
            lent = stack.enter_context(layer.lend(like)) if hasattr(layer, "lend") else None
            if lent is not None:
                layer.forward = partial(linear, weight=lent[0], bias=lent[1])
                stack.callback(delattr, layer, "forward")
        yield


def casting_ops(ops: ModuleType | type | Any) -> Any:
    """`ops`, or for plain torch.nn (whose bf16 layers refuse float32 input) the layers below.

    The models choose the dtype of each step by the dtype they pass in, so a layer must cast its weights to
    that of its input: ComfyUI's `comfy.ops.manual_cast` layers do, and these do.
    """
    return CastingLayers if ops is nn else ops


class CastingLayers:
    """torch.nn layers that cast their weights to the input's dtype on use (free when they agree)."""

    Embedding = nn.Embedding  # its input is indices: the rows keep the dtype of the weights

    class Linear(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return linear(x, self.weight.to(x.dtype), _to(self.bias, x))

        def with_gelu(self, x: Tensor) -> Tensor:
            return linear(x, self.weight.to(x.dtype), _to(self.bias, x), gelu=True)

        @contextmanager
        def lend(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None] | None]:
            """As `held` asks for it."""
            same = self.weight.dtype == like.dtype
            yield None if same else (self.weight.to(like.dtype), _to(self.bias, like))

    class Conv2d(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight.to(x.dtype), _to(self.bias, x))

    class Conv3d(nn.Conv3d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight.to(x.dtype), _to(self.bias, x))

    @staticmethod
    @contextmanager
    def borrow(layer: nn.Module, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """A layer's (weight, bias) on `like`'s device in its dtype, for kernels that are not the layer's."""
        yield layer.weight.to(like), None if layer.bias is None else layer.bias.to(like)

    class LayerNorm(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return F.layer_norm(x, self.normalized_shape, _to(self.weight, x), _to(self.bias, x), self.eps)

    class RMSNorm(nn.RMSNorm):
        def forward(self, x: Tensor) -> Tensor:
            return rms_norm(x, self.weight.to(x.dtype), self.eps)


def _to(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(x.dtype)
