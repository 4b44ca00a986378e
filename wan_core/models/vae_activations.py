"""What a VAE holds beside its weights while it works, in bytes, counted from its sizes.

What its layers remember between chunks, and the most that one layer reads and makes: the steps of
`vae_layers` on a GPU, followed with numbers for frames. On a CPU it is somewhat more.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from .convolutions import BAND_BYTES_ELSEWHERE
from .vae_2_1 import VAEConfig
from .vae_2_2 import PATCH, PATCH_CHANNELS, VAE22Config
from .vae_layers import LARGE_FRAME, NORM_ELEMENTS_ELSEWHERE

CHUNK = 4  # frames of video


def decode_bytes(
    config: VAEConfig | VAE22Config,
    height: int,
    width: int,
    dtype: torch.dtype,
    caches_on_host: bool = False,
) -> int:
    """The most that `decode_chunks` holds at once; `height` and `width` of the latent, in cells."""
    newer = isinstance(config, VAE22Config)
    dim = config.decoder_dim if newer else config.dim
    dims = [dim * mult for mult in (config.dim_mult[-1], *config.dim_mult[::-1])]
    temporal = config.temporal_downsample[::-1]
    walk = _Walk(1, height * width, config.latent_channels, dtype.itemsize)
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
) -> int:
    """The most that encoding a chunk holds at once; `height` and `width` of the video, in pixels."""
    newer = isinstance(config, VAE22Config)
    dims = [config.dim * mult for mult in (1, *config.dim_mult)]
    points, channels = (height * width // PATCH**2, PATCH_CHANNELS) if newer else (height * width, 3)
    walk = _Walk(CHUNK, points, channels, dtype.itemsize)
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

    def __init__(self, frames: int, points: int, channels: int, size: int) -> None:
        self.frames, self.points, self.channels, self.size = frames, points, channels, size
        self.chunk = frames  # frames that go through in all
        self.waiting = 0  # bytes of frames that lie by until their turn
        self.remembered: list[int] = []  # bytes, by layer
        self.work = self.band = 0

    def bytes(self, caches_on_host: bool) -> int:
        """The most at once. With caches on the host: a layer's own, the next one's and the last one's, which
        are on their way in and out.
        """
        return self.work + self.band + (3 * max(self.remembered) if caches_on_host else sum(self.remembered))

    def frame(self, channels: int) -> int:
        """Bytes of a frame."""
        return channels * self.points * self.size

    def split(self, channels: int = 0, waits: bool = True) -> None:
        """Large frames go on one by one."""
        if self.frame(channels or self.channels) >= LARGE_FRAME:
            self.waiting += (self.frames - 1) * self.frame(self.channels) if waits else 0
            self.frames = 1

    def convolution(self, channels: int, held: int = 0) -> None:
        """A norm and a causal convolution, whose result takes the place of what it remembered, if it fits."""
        result = self.frames * self.frame(channels)
        made = 0 if channels == self.channels else result
        self._holds(held + self.frames * self.frame(self.channels) + made)
        self._band((self.frames + 2) * self.frame(self.channels), result)
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
        self._holds((self.frames + 5) * self.frame(self.channels))
        self.block(self.channels, may_split=False)

    def upsample(self, channels: int, temporal: bool, held: int, may_split: bool) -> None:
        """Twice the frames, then four times the points."""
        if temporal:
            self._holds(held + 3 * self.frames * self.frame(self.channels))
            self._band(
                (self.frames + 2) * self.frame(self.channels), 2 * self.frames * self.frame(self.channels)
            )
            self.remembered.append(2 * self.frame(self.channels))
            self.frames *= 2
            self.chunk *= 2
        if may_split:
            self.split()
        result = self.frames * 4 * self.frame(channels)
        phases = 16 * self.channels * channels * self.size
        self._holds(held + self.frames * self.frame(self.channels) + result + phases)
        self._band(self.frame(self.channels), self.frame(channels))
        self.points *= 4
        self.channels = channels

    def downsample(self, temporal: bool, held: int) -> None:
        """A fourth of the points; all frames of a chunk come together again; then half of them."""
        self._holds(
            held + self.frames * self.frame(self.channels) + self.chunk * self.frame(self.channels) // 4
        )
        self.points //= 4
        self.frames = self.chunk
        if temporal:
            self._holds(held + 3 * self.frames * self.frame(self.channels) // 2)
            self.remembered.append(self.frame(self.channels))
            self.chunk //= 2
            self.frames = self.chunk

    def _holds(self, bytes_: int) -> None:
        normed = min(self.channels * self.points, NORM_ELEMENTS_ELSEWHERE)
        copies = normed * (4 if self.size == 4 else 8 + self.size)
        self.work = max(self.work, self.waiting + bytes_ + copies)

    def _band(self, reads: int, makes: int) -> None:
        """A band's input, its results, and those of the band before, which wait until it has been read."""
        bands = max(1.0, reads / BAND_BYTES_ELSEWHERE)
        self.band = max(self.band, round((reads + makes * min(2.0, bands)) / bands))
