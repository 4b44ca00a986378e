"""Decoding a video in tiles of its frames, for frames that do not fit: the same numbers, so no seams.

A tile reaches over its borders as far as the layers to come see. The decoder's first part, up to the first
doubling of rows and columns, runs on the whole frame: its attention sees all of it, and at the latent's
resolution it takes little room. What is left sees 6 cells far at its beginning, and less than one at full
size, where the work and the memory are. Each layer gets just the margin it needs. So a tile comes out as in
the whole frame, but for rounding, and nothing needs to be blended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product

import torch
from torch import Tensor, nn

from ..errors import WanError
from .convolutions import BAND_BYTES_ELSEWHERE
from .vae_2_1 import VAEConfig, WanVAE
from .vae_2_2 import UpStage, VAE22Config, WanVAE22, unpatchify
from .vae_layers import (
    Frames,
    Layer,
    Memory,
    ResidualBlock,
    Upsample,
    causal_conv,
    in_parts,
    run_head,
    streaming,
    to_list,
    to_tensor,
)
from .video_vae import VideoVAE

HEAD_REACH = 1  # points that the last 3x3 convolution sees on each side
SMALLEST_SIDE = 8  # cells: a smaller tile is mostly margin

# What the layers hold at full size in a tile, in frames of the width that they are widest at.
FRAMES_2_1, FRAMES_2_2 = 4.7, 10.2
# On a card also what the next layer remembers, on its way in, and what the last one does, on its way out.
FRAMES_ON_THEIR_WAY = 4
FRAMES_AT_START = 3  # while these are made: times what they take
# Of a band of rows in a convolution, with two bands' results; where one band is all, of so many frames.
SCRATCH_BYTES, SCRATCH_FRAMES = BAND_BYTES_ELSEWHERE * 5 // 3, 5


@dataclass(frozen=True)
class Tile:
    """A part of a frame, in latent cells or in points of a cell; `bottom` and `right` are just outside."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def cells(self) -> int:
        """Its area."""
        return (self.bottom - self.top) * (self.right - self.left)

    def scaled(self, factor: int) -> Tile:
        """The same part where a point is `factor` x `factor` points."""
        return Tile(self.top * factor, self.bottom * factor, self.left * factor, self.right * factor)

    def grown(self, margin: int, frame: Tile) -> Tile:
        """With a margin of points on each side, as far as the frame goes."""
        return Tile(
            max(frame.top, self.top - margin),
            min(frame.bottom, self.bottom + margin),
            max(frame.left, self.left - margin),
            min(frame.right, self.right + margin),
        )

    def within(self, window: Tile) -> tuple[slice, slice]:
        """Its rows and columns in what shows the part `window` of the frame."""
        return (
            slice(self.top - window.top, self.bottom - window.top),
            slice(self.left - window.left, self.right - window.left),
        )


def even_tiles(height: int, width: int, rows: int, columns: int) -> list[Tile]:
    """A frame of height x width cells as rows x columns tiles, whose sides differ by a cell at most."""
    down, across = (
        [size * part // parts for part in range(parts + 1)]
        for size, parts in ((height, rows), (width, columns))
    )
    return [Tile(*sides, *ends) for sides, ends in product(pairwise(down), pairwise(across))]


def plan_tiles(
    config: VAEConfig | VAE22Config, height: int, width: int, budget: int, dtype: torch.dtype
) -> list[Tile]:
    """The cheapest tiles with which decoding frames of height x width cells fits in `budget`.

    budget: bytes above the weights, the causal caches lying on the host. One tile: it fits without tiles.
    Raises WanError where even small tiles do not fit.
    """
    grids = _grids(height, width)
    fitting = [tiles for tiles in grids if tiled_bytes(config, height, width, tiles, dtype) <= budget]
    if not fitting:
        least = least_tiled_bytes(config, height, width, dtype)
        pixels = _pixels(config)
        raise WanError(
            f"VAE: decoding {pixels * width} x {pixels * height} takes {least / 1e9:.2f} GB even in small "
            f"tiles, and {max(0, budget) / 1e9:.2f} GB are left; choose a smaller size"
        )
    frame = Tile(0, height, 0, width)
    return min(fitting, key=lambda tiles: sum(tile.grown(1, frame).cells for tile in tiles))


def least_tiled_bytes(config: VAEConfig | VAE22Config, height: int, width: int, dtype: torch.dtype) -> int:
    """The smallest budget that `plan_tiles` has an answer for."""
    return min(tiled_bytes(config, height, width, tiles, dtype) for tiles in _grids(height, width))


def _grids(height: int, width: int) -> list[list[Tile]]:
    """All that `plan_tiles` chooses from."""
    counts = [range(1, max(1, side // SMALLEST_SIDE) + 1) for side in (height, width)]
    return [even_tiles(height, width, rows, columns) for rows, columns in product(*counts)]


def tiled_bytes(
    config: VAEConfig | VAE22Config,
    height: int,
    width: int,
    tiles: Sequence[Tile],
    dtype: torch.dtype,
    on_card: bool = True,
) -> int:
    """What decoding one latent frame in tiles holds above the weights, the caches lying on the host."""
    frame = Tile(0, height, 0, width)
    largest = max(tile.grown(1, frame).cells for tile in tiles)
    if isinstance(config, VAE22Config):
        held, widest = FRAMES_2_2, config.decoder_dim
        first = config.decoder_dim * config.dim_mult[-1]
    else:
        held, widest = FRAMES_2_1, config.dim
        first = config.dim * config.dim_mult[-1] // 2
    held += FRAMES_ON_THEIR_WAY * on_card
    video = 4 * 3 * _pixels(config) ** 2 * frame.cells
    start = 2 * first * 4 * frame.cells  # two frames at twice the latent's size, which the tiles start from
    full = widest * 8**2 * largest  # a frame of a tile
    elements = max(FRAMES_AT_START * start, start + video + held * full)
    return round(dtype.itemsize * elements) + min(SCRATCH_BYTES, SCRATCH_FRAMES * full * dtype.itemsize)


def decode_tiled(
    vae: VideoVAE, latent: Tensor, tiles: Sequence[Tile], cache_device: torch.device | str | None = None
) -> Iterator[Tensor]:
    """What `vae.decode_chunks(latent)` yields, the tiles taking turns in each latent frame.

    tiles: in latent cells; together they are the frame. cache_device: where causal caches wait for the next
    use; None: on the latent's device. Raises WanError for a wrong shape.
    """
    vae.check_latent(latent)
    decoder, pixels = vae.decoder, vae.stride[1]
    frame = Tile(0, latent.shape[3], 0, latent.shape[4])
    whole, tiled = _parts(decoder.upsamples)
    start = [partial(causal_conv, decoder.conv1), *decoder.middle, *whole]
    plans = [_TilePlan(tile, frame, tiled, decoder.head) for tile in tiles]
    memory, memories = Memory(cache_device), [Memory(cache_device) for _ in tiles]
    for kept in memories:
        kept.scratch = memory.scratch
    for cells in latent.split(1, dim=2):
        x = vae.conv2(cells)
        with streaming(memory):
            frames = in_parts(start, to_list(x), memory)
        video: Tensor | None = None
        for plan, kept in zip(plans, memories, strict=True):
            with streaming(kept):
                part = to_tensor(plan.decode(frames, kept))
            part = unpatchify(part) if isinstance(vae, WanVAE22) else part
            if video is None:
                video = part.new_empty(*part.shape[:3], frame.bottom * pixels, frame.right * pixels)
            rows, columns = plan.tile.scaled(pixels).within(frame)
            video[..., rows, columns] = part
        yield video


def _pixels(config: VAEConfig | VAE22Config) -> int:
    """Rows, or columns, of a cell."""
    return (WanVAE22 if isinstance(config, VAE22Config) else WanVAE).stride[1]


class _TilePlan:
    """One tile's way through the layers that are left after the whole frame's."""

    def __init__(self, tile: Tile, frame: Tile, layers: Sequence[nn.Module], head: nn.Sequential) -> None:
        self.tile = tile
        scale = 2  # points per cell
        reaches = [*_reaches(layers), HEAD_REACH]
        self.first = window = tile.scaled(scale).grown(reaches[0], frame.scaled(scale))
        self.layers: list[Layer] = []
        for layer, reach in zip(layers, reaches[1:], strict=True):
            factor = _factor(layer)
            scale *= factor
            needed = tile.scaled(scale).grown(reach, frame.scaled(scale))
            self.layers += layer.parts() if isinstance(layer, Upsample) else [layer]
            self.layers.append(partial(_cut, needed.within(window.scaled(factor))))
            window = needed
        self.layers += [partial(run_head, head), partial(_cut, tile.scaled(scale).within(window))]

    def decode(self, frames: Frames, memory: Memory) -> Frames:
        """Frames of the tile, of the whole frame's `frames`, which stay as they are."""
        part = (
            slice(None),
            slice(self.first.top, self.first.bottom),
            slice(self.first.left, self.first.right),
        )
        return in_parts(
            self.layers, [x[part].clone(memory_format=torch.contiguous_format) for x in frames], memory
        )


def _cut(part: tuple[slice, slice], x: Frames, memory: Memory | None) -> Frames:  # noqa: ARG001 (a layer)
    rows, columns = part
    return [frame[:, rows, columns].contiguous() for frame in x]


def _parts(layers: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
    """The decoder's layers up to the first that doubles rows and columns, and the others."""
    first = next(index for index, layer in enumerate(layers) if _factor(layer) == 2)
    return layers[: first + 1], layers[first + 1 :]


def _factor(layer: nn.Module) -> int:
    """How many rows and columns a layer makes of one."""
    doubles = layer.has_shortcut if isinstance(layer, UpStage) else isinstance(layer, Upsample)
    return 2 if doubles else 1


def _reaches(layers: Sequence[nn.Module], after: int = HEAD_REACH) -> list[int]:
    """How many points beyond a tile each layer's input must go, if the last one's output goes `after`."""
    reaches: list[int] = []
    for layer in reversed(layers):
        if isinstance(layer, UpStage):
            after = _reaches(layer.upsamples, after)[0]
        elif isinstance(layer, Upsample):
            after = (after + 2) // 2  # a point more, at twice the size
        elif isinstance(layer, ResidualBlock):
            after += 2
        else:
            raise TypeError(f"how far {type(layer).__name__} sees is not known")
        reaches.append(after)
    return reaches[::-1]
