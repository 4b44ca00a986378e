"""What a VAE holds beside its weights while it works, in bytes, counted from its sizes.

What its layers remember between chunks, and the most that one layer reads and makes: the steps of
`vae_layers`, followed with numbers for frames. On a CPU Winograd's buffers come to it.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from .convolutions import (
    BAND_BYTES,
    BAND_BYTES_ELSEWHERE,
    BAND_TILES,
    KERNEL_BYTES,
    WINOGRAD_CHANNELS,
    WINOGRAD_TILES,
)
from .vae_2_1 import VAEConfig
from .vae_2_2 import PATCH, PATCH_CHANNELS, VAE22Config
from .vae_layers import LARGE_FRAME, NORM_ELEMENTS, NORM_ELEMENTS_ELSEWHERE
from .winograd import POINTS, TILE

CHUNK = 4  # frames of video


def decode_bytes(
    config: VAEConfig | VAE22Config,
    height: int,
    width: int,
    dtype: torch.dtype,
    caches_on_host: bool = False,
    device_type: str = "cuda",
    cast: bool = False,
) -> int:
    """The most that `decode_chunks` holds at once; `height` and `width` of the latent, in cells.

    device_type: "cpu" or another; cast: the weights are of another type than `dtype`.
    """
    newer = isinstance(config, VAE22Config)
    dim = config.decoder_dim if newer else config.dim
    dims = [dim * mult for mult in (config.dim_mult[-1], *config.dim_mult[::-1])]
    temporal = config.temporal_downsample[::-1]
    walk = _Walk(1, height * width, config.latent_channels, dtype.itemsize, device_type == "cpu", cast)
    walk.convolution(dims[0])
    walk.middle()
    for stage, (before, after) in enumerate(pairwise(dims)):
        last = stage == len(temporal)
        walk.split()
        held = walk.frames * walk.frame(before if newer else 0)  # a stage's shortcut
        for block in range(config.num_res_blocks + 1):
            walk.block(after, held if block else 0, may_split=not newer)
        if not last:
            walk.upsample(after if newer else after // 2, temporal[stage], held, may_split=not newer)
    walk.convolution(PATCH_CHANNELS if newer else 3)
    return walk.bytes(caches_on_host)


def encode_bytes(
    config: VAEConfig | VAE22Config,
    height: int,
    width: int,
    dtype: torch.dtype,
    caches_on_host: bool = False,
    device_type: str = "cuda",
    cast: bool = False,
) -> int:
    """The most that encoding a chunk holds at once; `height` and `width` of the video, in pixels.

    device_type, cast: as of `decode_bytes`.
    """
    newer = isinstance(config, VAE22Config)
    dims = [config.dim * mult for mult in (1, *config.dim_mult)]
    points, channels = (height * width // PATCH**2, PATCH_CHANNELS) if newer else (height * width, 3)
    walk = _Walk(CHUNK, points, channels, dtype.itemsize, device_type == "cpu", cast)
    walk.split(dims[0], waits=False)
    walk.convolution(dims[0])
    for stage, (_, after) in enumerate(pairwise(dims)):
        held = walk.frames * walk.frame(after) // 4 if newer else 0  # a stage's shortcut
        for _ in range(config.num_res_blocks):
            walk.block(after, held, may_split=False)
        if stage < len(config.temporal_downsample):
            walk.downsample(config.temporal_downsample[stage], held)
    walk.middle()
    walk.convolution(2 * config.latent_channels)
    return walk.bytes(caches_on_host)


class _Walk:
    """Some frames on their way through the layers: how many at once, how large, and the most there was."""

    def __init__(self, frames: int, points: int, channels: int, size: int, on_cpu: bool, cast: bool) -> None:
        self.frames, self.points, self.channels, self.size = frames, points, channels, size
        self.on_cpu, self.cast = on_cpu, cast
        self.chunk = frames  # frames that go through in all
        self.waiting = 0  # bytes of frames that lie by until their turn
        self.remembered: list[int] = []  # bytes, by layer
        self.work = self.band = 0
        self.scratch: dict[str, int] = {}  # Winograd's; bytes, by name
        self.before = 0  # the most at once until scratch was let go

    def bytes(self, caches_on_host: bool) -> int:
        """The most at once. With caches on the host: a layer's own, the next one's and the last one's, which
        are on their way in and out.
        """
        return self._most() + (3 * max(self.remembered) if caches_on_host else sum(self.remembered))

    def _most(self) -> int:
        return max(self.before, self.work + self.band + sum(self.scratch.values()))

    def frame(self, channels: int) -> int:
        """Bytes of a frame."""
        return channels * self.points * self.size

    def split(self, channels: int = 0, waits: bool = True) -> None:
        """Large frames go on one by one; on a CPU two by two, and the scratch of smaller ones is let go."""
        if self.frame(channels or self.channels) >= LARGE_FRAME:
            few = min(2 if self.on_cpu else 1, self.frames)
            self.waiting += (self.frames - few) * self.frame(self.channels) if waits else 0
            self.frames = few
            if self.on_cpu:
                self.before, self.work, self.band, self.scratch = self._most(), 0, 0, {}

    def convolution(self, channels: int, held: int = 0) -> None:
        """A norm and a causal convolution, whose result takes the place of what it remembered, if it fits."""
        result = self.frames * self.frame(channels)
        made = 0 if channels == self.channels else result
        weights, buffers = 27 * self.channels * channels, 0
        if self._by_winograd(channels):
            buffers = self._winograd(channels)
        else:
            self._band((self.frames + 2) * self.frame(self.channels), result)
        self._holds(held + self.frames * self.frame(self.channels) + made + buffers, weights)
        self.remembered.append(2 * self.frame(self.channels))
        self.channels = channels

    def block(self, channels: int, held: int = 0, may_split: bool = True) -> None:
        """A residual block."""
        if may_split:
            self.split()
        before = self.channels
        x = held + self.frames * self.frame(before)
        self.convolution(channels, x)
        self.convolution(channels, x)
        if before != channels:
            self._holds(x + (self.frames + 1) * self.frame(channels))

    def middle(self) -> None:
        """A residual block, attention with its queries, keys, values and outcome, a residual block."""
        self.block(self.channels, may_split=False)
        self._holds((self.frames + 5) * self.frame(self.channels), 3 * self.channels**2)
        self.block(self.channels, may_split=False)

    def upsample(self, channels: int, temporal: bool, held: int, may_split: bool) -> None:
        """Twice the frames, then four times the points."""
        if temporal:
            self._holds(held + 3 * self.frames * self.frame(self.channels), 6 * self.channels**2)
            self._band(
                (self.frames + 2) * self.frame(self.channels), 2 * self.frames * self.frame(self.channels)
            )
            self.remembered.append(2 * self.frame(self.channels))
            self.frames *= 2
            self.chunk *= 2
        if may_split:
            self.split()
        result = self.frames * 4 * self.frame(channels)
        kernel = self.channels * channels
        phases = 16 * kernel * self.size
        self._holds(held + self.frames * self.frame(self.channels) + result + phases, 9 * kernel)
        self._band(self.frame(self.channels), self.frame(channels))
        self.points *= 4
        self.channels = channels

    def downsample(self, temporal: bool, held: int) -> None:
        """A fourth of the points; all frames of a chunk come together again; then half of them."""
        self._holds(
            held + self.frames * self.frame(self.channels) + self.chunk * self.frame(self.channels) // 4,
            9 * self.channels**2,
        )
        self.points //= 4
        self.frames = self.chunk
        if temporal:
            self._holds(held + 3 * self.frames * self.frame(self.channels) // 2, 3 * self.channels**2)
            self.remembered.append(self.frame(self.channels))
            self.chunk //= 2
            self.frames = self.chunk

    def _holds(self, bytes_: int, weights: int = 0) -> None:
        """So many bytes, beside them a norm's copies before or so many cast weights."""
        normed = min(self.channels * self.points, NORM_ELEMENTS if self.on_cpu else NORM_ELEMENTS_ELSEWHERE)
        copies = normed * (4 if self.size == 4 else 8 + self.size)
        made = weights * self.size if self.cast else 0
        self.work = max(self.work, self.waiting + bytes_ + max(copies, made))

    def _band(self, reads: int, makes: int) -> None:
        """A band's input, its results, and those of the band before, which wait until it has been read."""
        bands = max(1.0, reads / (BAND_BYTES if self.on_cpu else BAND_BYTES_ELSEWHERE))
        self.band = max(self.band, round((reads + makes * min(2.0, bands)) / bands))

    def _by_winograd(self, channels: int) -> bool:
        """Whether a 3 x 3 x 3 convolution is, by the rule of `convolutions`."""
        wide = min(channels, self.channels) >= WINOGRAD_CHANNELS
        large = self.points // TILE**2 >= WINOGRAD_TILES
        return self.on_cpu and self.size == torch.float32.itemsize and wide and large

    def _winograd(self, channels: int) -> int:
        """Notes the scratch of a convolution, by the names in `winograd`; returns what else that takes."""
        tiles, at_once = self.points // TILE**2, min(self.frames, 2)
        band, several = min(tiles, BAND_TILES), tiles > BAND_TILES
        read, made = band * self.channels * self.size, band * channels * self.size * at_once
        points = POINTS * self.channels * self.size  # of one of Cout
        group = channels if several else max(1, min(channels, KERNEL_BYTES // points))
        scratch = {
            "padded": TILE**2 * read,
            "lines": 6 * TILE * read,
            "tiles": max(POINTS * read, 6 * TILE * made),
            "halves": max(12 * read, 24 * made),
            "summed": POINTS * made,
            "products": POINTS * band * group * self.size,
            "kernel": 0 if several else group * points,
        }
        self.scratch |= {name: max(size, self.scratch.get(name, 0)) for name, size in scratch.items()}
        kept = (4 if at_once == 2 else 3) * channels * points if several else 0  # all points of all steps
        return kept + (1 + several) * TILE**2 * made
