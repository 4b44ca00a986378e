"""3x3 and 3x3x3 convolutions with fewer products: Winograd's F(4x4, 3x3), and F(2, 3) over pairs of frames.

Source: Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308). A tile of
4 x 4 results costs 36 products per pair of channels instead of 144, and two frames of three taps 4 instead
of 6: one matrix product per point of the transformed tile. Exact but for rounding, about 4e-6 in float32.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

TILE = 4  # results per side of a tile, read from 6 x 6 inputs
POINTS = 36  # of a transformed tile

PAGED = 2**20  # bytes

# What three taps become, per axis: in a row of a tile (times 1/24), and in time for a pair (times 1/2).
_TILE_TAPS = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))
_PAIR_TAPS = ((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2))
# Which of four frames make a time step of a pair: one of them, and another added or taken away.
_PAIR_STEPS = ((0, -1, 2), (1, 1, 2), (2, -1, 1), (1, -1, 3))
# How much of a step's products each of the two results takes.
_PAIR_SUMS = ((1, 1, 1, 0), (0, 1, -1, -1))


def new_frame(shape: Sequence[int], like: Tensor) -> Tensor:
    """An uninitialised tensor of `like`'s dtype and device; a large one's memory is the system's own pages.

    They go back as soon as it is freed. malloc keeps what is under 32 MB, and frames of several sizes leave
    it full of holes: 300 MB more for a clip of 256 x 256.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < PAGED:
        return like.new_empty(shape)
    pages = torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8).untyped_storage()
    return like.new_empty(0).set_(pages, 0, shape)


class Scratch:
    """Memory that is used again by name: fresh pages cost a CPU more than the arithmetic on them."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Uninitialised, of `like`'s dtype and device; it overwrites what had this name before."""
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or len(flat) < size:
            self._flat.pop(name, None)
            flat = self._flat[name] = new_frame((size,), like)
        return flat[:size].view(shape)

    def clear(self) -> None:
        """Let go of all of it, where what follows needs less of it."""
        self._flat.clear()


class Kernel:
    """Weights (Cout, Cin, 3 or 1, 3, 3) as the points of transformed tiles, for the steps of `convolve`.

    Those are 4 to 5 times as large. Where several bands use them (`kept`) they are made once, else anew for a
    group of Cout at a time.
    """

    def __init__(self, weight: Tensor, steps: int, group: int, kept: bool, scratch: Scratch) -> None:
        self.weight = weight
        cout = weight.shape[0]
        self.groups = [slice(start, min(start + group, cout)) for start in range(0, cout, group)]
        self._matrix = _kernel_matrix(steps, weight.shape[2])
        self._scratch = scratch
        self._all = None
        if kept:
            self.groups = [slice(0, cout)]
            self._all = [self._made(step, self.groups[0], torch.empty) for step in range(steps)]

    def points(self, step: int, span: slice) -> Tensor:
        """(36, n, Cin) of one step and some of Cout; good until the next are asked for."""
        if self._all is not None:
            return self._all[step]
        return self._made(step, span, lambda shape: self._scratch.take("kernel", shape, self.weight))

    def _made(self, step: int, span: slice, new: Callable[[tuple[int, int]], Tensor]) -> Tensor:
        cin = self.weight.shape[1]
        taps = self.weight[span].reshape((span.stop - span.start) * cin, -1).t()
        return torch.mm(self._matrix[step], taps, out=new((POINTS, taps.shape[1]))).view(POINTS, -1, cin)


def convolve(
    steps: int,
    padded: Callable[[Tensor, int], None],
    kernel: Kernel,
    shape: tuple[int, int, int],
    scratch: Scratch,
) -> Tensor:
    """Results (1 or 2, B, 4 R, 4 W, Cout) of a band of R x W tiles; `shape` is (B, R, W).

    Time step by time step, so that little is held at once. `padded(out, step)` writes the rows that a step
    reads, (B, 4 R + 2, 4 W + 2, Cin). 4 steps of a 3 x 3 x 3 `kernel` make a pair of frames (see `mix`), as
    many steps as it has time taps make one.
    """
    batch, high, wide = shape
    tiles = batch * high * wide
    weight = kernel.weight
    cout, cin = weight.shape[:2]
    sums = _PAIR_SUMS if steps == 4 else ((1,) * steps,)
    summed = scratch.take("summed", (len(sums), POINTS, tiles, cout), weight)
    rows = scratch.take("padded", (batch, TILE * high + 2, TILE * wide + 2, cin), weight)
    for step in range(steps):
        padded(rows, step)
        inputs = _transformed(rows, scratch).view(POINTS, tiles, cin)
        takes = [result[step] for result in sums]
        first = [not any(result[:step]) for result in sums]
        for span in kernel.groups:
            points = kernel.points(step, span)
            products = scratch.take("products", (POINTS, tiles, points.shape[1]), weight)
            torch.bmm(inputs, points.transpose(1, 2), out=products)
            for total, sign, is_first in zip(summed[..., span], takes, first, strict=True):
                if sign and is_first:
                    total.copy_(products)
                elif sign:
                    total.add_(products, alpha=sign)
    return _untransformed(summed.view(len(sums), 6, 6, batch, high, wide, cout), scratch)


def mix(frames: Sequence[Tensor], step: int, out: Tensor) -> None:
    """What a pair's time step reads of four frames."""
    first, sign, second = _PAIR_STEPS[step]
    torch.add(frames[first], frames[second], alpha=sign, out=out)


@cache
def _kernel_matrix(steps: int, taps: int) -> Tensor:
    """(steps, 36, taps * 9): from a kernel's weights to those of the transformed tile's points."""
    side = torch.tensor(_TILE_TAPS, dtype=torch.float64) / 24
    time = torch.tensor(_PAIR_TAPS, dtype=torch.float64) / 2 if steps == 4 else torch.eye(taps).double()
    return torch.kron(time, torch.kron(side, side)).float().view(steps, POINTS, -1)


def _transformed(rows: Tensor, scratch: Scratch) -> Tensor:
    """(B, 4 R + 2, 4 W + 2, C) to (6, 6, B, R, W, C): tiles that overlap by two."""
    batch, height, width, channels = rows.shape
    high, wide = height // TILE, width // TILE
    lines = scratch.take("lines", (6, batch, high, width, channels), rows)
    _inputs([rows[:, i : i + TILE * (high - 1) + 1 : TILE] for i in range(6)], lines.unbind(0), scratch)
    tiles = scratch.take("tiles", (6, 6, batch, high, wide, channels), rows)
    columns = [lines[..., i : i + TILE * (wide - 1) + 1 : TILE, :] for i in range(6)]
    _inputs(columns, tiles.unbind(1), scratch)
    return tiles


def _inputs(d: list[Tensor], out: tuple[Tensor, ...], scratch: Scratch) -> None:
    """The six points of a row of six inputs."""
    even, odd = scratch.take("halves", (2, *d[0].shape), d[0])
    torch.sub(d[4], d[2], alpha=4, out=even)
    torch.sub(d[3], d[1], alpha=4, out=odd)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(d[4], d[2], out=even)
    torch.sub(d[3], d[1], out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    torch.sub(d[0], d[2], out=out[0])
    torch.add(even, out[0], alpha=4, out=out[0])
    torch.sub(d[5], d[3], out=out[5])
    torch.sub(out[5], odd, alpha=4, out=out[5])


def _untransformed(points: Tensor, scratch: Scratch) -> Tensor:
    """(n, 6, 6, B, R, W, C) to results (n, B, 4 R, 4 W, C)."""
    count, _, _, batch, high, wide, channels = points.shape
    lines = scratch.take("tiles", (count, TILE, 6, batch, high, wide, channels), points)
    _outputs(points.unbind(1), lines.unbind(1), scratch)
    result = new_frame((count, batch, high, TILE, wide, TILE, channels), points)
    spread = [result[..., i, :].permute(0, 3, 1, 2, 4, 5) for i in range(TILE)]
    _outputs(lines.unbind(2), spread, scratch)
    return result.view(count, batch, high * TILE, wide * TILE, channels)


def _outputs(m: tuple[Tensor, ...], out: Sequence[Tensor], scratch: Scratch) -> None:
    """The four results of a row of six points."""
    plus, minus, more, less = scratch.take("halves", (4, *m[0].shape), m[0])
    torch.add(m[1], m[2], out=plus)
    torch.sub(m[1], m[2], out=minus)
    torch.add(m[3], m[4], out=more)
    torch.sub(m[3], m[4], out=less)
    torch.add(plus, m[0], out=out[0])
    out[0].add_(more)
    torch.add(minus, less, alpha=2, out=out[1])
    torch.add(plus, more, alpha=4, out=out[2])
    torch.add(minus, m[5], out=out[3])
    out[3].add_(less, alpha=8)
