"""What both Wan VAEs do alike: video to raw latents and back, in chunks with a causal memory, or whole.

Chunks are 1, 4, 4, ... frames of video in, and one latent frame at a time out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from ..errors import WanError
from .vae_layers import Maker, Memory


class Config(Protocol):
    """What the shared code reads of either VAE's sizes."""

    @property
    def latent_channels(self) -> int: ...


class VideoVAE(nn.Module):
    """Video (B, 3, T, H, W) in -1..1 to raw latents (B, z, F, h, w), F = (T-1)//4+1, and back.

    It computes in the dtype of what it is given, whatever that of its weights; the released pipelines give
    it float32. Attribute names are the keys of the released files.
    """

    words: ClassVar[str]  # as messages name it
    stride: ClassVar[tuple[int, int, int]]  # frames, rows, columns of video per latent cell
    size_multiple: ClassVar[int]  # of the height and width of a video to encode

    def __init__(self, config: Config, encoder: nn.Module, decoder: nn.Module, make: Maker) -> None:
        super().__init__()
        z = config.latent_channels
        self.config = config
        self.encoder = encoder
        self.conv1 = make.conv3d(2 * z, 2 * z, 1)
        self.conv2 = make.conv3d(z, z, 1)
        self.decoder = decoder

    def encode(self, video: Tensor, cache_device: torch.device | str | None = None) -> Tensor:
        """Raw latent mean of a video; frames past the last full group of 4 are dropped, as released.

        cache_device: as of `decode_chunks`. Raises WanError for a wrong shape.
        """
        return self.encode_chunks(self._encoder_chunks(video), cache_device)

    def encode_chunks(
        self, chunks: Iterable[Tensor], cache_device: torch.device | str | None = None
    ) -> Tensor:
        """`encode` of a video that comes in chunks of 1, 4, 4, ... frames, (B, 3, 1 or 4, H, W) each.

        None of them is kept. Raises WanError for a wrong shape.
        """
        memory = Memory(cache_device)
        features = []
        for chunk in chunks:
            self._check_video(chunk)
            features.append(self.encoder(chunk, memory))
        return self.latent_mean(torch.cat(features, dim=2))

    def decode(self, latent: Tensor) -> Tensor:
        """Video (B, 3, 4(F-1)+1, H, W) of a raw latent, not clamped to -1..1.

        Raises WanError for a wrong shape.
        """
        return torch.cat(list(self.decode_chunks(latent)), dim=2)

    def decode_chunks(
        self, latent: Tensor, cache_device: torch.device | str | None = None
    ) -> Iterator[Tensor]:
        """The decoded video a latent frame at a time: 1 frame, then 4 each, (B, 3, 1 or 4, H, W).

        What it holds between two of them does not grow. On `cache_device`, such as "cpu" beside a GPU, most
        of that lies out of the way: the same numbers in less memory.
        """
        self.check_latent(latent)
        memory = Memory(cache_device)
        for frame in latent.split(1, dim=2):
            yield self.decoder(self.conv2(frame), memory)

    def encode_whole(self, video: Tensor) -> Tensor:
        """`encode` of 4n+1 frames without chunks, for training: same numbers, more memory, one graph."""
        return self.latent_mean(self.encoder(video, None))

    def decode_whole(self, latent: Tensor) -> Tensor:
        """`decode` without chunks, for training: same numbers, more memory, one graph."""
        return self.decoder(self.conv2(latent), None)

    def latent_mean(self, features: Tensor) -> Tensor:
        """The mean half of the encoder's (mean, log variance) features; nothing is sampled."""
        return self.conv1(features).chunk(2, dim=1)[0]

    def check_latent(self, latent: Tensor) -> None:
        """Refuse what is no latent (B, z, F, h, w) of this VAE. Raises WanError."""
        self._check("latent", latent, self.config.latent_channels)

    def _encoder_chunks(self, video: Tensor) -> Iterator[Tensor]:
        self._check_video(video)
        yield video[:, :, :1]
        group = self.stride[0]
        for start in range(1, video.shape[2] - group + 1, group):
            yield video[:, :, start : start + group]

    def _check_video(self, video: Tensor) -> None:
        self._check("video", video, 3)
        height, width = video.shape[-2:]
        multiple = self.size_multiple
        if height % multiple or width % multiple:
            raise WanError(
                f"video: {width} x {height} pixels, and {self.words} encodes multiples of {multiple}; use "
                f"{_nearest(width, multiple)} x {_nearest(height, multiple)}"
            )

    def _check(self, what: str, tensor: Tensor, channels: int) -> None:
        if tensor.ndim != 5 or tensor.shape[1] != channels or 0 in tensor.shape:
            raise WanError(
                f"{what}: {self.words} takes (batch, {channels}, frames, height, width), got "
                f"{tuple(tensor.shape)}; use the VAE that belongs to the model"
            )


def to_frames(video: Tensor) -> Tensor:
    """One decoded video or chunk (1, 3, T, H, W) in -1..1 to frames (T, H, W, 3) in 0..1, clamped."""
    return video[0].permute(1, 2, 3, 0).add(1.0).div(2.0).clamp(0.0, 1.0)


def _nearest(size: int, multiple: int) -> int:
    return max(multiple, round(size / multiple) * multiple)
