"""The Wan2.1 video VAE, which Wan2.2's A14B models use: 16 latent channels, 4 x 8 x 8 compression.

Source: the released `wan/modules/vae2_1.py` and `Wan2.1_VAE.pth`; state-dict keys are the released ones.
Video goes through in chunks with a causal memory (1, 4, 4, ... frames in; one latent frame at a time out).
Every layer treats "the chunk that starts the clip" and "a later chunk" by the same code, so a clip pushed
through whole and a clip pushed through in chunks give the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import WanError
from .layers import casting_ops

VAE_STRIDE = (4, 8, 8)  # frames, rows, columns per latent cell

# Per-channel statistics of the released VAE's latents; the transformers work on (raw - mean) / std.
LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of a Wan2.1 VAE; the defaults are the released file's."""

    dim: int = 96
    latent_channels: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)


class Memory(dict[nn.Module, Tensor]):
    """What each causal layer remembers between two chunks of one clip: its last one or two input frames."""


def normalize_latent(raw: Tensor) -> Tensor:
    """Raw VAE latent (B, 16, F, h, w) to the unit-scale latent the transformers work on."""
    mean, std = _latent_statistics(raw)
    return (raw - mean) / std


def denormalize_latent(latent: Tensor) -> Tensor:
    """The transformers' latent (B, 16, F, h, w) back to what the VAE decodes."""
    mean, std = _latent_statistics(latent)
    return latent * std + mean


def to_frames(video: Tensor) -> Tensor:
    """One decoded video or chunk (1, 3, T, H, W) in -1..1 to frames (T, H, W, 3) in 0..1, clamped."""
    return video[0].permute(1, 2, 3, 0).add(1.0).div(2.0).clamp(0.0, 1.0)


class WanVAE(nn.Module):
    """Video (B, 3, T, H, W) in -1..1 to raw latents (B, 16, (T-1)//4+1, H/8, W/8), and back.

    It computes in the dtype of what it is given, whatever that of its weights; the released pipelines give
    it float32.

    Args:
        config: the network's sizes
        ops: namespace of layer classes that cast their weights to their input's dtype (torch.nn is adapted)
        device, dtype: of the weights
    """

    def __init__(
        self,
        config: VAEConfig,
        ops: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        make = _Maker(casting_ops(ops), device, dtype)
        z = config.latent_channels
        self.encoder = Encoder(config, make)
        self.conv1 = make.conv3d(2 * z, 2 * z, 1)
        self.conv2 = make.conv3d(z, z, 1)
        self.decoder = Decoder(config, make)

    def encode(self, video: Tensor) -> Tensor:
        """Raw latent mean of a video; frames past the last full group of 4 are dropped, as released."""
        _check_shape("video", video, 3)
        memory = Memory()
        chunks = [self.encoder(chunk, memory) for chunk in _encoder_chunks(video)]
        return self.latent_mean(torch.cat(chunks, dim=2))

    def decode(self, latent: Tensor) -> Tensor:
        """Video (B, 3, 4(F-1)+1, 8h, 8w) of a raw latent, not clamped to -1..1."""
        return torch.cat(list(self.decode_chunks(latent)), dim=2)

    def decode_chunks(self, latent: Tensor) -> Iterator[Tensor]:
        """The decoded video a latent frame at a time: 1 frame, then 4 each, (B, 3, 1 or 4, 8h, 8w)."""
        _check_shape("latent", latent, self.config.latent_channels)
        memory = Memory()
        latent = self.conv2(latent)
        for index in range(latent.shape[2]):
            yield self.decoder(latent[:, :, index : index + 1], memory)

    def encode_whole(self, video: Tensor) -> Tensor:
        """`encode` without chunks, for training: same numbers, more memory, differentiable in one graph."""
        return self.latent_mean(self.encoder(video, None))

    def decode_whole(self, latent: Tensor) -> Tensor:
        """`decode` without chunks, for training: same numbers, more memory, differentiable in one graph."""
        return self.decoder(self.conv2(latent), None)

    def latent_mean(self, features: Tensor) -> Tensor:
        """The mean half of the encoder's (mean, log variance) features; nothing is sampled."""
        return self.conv1(features).chunk(2, dim=1)[0]


class Encoder(nn.Module):
    """(B, 3, T, H, W) to (B, 32, t, H/8, W/8) features; attribute names are checkpoint keys."""

    def __init__(self, config: VAEConfig, make: _Maker) -> None:
        super().__init__()
        dims = [config.dim * m for m in (1, *config.dim_mult)]
        self.conv1 = make.conv3d(3, dims[0], 3)
        layers: list[nn.Module] = []
        for stage, (dim_in, dim_out) in enumerate(pairwise(dims)):
            for block in range(config.num_res_blocks):
                layers.append(ResidualBlock(dim_in if block == 0 else dim_out, dim_out, make))
            if stage < len(config.dim_mult) - 1:
                layers.append(Downsample(dim_out, config.temporal_downsample[stage], make))
        self.downsamples = nn.Sequential(*layers)
        self.middle = _middle(dims[-1], make)
        self.head = _head(dims[-1], 2 * config.latent_channels, make)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        x = causal_conv(self.conv1, x, memory)
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, memory)
        return _run_head(self.head, x, memory)


class Decoder(nn.Module):
    """(B, 16, F, h, w) to (B, 3, T, 8h, 8w); attribute names are checkpoint keys."""

    def __init__(self, config: VAEConfig, make: _Maker) -> None:
        super().__init__()
        mult = config.dim_mult[::-1]
        dims = [config.dim * m for m in (mult[0], *mult)]
        temporal = config.temporal_downsample[::-1]
        self.conv1 = make.conv3d(config.latent_channels, dims[0], 3)
        self.middle = _middle(dims[0], make)
        layers: list[nn.Module] = []
        for stage, (dim_in, dim_out) in enumerate(pairwise(dims)):
            first = dim_in if stage == 0 else dim_in // 2  # the upsampling before it halved the channels
            for block in range(config.num_res_blocks + 1):
                layers.append(ResidualBlock(first if block == 0 else dim_out, dim_out, make))
            if stage < len(mult) - 1:
                layers.append(Upsample(dim_out, temporal[stage], make))
        self.upsamples = nn.Sequential(*layers)
        self.head = _head(dims[-1], 3, make)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        x = causal_conv(self.conv1, x, memory)
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, memory)
        return _run_head(self.head, x, memory)


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3x3, norm, SiLU, 3x3x3, plus a 1x1x1 shortcut where channels change."""

    def __init__(self, dim_in: int, dim_out: int, make: _Maker) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            make.norm(dim_in, frames=True),
            nn.SiLU(),
            make.conv3d(dim_in, dim_out, 3),
            make.norm(dim_out, frames=True),
            nn.SiLU(),
            nn.Identity(),  # the released dropout's place: keys count it
            make.conv3d(dim_out, dim_out, 3),
        )
        self.shortcut = make.conv3d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        norm1, act1, conv1, norm2, act2, _, conv2 = self.residual
        h = causal_conv(conv1, act1(norm1(x)), memory)
        h = causal_conv(conv2, act2(norm2(h)), memory)
        return h + self.shortcut(x)


class AttentionBlock(nn.Module):
    """Single-head attention among the cells of each frame, no mask."""

    def __init__(self, dim: int, make: _Maker) -> None:
        super().__init__()
        self.norm = make.norm(dim, frames=False)
        self.to_qkv = make.conv2d(dim, 3 * dim, 1)
        self.proj = make.conv2d(dim, dim, 1)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:  # noqa: ARG002 (one signature for all blocks)
        batch, _, _, height, width = x.shape
        frames = rearrange(x, "b c t h w -> (b t) c h w")
        qkv = rearrange(self.to_qkv(self.norm(frames)), "n c h w -> n 1 (h w) c")
        out = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        out = self.proj(rearrange(out, "n 1 (h w) c -> n c h w", h=height, w=width))
        return x + rearrange(out, "(b t) c h w -> b c t h w", b=batch)


class Downsample(nn.Module):
    """Halve rows and columns; where `temporal`, frames too, but for the clip's first."""

    def __init__(self, dim: int, temporal: bool, make: _Maker) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), make.conv2d(dim, dim, 3, stride=2))
        self.time_conv = make.time_conv(dim, dim, stride=2) if temporal else None

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        x = _per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        before = None if memory is None else memory.get(self)
        if memory is not None:
            memory[self] = x[:, :, -1:].clone()
        if before is not None:
            return self.time_conv(torch.cat((before, x), dim=2))
        if x.shape[2] == 1:
            return x
        return torch.cat((x[:, :, :1], self.time_conv(x)), dim=2)


class Upsample(nn.Module):
    """Double rows and columns (halving channels); where `temporal`, all frames but the clip's first."""

    def __init__(self, dim: int, temporal: bool, make: _Maker) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest-exact"),
            make.conv2d(dim, dim // 2, 3, padding=1),
        )
        self.time_conv = make.time_conv(dim, 2 * dim) if temporal else None

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        if self.time_conv is not None:
            x = self._double_frames(x, memory)
        return _per_frame(self.resample, x)

    def _double_frames(self, x: Tensor, memory: Memory | None) -> Tensor:
        # The clip's first latent frame stays one frame and is no history for the next: the released
        # decoder gives the second latent frame two frames of zeros before it.
        starts = memory is None or self not in memory
        first, rest = (x[:, :, :1], x[:, :, 1:]) if starts else (None, x)
        if memory is not None and starts:
            memory[self] = torch.zeros_like(first).expand(-1, -1, 2, -1, -1)
        if rest.shape[2] == 0:
            return x
        doubled = causal_conv(self.time_conv, rest, memory, owner=self)
        doubled = rearrange(doubled, "b (two c) t h w -> b c (t two) h w", two=2)
        return doubled if first is None else torch.cat((first, doubled), dim=2)


class RMSNorm(nn.Module):
    """x / ||x|| over channels, times sqrt(channels) and a learned gamma; computed in float32."""

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gamma)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.gamma.to(device=x.device, dtype=torch.float32) * x.shape[1] ** 0.5
        x32 = x.float()
        # sum of squares rather than F.normalize: its strided vector norm took 42% of a CPU pass
        length = x32.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
        return (x32 / length * scale).to(x.dtype)


def causal_conv(conv: nn.Module, x: Tensor, memory: Memory | None, owner: nn.Module | None = None) -> Tensor:
    """A 3-frame convolution that sees the two frames before `x`: remembered, or zeros at the start."""
    key = owner or conv
    before = None if memory is None else memory.get(key)
    padded = F.pad(x, (0, 0, 0, 0, 2, 0)) if before is None else torch.cat((before, x), dim=2)
    if memory is not None:
        memory[key] = padded[:, :, -2:].clone()  # a copy: a view would keep the whole chunk alive
    return conv(padded)


@dataclass(frozen=True)
class _Maker:
    """Builds layers from the injected namespace with one device and dtype."""

    ops: Any
    device: torch.device | str | None
    dtype: torch.dtype | None

    def conv3d(self, dim_in: int, dim_out: int, kernel: int) -> nn.Module:
        padding = (0, kernel // 2, kernel // 2)  # rows and columns only: time is padded by `causal_conv`
        return self.ops.Conv3d(dim_in, dim_out, kernel, padding=padding, device=self.device, dtype=self.dtype)

    def time_conv(self, dim_in: int, dim_out: int, stride: int = 1) -> nn.Module:
        kernel, strides = (3, 1, 1), (stride, 1, 1)
        return self.ops.Conv3d(dim_in, dim_out, kernel, stride=strides, device=self.device, dtype=self.dtype)

    def conv2d(self, dim_in: int, dim_out: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Module:
        return self.ops.Conv2d(
            dim_in, dim_out, kernel, stride=stride, padding=padding, device=self.device, dtype=self.dtype
        )

    def norm(self, dim: int, frames: bool) -> RMSNorm:
        shape = (dim, 1, 1, 1) if frames else (dim, 1, 1)
        return RMSNorm(torch.ones(shape, device=self.device, dtype=self.dtype))


def _middle(dim: int, make: _Maker) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(dim, dim, make), AttentionBlock(dim, make), ResidualBlock(dim, dim, make)
    )


def _head(dim_in: int, dim_out: int, make: _Maker) -> nn.Sequential:
    return nn.Sequential(make.norm(dim_in, frames=True), nn.SiLU(), make.conv3d(dim_in, dim_out, 3))


def _run_head(head: nn.Sequential, x: Tensor, memory: Memory | None) -> Tensor:
    norm, act, conv = head
    return causal_conv(conv, act(norm(x)), memory)


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    frames = layer(rearrange(x, "b c t h w -> (b t) c h w"))
    return rearrange(frames, "(b t) c h w -> b c t h w", b=x.shape[0])


def _encoder_chunks(video: Tensor) -> Iterator[Tensor]:
    yield video[:, :, :1]
    for start in range(1, video.shape[2] - 3, VAE_STRIDE[0]):
        yield video[:, :, start : start + VAE_STRIDE[0]]


def _check_shape(what: str, tensor: Tensor, channels: int) -> None:
    if tensor.ndim != 5 or tensor.shape[1] != channels or 0 in tensor.shape:
        raise WanError(
            f"{what}: the Wan2.1 VAE takes (batch, {channels}, frames, height, width), got "
            f"{tuple(tensor.shape)}; use the VAE that belongs to the model"
        )


def _latent_statistics(latent: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(LATENT_MEAN, device=latent.device, dtype=latent.dtype).view(shape)
    std = torch.tensor(LATENT_STD, device=latent.device, dtype=latent.dtype).view(shape)
    return mean, std
