"""Quantized weights in the care of ComfyUI: core's own layers where they fit, ours made movable elsewhere.

Core moves, streams and counts what has `comfy_cast_weights`; to it our layers' codes are their weight.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import comfy.ops
import torch
from comfy.quant_ops import QUANT_ALGOS
from torch import Tensor, nn

from ..wan_core.checkpoints import Checkpoint
from ..wan_core.checkpoints.audit import put
from ..wan_core.quantization import QuantizedEmbedding, QuantizedLinear
from ..wan_core.quantization.weight import dequantize

# Core's formats with one scale for each weight, and the devices where its layers are worth having: those for
# int8 round the activations too, which is faster than a plain product on a GPU only.
CORE_FORMATS = {
    "float8_e4m3fn": ("cpu", "cuda"),
    "float8_e5m2": ("cpu", "cuda"),
    "int8_tensorwise": ("cuda",),
}
# The part of the transformer that computes in its compute dtype. The rest computes in float32 and stays ours.
CORE_LAYERS_IN = "blocks."


class HostedLinear(QuantizedLinear, comfy.ops.CastWeightBiasOp):
    """QuantizedLinear whose codes stream to the device where they do not fit, as core's weights do."""

    comfy_cast_weights = True

    def forward(self, x: Tensor) -> Tensor:
        comfy.ops.run_every_op()
        with self._on_device(x) as (codes, scale, bias):
            return self.product(x, codes, scale, bias)

    @contextmanager
    def lend(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None] | None]:
        """As QuantizedLinear; what core lends while it streams is copied, as core lends it again."""
        comfy.ops.run_every_op()
        if self.multiplies_codes(like):
            yield None
            return
        with self._on_device(like) as (codes, scale, bias):
            lent = (
                dequantize(codes, scale, self.decode, like.dtype),
                None if bias is None else bias.clone(),
            )
        yield lent

    @contextmanager
    def _on_device(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """Codes, scale and bias."""
        with comfy.ops.CastBiasWeightContext(
            self, x, dtype=self.weight.dtype, bias_dtype=x.dtype, offloadable=True
        ) as (codes, bias):
            yield codes, None if self.weight_scale is None else self.weight_scale.to(x.device), bias


class HostedEmbedding(QuantizedEmbedding, comfy.ops.CastWeightBiasOp):
    """QuantizedEmbedding for core: rows are taken where the table lies, so it never streams."""

    comfy_cast_weights = True
    bias = None  # core asks every layer for one


def into_core(
    module: nn.Module, checkpoint: Checkpoint, device: torch.device, compute_dtype: torch.dtype | None
) -> None:
    """Exchange the quantized layers of a filled module for ones that core's memory management can handle.

    With a `compute_dtype`, that of a transformer's blocks, core's own quantized layers take the weights of
    its formats that the file marks for them.
    """
    core = None if compute_dtype is None else core_layers(device, compute_dtype)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, QuantizedEmbedding):
            put(module, name, HostedEmbedding(layer.stored()))
        elif isinstance(layer, QuantizedLinear):
            note = checkpoint.comfy_note(name)
            if core and name.startswith(CORE_LAYERS_IN) and note and is_core_s(layer, note, device):
                put(module, name, core_layer(core, layer, note, checkpoint.input_scale(name)))
            else:
                put(module, name, HostedLinear(layer.stored(), layer.bias))


def core_layers(device: torch.device, compute_dtype: torch.dtype) -> Any:
    """Core's namespace of quantized layers; fp8 products only where the device has them."""
    fast = device.type == "cuda" and mm.supports_fp8_compute(device)
    without = () if fast else ("float8_e4m3fn", "float8_e5m2")
    return comfy.ops.mixed_precision_ops(compute_dtype=compute_dtype, disabled=without)


def is_core_s(layer: QuantizedLinear, note: Mapping[str, object], device: torch.device) -> bool:
    """Whether core has a layer for a weight, by what the file notes about it."""
    kind = str(note["format"])
    return (
        device.type in CORE_FORMATS.get(kind, ())
        and QUANT_ALGOS[kind]["storage_t"] == layer.weight.dtype
        and layer.weight_scale is not None
        and layer.weight_scale.numel() == 1
    )


def core_layer(
    core: Any, layer: QuantizedLinear, note: Mapping[str, object], input_scale: Tensor | None
) -> nn.Module:
    """Core's quantized layer over the same stored weight."""
    made = core.Linear(
        layer.in_features, layer.out_features, layer.bias is not None, device=layer.weight.device
    )
    given = {
        "weight": layer.weight.data,
        "weight_scale": layer.weight_scale.reshape(()),
        "comfy_quant": torch.frombuffer(bytearray(json.dumps(note).encode()), dtype=torch.uint8),
        "input_scale": input_scale,
        "bias": layer.bias,
    }
    made.load_state_dict({key: value for key, value in given.items() if value is not None}, assign=True)
    return made
