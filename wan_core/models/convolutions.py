"""The VAEs' convolutions over a stream of frames, each (B, H, W, C), and which kernel does them.

All work in bands of rows, through a buffer that holds a band's zero-padded input, so that no frame is ever
padded, joined or upsampled as a whole. A band is written after the next one has been read: results may take
the place of the frames they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import cudnn

from . import winograd
from .layers import ONEDNN
from .winograd import Scratch, new_frame

# Of a band's padded input: small against a frame, large against a kernel's start. For a GPU the host starts
# some 20 kernels a band, in 0.1 ms; 16 MB, 28,000 points of 96 channels in 16 bits, would be done as soon.
BAND_BYTES, BAND_BYTES_ELSEWHERE = 2**24, 2**26
# Winograd's products of a band are matrices of this many rows; with half of them they take 1.3 times as long.
BAND_TILES = 256
# Below these Winograd's transforms cost more than the products they save.
WINOGRAD_TILES = 64
WINOGRAD_CHANNELS = 48
KERNEL_BYTES = 2**24  # of Winograd's transformed weights at one time


def causal(seen: list[Tensor], count: int, weight: Tensor, bias: Tensor | None, scratch: Scratch) -> None:
    """Turn the last `count` frames seen into results: `seen[:count]` after it, then what the next need.

    `weight` (Cout, Cin, 3, 3 or 1, 3 or 1). `seen` is 0 to 2 frames of before and the `count` new ones; what
    lacks of before is zeros. Its tensors belong to this function: results overwrite those not needed again.
    """
    inputs: list[Tensor | None] = [None] * (count + 2 - len(seen)) + seen
    seen[:] = seen[-2:]
    at_once = 2 if _by_winograd(inputs[-1], weight) else count
    results = []
    for start in range(0, count, at_once):
        n = min(at_once, count - start)
        places = [_place(frame, inputs[-1], weight) for frame in inputs[start : start + n]]
        _convolve(inputs[start : start + n + 2], places, weight, bias, scratch)
        results += places
    seen[:0] = results


def single(frames: list[Tensor], weight: Tensor, bias: Tensor | None, scratch: Scratch) -> Tensor:
    """One result of three frames, in new memory."""
    place = _place(None, frames[0], weight)
    _convolve(list(frames), [place], weight, bias, scratch)
    return place


def upsampled(frame: Tensor, weight: Tensor, bias: Tensor | None, scratch: Scratch) -> Tensor:
    """Rows and columns doubled by repeating, then a 3x3 convolution: `weight` (Cout, Cin, 3, 3).

    Of nine points under the kernel two or four are the same, so each of the four phases of the result is a
    2x2 convolution of the frame: 4/9 of the products.
    """
    batch, height, width, _ = frame.shape
    result = new_frame((batch, 2 * height, 2 * width, weight.shape[0]), frame)
    phases = {(p, q): _phase(_phase(weight, p, 2), q, 3) for p in (0, 1) for q in (0, 1)}
    for rows in _bands(height, _band_rows(frame, 1)):
        band = scratch.take("padded", (batch, _length(rows) + 2, width + 2, frame.shape[3]), frame)
        _pad(band, rows, height, width, lambda inside, source: inside.copy_(frame[:, source]))
        for (p, q), kernel in phases.items():
            part = band[:, p : p + _length(rows) + 1, q : q + width + 1]
            result[:, 2 * rows.start + p : 2 * rows.stop : 2, q::2] = _last(
                F.conv2d(_first(part), kernel, bias)
            )
    return result


def downsampled(frame: Tensor, weight: Tensor, bias: Tensor | None, scratch: Scratch) -> Tensor:
    """A zero row below and a column to the right, then a 3x3 convolution of stride 2."""
    batch, height, width, channels = frame.shape
    result = new_frame((batch, height // 2, width // 2, weight.shape[0]), frame)
    for rows in _bands(height // 2, _band_rows(frame, 2)):
        band = scratch.take("padded", (batch, 2 * _length(rows) + 1, width + 1, channels), frame)
        source = frame[:, 2 * rows.start : 2 * rows.stop + 1]
        band[:, source.shape[1] :] = 0
        band[:, :, width:] = 0
        band[:, : source.shape[1], :width] = source
        result[:, rows] = _last(F.conv2d(_first(band), weight, bias, stride=2))
    return result


def _convolve(
    inputs: list[Tensor | None], places: list[Tensor], weight: Tensor, bias: Tensor | None, scratch: Scratch
) -> None:
    """Inputs, two more than places, to results in `places`, which may be the first of the inputs."""
    while len(places) == 1 and inputs[0] is None:  # a tap that sees zeros alone
        inputs, weight = inputs[1:], weight[:, :, 1:]
    like = inputs[-1]
    frames = [like.new_zeros(1).expand(like.shape) if frame is None else frame for frame in inputs]
    by_bands = _winograd_bands if _by_winograd(like, weight) else _direct_bands
    written = None
    for rows, results in by_bands(frames, weight, bias, scratch):
        if written is not None:
            _write(places, *written)
        written = rows, results
    _write(places, *written)


def _by_winograd(frame: Tensor, weight: Tensor) -> bool:
    """Whether Winograd is the fastest: 3x3 kernels of many channels on a CPU, where it halves the time.

    A GPU's own kernels are faster still, and 16-bit numbers would lose too much in the transforms.
    """
    _, height, width, channels = frame.shape
    return (
        frame.device.type == "cpu"
        and frame.dtype == torch.float32
        and weight.shape[-1] == 3
        and min(weight.shape[0], channels) >= WINOGRAD_CHANNELS
        and (height * width) // winograd.TILE**2 >= WINOGRAD_TILES
    )


def _winograd_bands(
    frames: list[Tensor], weight: Tensor, bias: Tensor | None, scratch: Scratch
) -> Iterator[tuple[slice, Tensor]]:
    batch, height, width, channels = frames[0].shape
    wide = -(-width // winograd.TILE)
    high = max(1, min(BAND_TILES // (batch * wide), -(-height // winograd.TILE)))
    group = max(1, KERNEL_BYTES // (4 * winograd.POINTS * channels))
    bands = _bands(height, winograd.TILE * high)
    kernel = winograd.Kernel(weight, len(frames), group, len(bands) > 1, scratch)
    for rows in bands:
        shape = (batch, -(-_length(rows) // winograd.TILE), wide)

        def padded(out: Tensor, step: int, rows: slice = rows) -> None:
            def fill(inside: Tensor, source: slice) -> None:
                parts = [frame[:, source] for frame in frames]
                winograd.mix(parts, step, inside) if len(frames) == 4 else inside.copy_(parts[step])

            _pad(out, rows, height, width, fill)

        result = winograd.convolve(len(frames), padded, kernel, shape, scratch)
        yield rows, result if bias is None else result.add_(bias)


def _direct_bands(
    frames: list[Tensor], weight: Tensor, bias: Tensor | None, scratch: Scratch
) -> Iterator[tuple[slice, Tensor]]:
    batch, height, width, channels = frames[0].shape
    edge = weight.shape[-1] // 2
    if frames[0].device.type != "cpu":  # as the bands are; else each would have them turned
        weight = weight.contiguous(memory_format=torch.channels_last_3d)
    for rows in _bands(height, _band_rows(frames[0], len(frames))):
        shape = (batch, len(frames), _length(rows) + 2 * edge, width + 2 * edge, channels)
        band = scratch.take("padded", shape, frames[0])
        for index, frame in enumerate(frames):
            _pad(
                band[:, index],
                rows,
                height,
                width,
                lambda inside, source, frame=frame: inside.copy_(frame[:, source]),
                edge,
            )
        yield rows, _last(_conv3d(_first(band), weight, bias)).transpose(0, 1)


def _conv3d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv3d, by the library that it sometimes leaves aside.

    On a CPU it judges bands of few channels too small for oneDNN: 7 times the time, and 150 MB. On a GPU,
    torch 2.9 with a cuDNN before 9.15 writes 16-bit input out 27 times instead of asking it
    (github.com/pytorch/pytorch/issues/166643).
    """
    around, apart = (0, 0, 0), (1, 1, 1)
    if ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32:
        return torch.mkldnn_convolution(x, weight, bias, around, apart, apart, 1)
    if _asks_cudnn(x):
        how = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
        out = torch.cudnn_convolution(x, weight, around, apart, apart, 1, *how)
        return out if bias is None else out.add_(bias.view(-1, 1, 1, 1))
    return F.conv3d(x, weight, bias)


def _asks_cudnn(x: Tensor) -> bool:
    """Whether cuDNN is asked by name, which a ROCm device has not."""
    is_16_bit = x.dtype in (torch.bfloat16, torch.float16)
    return is_16_bit and x.device.type == "cuda" and torch.version.cuda is not None and cudnn.enabled


def _pad(
    out: Tensor,
    rows: slice,
    height: int,
    width: int,
    fill: Callable[[Tensor, slice], object],
    edge: int = 1,
) -> None:
    """`fill` the part of `out` (B, rows, columns, C) that lies in the frame, zero the rest."""
    top, left = rows.start - edge, edge
    source = slice(max(0, top), min(height, top + out.shape[1]))
    inside = slice(source.start - top, source.stop - top)
    out[:, : inside.start] = 0
    out[:, inside.stop :] = 0
    out[:, :, :left] = 0
    out[:, :, left + width :] = 0
    fill(out[:, inside, left : left + width], source)


def _write(places: list[Tensor], rows: slice, results: Tensor) -> None:
    width = places[0].shape[2]
    for place, result in zip(places, results, strict=True):
        place[:, rows] = result[:, : _length(rows), :width]


def _place(frame: Tensor | None, like: Tensor, weight: Tensor) -> Tensor:
    """Where a result goes: over a frame that is not needed again, if it is as wide."""
    if frame is not None and weight.shape[0] == weight.shape[1]:
        return frame
    return new_frame((*like.shape[:3], weight.shape[0]), like)


def _phase(weight: Tensor, phase: int, dim: int) -> Tensor:
    """Three taps over a repeated row as two over the row itself, for its first or second copy."""
    first, second, third = weight.unbind(dim)
    taps = (first, second + third) if phase == 0 else (first + second, third)
    return torch.stack(taps, dim)


def _bands(height: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, height)) for start in range(0, height, rows)]


def _band_rows(frame: Tensor, rows_each: int) -> int:
    """Rows of results per band, if each reads `rows_each` rows of a frame."""
    size = BAND_BYTES if frame.device.type == "cpu" else BAND_BYTES_ELSEWHERE
    return max(1, size // (rows_each * frame[:, 0].numel() * frame.element_size()))


def _length(rows: slice) -> int:
    return rows.stop - rows.start


def _first(x: Tensor) -> Tensor:
    """Channels first, as torch's convolutions want it; the memory stays as it is."""
    return x.movedim(-1, 1)


def _last(x: Tensor) -> Tensor:
    return x.movedim(1, -1)
