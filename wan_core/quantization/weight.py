"""One quantized weight: the stored tensor, its scale, and the numbers they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .gguf import DECODERS

Decode = Callable[[Tensor], Tensor]

# Numbers made at a time: their float32 form and what unpacking needs stay within some tens of megabytes.
CHUNK_NUMBERS = 2**22


def as_numbers(codes: Tensor) -> Tensor:
    """fp8 and int8: every code is a number already."""
    return codes.float()


# Stored dtypes, as containers spell them, that become numbers here.
READABLE: dict[str, Decode] = {
    "F8_E4M3": as_numbers,
    "F8_E5M2": as_numbers,
    "I8": as_numbers,
    **DECODERS,
}


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight that stays as its file stores it.

    shape   of the numbers, as the network knows it
    data    (rows, codes or bytes of a row), the stored tensor
    scale   (rows, 1) or (1, 1) float32, multiplied in; None: the codes are the numbers
    decode  codes (n, ...) to float32 numbers (n, numbers of a row)
    """

    shape: tuple[int, ...]
    data: Tensor
    scale: Tensor | None
    decode: Decode

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """All numbers, in `shape`."""
        return dequantize(self.data, self.scale, self.decode, dtype).view(self.shape)

    def to(self, device: torch.device | str | None) -> QuantizedWeight:
        """The same on a device; None: where it is."""
        scale = None if self.scale is None else self.scale.to(device=device)
        return replace(self, data=self.data.to(device=device), scale=scale)


def quantized_weight(
    stored: str, shape: tuple[int, ...], data: Tensor, scale: Tensor | None
) -> QuantizedWeight:
    """Wrap a tensor of the dtype that its container calls `stored`, a key of READABLE.

    `data` is the mapped tensor (for GGUF's blocks: bytes, the last axis a row's), `scale` one number or one
    for each row of the first axis.
    """
    rows = data.reshape(-1, data.shape[-1]) if stored in DECODERS else data.reshape(shape[0], -1)
    scale = None if scale is None else scale.float().reshape(-1, 1)
    return QuantizedWeight(shape, rows, scale, READABLE[stored])


def dequantize(data: Tensor, scale: Tensor | None, decode: Decode, dtype: torch.dtype) -> Tensor:
    """Rows of codes to rows of numbers in `dtype`; computed in float32, a chunk of rows at a time."""
    per_row = decode(data[:1]).shape[1]
    out = torch.empty(len(data), per_row, dtype=dtype, device=data.device)
    step = max(1, CHUNK_NUMBERS // per_row)
    for start in range(0, len(data), step):
        numbers = decode(data[start : start + step])
        if scale is not None:
            numbers *= scale if len(scale) == 1 else scale[start : start + step]
        out[start : start + step] = numbers
    return out
