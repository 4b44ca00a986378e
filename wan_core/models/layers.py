"""Layers that compute in the dtype of their input, and the chunk loop that keeps float32 copies small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Tokens per chunk where a step would otherwise hold a float32 copy of the sequence: 84 MB at dim 5120.
CHUNK_TOKENS = 4096

# torch multiplies matrices through MKL, which on an AMD CPU is slow. oneDNN comes with torch, reads the plain
# weights, and takes 0.8 of the time at the released shapes (0.6 to 0.9 from dim 512 on); its start costs some
# 15 us, so products of fewer multiplications stay where they are.
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
ONEDNN_PRODUCTS = 2**24


def over_chunks(step: Callable[[slice], Tensor], tokens: int, out: Tensor | None = None) -> Tensor:
    """`step(span)` (B, n, D) for every span of tokens, joined to (B, tokens, D).

    While gradients are recorded, and for short sequences, this is `step` of everything at once. `out` may be
    given to be overwritten, also when `step` reads it: each span is read before it is replaced.
    """
    if torch.is_grad_enabled() or tokens <= CHUNK_TOKENS:
        return step(slice(0, tokens))
    for span in token_spans(tokens):
        part = step(span)
        if out is None:
            out = part.new_empty(part.shape[0], tokens, part.shape[2])
        out[:, span] = part
    assert out is not None
    return out


def token_spans(tokens: int) -> list[slice]:
    """Slices of at most CHUNK_TOKENS that cover `tokens`."""
    return [slice(i, min(i + CHUNK_TOKENS, tokens)) for i in range(0, tokens, CHUNK_TOKENS)]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear: x (..., in), weight (out, in), bias (out,), all of one dtype and device, to (..., out).

    On a CPU in float32 the faster of torch's two libraries does it, where no gradient is recorded.
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
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


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
            return F.rms_norm(x, self.normalized_shape, _to(self.weight, x), self.eps)


def _to(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(x.dtype)
