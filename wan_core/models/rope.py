"""Rotary positions of a video: one rotation per token, split over the time, height and width axes."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

ROPE_BASE = 10000.0


@lru_cache(maxsize=2)  # a table of 720p is 39 MB; two, for two sizes by turns
def rope_table(grid: tuple[int, int, int], head_dim: int, device: torch.device) -> Tensor:
    """The rotations of a grid of tokens in the order f, h, w (w fastest): (f*h*w, head_dim/2) complex64.

    Each axis has its own ladder of frequencies over its own share of the head: for head_dim 128 the shares
    are 44, 42 and 42 (released file wan/modules/model.py). Angles are computed in float64. The table is kept
    for the next call: it must not be written to.
    """
    with torch.inference_mode(False):  # a kept table may serve a training step next
        return _table(grid, head_dim, device)


def _table(grid: tuple[int, int, int], head_dim: int, device: torch.device) -> Tensor:
    side = 2 * (head_dim // 6)
    frames, height, width = grid
    shape = (frames, height, width)
    tables = [
        _axis_table(frames, head_dim - 2 * side, device)[:, None, None, :].expand(*shape, -1),
        _axis_table(height, side, device)[None, :, None, :].expand(*shape, -1),
        _axis_table(width, side, device)[None, None, :, :].expand(*shape, -1),
    ]
    return torch.cat(tables, dim=-1).flatten(0, 2)


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the adjacent pairs (2i, 2i+1) of each head.

    Args:
        x: (B, n, heads, head_dim) float32; may be overwritten when no gradient is recorded
        table: (n, head_dim/2) complex64, the rows of these n tokens

    Returns: (B, n, heads, head_dim) float32.
    """
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # (B, n, heads, head_dim/2)
    rotation = table[:, None, :]
    rotated = pairs * rotation if torch.is_grad_enabled() else pairs.mul_(rotation)
    return torch.view_as_real(rotated).flatten(-2)


def _axis_table(positions: int, axis_dim: int, device: torch.device) -> Tensor:
    """(positions, axis_dim/2) complex64: exp(i * p * base^(-2j/axis_dim)).

    Made on the CPU: some accelerators have no float64, and the tables are a few kilobytes.
    """
    exponents = torch.arange(0, axis_dim, 2, dtype=torch.float64) / axis_dim
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), ROPE_BASE**-exponents)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64).to(device)
