"""Layers of both Wan video VAEs: causal convolutions with a memory, residual, attention, resampling.

Source: the released `wan/modules/vae2_1.py` and `vae2_2.py`; attribute names are keys of the released files.
A layer treats "the chunk that starts the clip" and "a later chunk" by the same code, so a clip pushed through
whole (`memory` None) and a clip pushed through in chunks give the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Memory(dict[nn.Module, Tensor]):
    """What each causal layer remembers between two chunks of one clip: its last one or two input frames."""


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3x3, norm, SiLU, 3x3x3, plus a 1x1x1 shortcut where channels change."""

    def __init__(self, dim_in: int, dim_out: int, make: Maker) -> None:
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

    def __init__(self, dim: int, make: Maker) -> None:
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

    def __init__(self, dim: int, temporal: bool, make: Maker) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), make.conv2d(dim, dim, 3, stride=2))
        self.time_conv = make.time_conv(dim, dim, stride=2) if temporal else None

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        x = per_frame(self.resample, x)
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
    """Double rows and columns; where `temporal`, all frames but the clip's first."""

    def __init__(self, dim_in: int, dim_out: int, temporal: bool, make: Maker) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest-exact"),
            make.conv2d(dim_in, dim_out, 3, padding=1),
        )
        self.time_conv = make.time_conv(dim_in, 2 * dim_in) if temporal else None

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        if self.time_conv is not None:
            x = self._double_frames(x, memory)
        return per_frame(self.resample, x)

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
class Maker:
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


def middle(dim: int, make: Maker) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(dim, dim, make), AttentionBlock(dim, make), ResidualBlock(dim, dim, make)
    )


def head(dim_in: int, dim_out: int, make: Maker) -> nn.Sequential:
    return nn.Sequential(make.norm(dim_in, frames=True), nn.SiLU(), make.conv3d(dim_in, dim_out, 3))


def run_head(head: nn.Sequential, x: Tensor, memory: Memory | None) -> Tensor:
    norm, act, conv = head
    return causal_conv(conv, act(norm(x)), memory)


def per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    frames = layer(rearrange(x, "b c t h w -> (b t) c h w"))
    return rearrange(frames, "(b t) c h w -> b c t h w", b=x.shape[0])
