"""GGUF's block formats to numbers, each as ggml defines it: equal to the `gguf` package's bit for bit.

A row is a whole number of blocks. A block holds 32 or 256 numbers as small integers, with a scale (and, in
half of the formats, an offset) in float16; the formats named _K have smaller groups of 16 or 32 inside, whose
own scales are integers of 4 to 8 bits. Every function below takes blocks (..., bytes of a block) of uint8 and
returns (..., numbers of a block) float32. What stands where in a block: ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# The sixteen values of IQ4_NL and IQ4_XS.
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _q4_0(block: Tensor) -> Tensor:
    return _half(block, 0) * (_planes(block[..., 2:], 4).char() - 8)


def _q4_1(block: Tensor) -> Tensor:
    return _half(block, 0) * _planes(block[..., 4:], 4) + _half(block, 2)


def _q5_0(block: Tensor) -> Tensor:
    return _half(block, 0) * (_five_bits(block[..., 2:]).char() - 16)


def _q5_1(block: Tensor) -> Tensor:
    return _half(block, 0) * _five_bits(block[..., 4:]) + _half(block, 2)


def _q8_0(block: Tensor) -> Tensor:
    return _half(block, 0) * _signed(block[..., 2:])


def _q2_k(block: Tensor) -> Tensor:
    scales, codes = block[..., :16], _planes_of(32, block[..., 16:80], 2)
    return _grouped(codes, _half(block, 80) * (scales & 15), _half(block, 82) * (scales >> 4))


def _q3_k(block: Tensor) -> Tensor:
    high, low, packed = block[..., :32], block[..., 32:96], block[..., 96:108]
    # A third bit for each number, which is 4 when it is missing and taken off.
    codes = _planes_of(32, low, 2).char() - ((_planes(high, 1) ^ 1) << 2).char()
    # Sixteen scales of 6 bits: four low bits in the first 8 bytes, two high ones in the last 4.
    scales = (_planes(packed[..., :8], 4) | _planes(packed[..., 8:], 2) << 4).char() - 32
    return _grouped(codes, _half(block, 108) * scales)


def _q4_k(block: Tensor) -> Tensor:
    return _grouped(_planes_of(32, block[..., 16:], 4), *_scales_and_offsets(block))


def _q5_k(block: Tensor) -> Tensor:
    codes = _planes_of(32, block[..., 48:], 4) | _planes(block[..., 16:48], 1) << 4
    return _grouped(codes, *_scales_and_offsets(block))


def _q6_k(block: Tensor) -> Tensor:
    low, high = _planes_of(64, block[..., :128], 4), _planes_of(32, block[..., 128:192], 2)
    codes = (low | high << 4).char() - 32
    return _grouped(codes, _half(block, 208) * _signed(block[..., 192:208]))


def _iq4_nl(block: Tensor) -> Tensor:
    return _half(block, 0) * _iq4(_planes(block[..., 2:], 4))


def _iq4_xs(block: Tensor) -> Tensor:
    # Eight scales of 6 bits: four low bits in bytes 4 to 7, two high ones in bytes 2 and 3.
    scales = (_planes_of(1, block[..., 4:8], 4) | _planes_of(1, block[..., 2:4], 2) << 4).char() - 32
    return _grouped(_iq4(_planes_of(16, block[..., 8:], 4)), _half(block, 0) * scales)


def _scales_and_offsets(block: Tensor) -> tuple[Tensor, Tensor]:
    """Of Q4_K and Q5_K: eight groups' scales and offsets, (..., 8) each, from 6-bit integers in 12 bytes."""
    first, second, third = block[..., 4:16].unflatten(-1, (3, 4)).unbind(-2)
    scales = torch.cat([first & 63, third & 15 | first >> 6 << 4], dim=-1)
    offsets = torch.cat([second & 63, third >> 4 | second >> 6 << 4], dim=-1)
    return _half(block, 0) * scales, _half(block, 2) * offsets


def _grouped(codes: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """codes (..., n) times scale minus offset (..., groups), each for its share of the n numbers."""
    numbers = codes.unflatten(-1, (scale.shape[-1], -1)) * scale.unsqueeze(-1)
    return (numbers if offset is None else numbers - offset.unsqueeze(-1)).flatten(-2)


def _half(block: Tensor, at: int) -> Tensor:
    """(..., 1) float32: the float16 number at a byte."""
    return block[..., at : at + 2].contiguous().view(torch.float16).float()


def _signed(data: Tensor) -> Tensor:
    return data.contiguous().view(torch.int8)


def _planes(data: Tensor, bits: int) -> Tensor:
    """Bytes cut into fields of 1, 2 or 4 bits: the lowest of all bytes, then the next of all, and so on."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=data.device)
    return (data.unsqueeze(-2) >> shifts[:, None] & (1 << bits) - 1).flatten(-2)


def _planes_of(count: int, data: Tensor, bits: int) -> Tensor:
    """The same of every `count` bytes in turn."""
    return _planes(data.unflatten(-1, (-1, count)), bits).flatten(-2)


def _five_bits(data: Tensor) -> Tensor:
    """Four bytes with a fifth bit for each of the 32 numbers, then the other four of each."""
    return _planes(data[..., 4:], 4) | _planes_of(1, data[..., :4], 1) << 4


def _iq4(codes: Tensor) -> Tensor:
    return torch.tensor(IQ4_VALUES, dtype=torch.float32, device=codes.device)[codes.int()]


def _rows(decode: Callable[[Tensor], Tensor], block_bytes: int) -> Callable[[Tensor], Tensor]:
    """The decoder of rows (n, bytes of a row) to (n, numbers of a row)."""

    def rows(data: Tensor) -> Tensor:
        return decode(data.unflatten(-1, (-1, block_bytes))).flatten(-2)

    return rows


# ggml's name -> decoder of rows
DECODERS = {
    "Q4_0": _rows(_q4_0, 18),
    "Q4_1": _rows(_q4_1, 20),
    "Q5_0": _rows(_q5_0, 22),
    "Q5_1": _rows(_q5_1, 24),
    "Q8_0": _rows(_q8_0, 34),
    "Q2_K": _rows(_q2_k, 84),
    "Q3_K": _rows(_q3_k, 110),
    "Q4_K": _rows(_q4_k, 144),
    "Q5_K": _rows(_q5_k, 176),
    "Q6_K": _rows(_q6_k, 210),
    "IQ4_NL": _rows(_iq4_nl, 18),
    "IQ4_XS": _rows(_iq4_xs, 136),
}
