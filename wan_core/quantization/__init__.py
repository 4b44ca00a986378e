"""Weights that stay as their file stores them, and how they become numbers: fp8, int8 and GGUF's blocks.

`quantized_weight` wraps a stored tensor; `QuantizedLinear` and `QuantizedEmbedding` compute with it and turn
it into numbers each time they run, so no more than one layer's weight is ever there in full.
"""

from __future__ import annotations

from .fp8_matmul import fp8_fault, fp8_fits
from .layers import QuantizedEmbedding, QuantizedLinear, quantized_layer
from .weight import READABLE, QuantizedWeight, quantized_weight

__all__ = [
    "READABLE",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizedWeight",
    "fp8_fault",
    "fp8_fits",
    "quantized_layer",
    "quantized_weight",
]
