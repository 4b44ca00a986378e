"""Layers whose weight stays as stored; its numbers are made for one call and let go.

`weight` holds the stored codes, so what counts a module's bytes counts right; `in_features` and its like hold
the shape of the numbers. The scale is a parameter of its own and moves with the layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fp8_matmul import COMPUTE_DTYPE, fp8_fits, fp8_linear
from .weight import QuantizedWeight, dequantize


class QuantizedLinear(nn.Linear):
    """nn.Linear over a QuantizedWeight (out, in), which computes in the dtype of its input.

    `fp8_matmul`: an fp8 weight and a bfloat16 input are multiplied in fp8, which is not exact.
    """

    fp8_matmul = False

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None) -> None:
        out_features, in_features = weight.shape
        super().__init__(in_features, out_features, bias is not None, device="meta")
        if bias is not None:
            self.bias = _kept(bias)
        _hold(self, weight)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return self.product(x, self.weight, self.weight_scale, bias)

    @contextmanager
    def lend(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None] | None]:
        """The weight's numbers and the bias as `like`, for many calls; None where codes are multiplied."""
        if self.multiplies_codes(like):
            yield None
        else:
            bias = None if self.bias is None else self.bias.to(like.dtype)
            yield dequantize(self.weight, self.weight_scale, self.decode, like.dtype), bias

    def multiplies_codes(self, x: Tensor) -> bool:
        """Whether the codes themselves are multiplied with x."""
        return self.fp8_matmul and x.dtype == COMPUTE_DTYPE and fp8_fits(self.weight)

    def product(self, x: Tensor, codes: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        """x (..., in) times these codes of the weight and their scale, all on the device of x."""
        if self.multiplies_codes(x):
            return fp8_linear(x, codes, scale, bias)
        return F.linear(x, dequantize(codes, scale, self.decode, x.dtype), bias)

    def stored(self) -> QuantizedWeight:
        """The weight as it was given."""
        shape = (self.out_features, self.in_features)
        return QuantizedWeight(shape, self.weight, self.weight_scale, self.decode)


class QuantizedEmbedding(nn.Embedding):
    """nn.Embedding over a QuantizedWeight (vocabulary, width): only the rows asked for become numbers."""

    def __init__(self, weight: QuantizedWeight) -> None:
        super().__init__(*weight.shape, device="meta")
        _hold(self, weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Indices of any shape to (..., width) float32, on their device; the table stays where it is."""
        rows = ids.flatten().to(self.weight.device)
        # As bytes, because torch gathers no rows of fp8.
        data = self.weight.view(torch.uint8)[rows].view(self.weight.dtype)
        scale = self.weight_scale
        if scale is not None:
            scale = scale.to(rows.device)
            scale = scale if len(scale) == 1 else scale[rows]
        numbers = dequantize(data, scale, self.decode, torch.float32)
        return numbers.view(*ids.shape, -1).to(ids.device)

    def stored(self) -> QuantizedWeight:
        """The weight as it was given."""
        shape = (self.num_embeddings, self.embedding_dim)
        return QuantizedWeight(shape, self.weight, self.weight_scale, self.decode)


def quantized_layer(layer: nn.Module, weight: QuantizedWeight, bias: Tensor | None) -> nn.Module:
    """What takes the place of a Linear or an Embedding whose weight is quantized."""
    return QuantizedLinear(weight, bias) if isinstance(layer, nn.Linear) else QuantizedEmbedding(weight)


def _hold(layer: QuantizedLinear | QuantizedEmbedding, weight: QuantizedWeight) -> None:
    layer.weight = _kept(weight.data)
    layer.register_parameter("weight_scale", None if weight.scale is None else _kept(weight.scale))
    layer.decode = weight.decode


def _kept(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
