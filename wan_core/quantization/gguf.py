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
    return _half(block, 0) * (_nibbles(block[..., 2:]) - 8)


def _q4_1(block: Tensor) -> Tensor:
    return _half(block, 0) * _nibbles(block[..., 4:]) + _half(block, 2)


def _q5_0(block: Tensor) -> Tensor:
    return _half(block, 0) * (_five_bits(block[..., 2:]) - 16)


def _q5_1(block: Tensor) -> Tensor:
    return _half(block, 0) * _five_bits(block[..., 4:]) + _half(block, 2)


def _q8_0(block: Tensor) -> Tensor:
    return _half(block, 0) * _signed(block[..., 2:])


def _q2_k(block: Tensor) -> Tensor:
    scales, codes = block[..., :16], _fields(block[..., 16:80], bits=2)  # 16 groups of 16
    scale = _half(block, 80) * (scales & 15)
    offset = _half(block, 82) * (scales >> 4)
    return _grouped(codes, scale, offset)


def _q3_k(block: Tensor) -> Tensor:
    high, low, packed = block[..., :32], block[..., 32:96], block[..., 96:108]
    # The sign bits of group after group of 32 lie in one bit of `high` each; a bit that is missing means -4.
    signs = torch.stack([high >> bit & 1 for bit in range(8)], dim=-2).flatten(-2)
    codes = _fields(low, bits=2).to(torch.int8) - ((signs ^ 1) << 2).to(torch.int8)
    # Sixteen scales of 6 bits: four low bits from the first 8 bytes, two high ones from the last 4.
    low_bits = torch.cat([packed[..., :8] & 15, packed[..., :8] >> 4], dim=-1)
    high_bits = torch.cat([packed[..., 8:] >> shift & 3 for shift in (0, 2, 4, 6)], dim=-1)
    scales = (low_bits | high_bits << 4).to(torch.int8) - 32
    return _grouped(codes, _half(block, 108) * scales)


def _q4_k(block: Tensor) -> Tensor:
    scale, offset = _scales_and_offsets(block)
    return _grouped(_fields(block[..., 16:], bits=4), scale, offset)


def _q5_k(block: Tensor) -> Tensor:
    scale, offset = _scales_and_offsets(block)
    high = torch.stack([block[..., 16:48] >> bit & 1 for bit in range(8)], dim=-2).flatten(-2)
    return _grouped(_fields(block[..., 48:], bits=4) | high << 4, scale, offset)


def _q6_k(block: Tensor) -> Tensor:
    # Two halves of 128 numbers, each with 64 bytes of low and 32 bytes of high bits.
    low = block[..., :128].unflatten(-1, (2, 1, 64)) >> _shifts(block, 0, 4)[:, None] & 15
    high = block[..., 128:192].unflatten(-1, (2, 1, 32)) >> _shifts(block, 0, 2, 4, 6)[:, None] & 3
    codes = (low.flatten(-3) | high.flatten(-3) << 4).to(torch.int8) - 32
    return _grouped(codes, _half(block, 208) * _signed(block[..., 192:208]))


def _iq4_nl(block: Tensor) -> Tensor:
    return _half(block, 0) * _iq4(_nibbles(block[..., 2:]))


def _iq4_xs(block: Tensor) -> Tensor:
    # Eight scales of 6 bits: four low bits in bytes 4 to 7, two high bits in bytes 2 and 3.
    low = (block[..., 4:8, None] >> _shifts(block, 0, 4) & 15).flatten(-2)
    high = (block[..., 2:4, None] >> _shifts(block, 0, 2, 4, 6) & 3).flatten(-2)
    scales = (low | high << 4).to(torch.int8) - 32
    codes = _nibbles(block[..., 8:].unflatten(-1, (8, 16))).flatten(-2)
    return _grouped(_iq4(codes), _half(block, 0) * scales)


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


def _shifts(block: Tensor, *bits: int) -> Tensor:
    return torch.tensor(bits, dtype=torch.uint8, device=block.device)


def _nibbles(data: Tensor) -> Tensor:
    """The low halves of all bytes, then the high ones."""
    return torch.cat([data & 15, data >> 4], dim=-1).to(torch.int8)


def _five_bits(data: Tensor) -> Tensor:
    """Four bytes with a fifth bit for each of the 32 numbers, then their nibbles."""
    high = (data[..., :4, None] >> _shifts(data, *range(8)) & 1).flatten(-2)
    return _nibbles(data[..., 4:]) | (high << 4).to(torch.int8)


def _fields(data: Tensor, bits: int) -> Tensor:
    """Fields of 2 or 4 bits: of 32 bytes all the lowest fields, then all the next, and so on."""
    shifts = _shifts(data, *range(0, 8, bits))[:, None]
    return (data.unflatten(-1, (-1, 1, 32)) >> shifts & (1 << bits) - 1).flatten(-3)


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
