"""The Wan2.2 video VAE, which TI2V-5B uses: 48 latent channels, 4 x 16 x 16 compression.

Source: the released `wan/modules/vae2_2.py` and `Wan2.2_VAE.pth`; state-dict keys are the released ones.
Beside the Wan2.1 VAE: it works on 2 x 2 patches of pixels, and around every stage runs a shortcut without
weights that averages groups of channels on the way down and repeats channels on the way up.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .layers import casting_ops
from .vae_layers import (
    Downsample,
    Maker,
    Memory,
    ResidualBlock,
    Upsample,
    causal_conv,
    head,
    middle,
    run_head,
)
from .video_vae import VideoVAE

PATCH = 2  # pixels per side that become channels
PATCH_CHANNELS = 3 * PATCH * PATCH


@dataclass(frozen=True)
class VAE22Config:
    """Sizes of a Wan2.2 VAE; the defaults are the released file's."""

    dim: int = 160
    decoder_dim: int = 256
    latent_channels: int = 48
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)


class WanVAE22(VideoVAE):
    """Video (B, 3, T, H, W) in -1..1 to raw latents (B, 48, (T-1)//4+1, H/16, W/16), and back.

    Args:
        config: the network's sizes
        ops: namespace of layer classes that cast their weights to their input's dtype (torch.nn is adapted)
        device, dtype: of the weights
    """

    words = "the Wan2.2 VAE"
    stride = (4, 16, 16)
    size_multiple = 16  # the averaging shortcuts need whole groups of pixels

    def __init__(
        self,
        config: VAE22Config,
        ops: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        make = Maker(casting_ops(ops), device, dtype)
        super().__init__(config, Encoder(config, make), Decoder(config, make), make)


class Encoder(nn.Module):
    """(B, 3, T, H, W) to (B, 96, t, H/16, W/16) features; attribute names are checkpoint keys."""

    def __init__(self, config: VAE22Config, make: Maker) -> None:
        super().__init__()
        dims = [config.dim * m for m in (1, *config.dim_mult)]
        self.conv1 = make.conv3d(PATCH_CHANNELS, dims[0], 3)
        stages: list[nn.Module] = []
        for stage, (dim_in, dim_out) in enumerate(pairwise(dims)):
            last = stage == len(config.dim_mult) - 1
            temporal = None if last else config.temporal_downsample[stage]
            stages.append(DownStage(dim_in, dim_out, config.num_res_blocks, temporal, make))
        self.downsamples = nn.Sequential(*stages)
        self.middle = middle(dims[-1], make)
        self.head = head(dims[-1], 2 * config.latent_channels, make)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        x = causal_conv(self.conv1, patchify(x), memory)
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, memory)
        return run_head(self.head, x, memory)


class Decoder(nn.Module):
    """(B, 48, F, h, w) to (B, 3, T, 16h, 16w); attribute names are checkpoint keys."""

    def __init__(self, config: VAE22Config, make: Maker) -> None:
        super().__init__()
        mult = config.dim_mult[::-1]
        dims = [config.decoder_dim * m for m in (mult[0], *mult)]
        self.conv1 = make.conv3d(config.latent_channels, dims[0], 3)
        self.middle = middle(dims[0], make)
        stages: list[nn.Module] = []
        for stage, (dim_in, dim_out) in enumerate(pairwise(dims)):
            last = stage == len(mult) - 1
            temporal = None if last else config.temporal_downsample[::-1][stage]
            stages.append(UpStage(dim_in, dim_out, config.num_res_blocks + 1, temporal, make))
        self.upsamples = nn.Sequential(*stages)
        self.head = head(dims[-1], PATCH_CHANNELS, make)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        x = causal_conv(self.conv1, x, memory)
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, memory)
        return unpatchify(run_head(self.head, x, memory))


class DownStage(nn.Module):
    """Residual blocks and a downsampling, plus the averaged input; `temporal` None: no downsampling."""

    def __init__(self, dim_in: int, dim_out: int, blocks: int, temporal: bool | None, make: Maker) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            ResidualBlock(dim_in if block == 0 else dim_out, dim_out, make) for block in range(blocks)
        ]
        if temporal is not None:
            layers.append(Downsample(dim_out, temporal, make))
        self.downsamples = nn.Sequential(*layers)
        self.dim_out = dim_out
        self.frames = 2 if temporal else 1
        self.cells = 1 if temporal is None else 2

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        shortcut = average_down(x, self.dim_out, self.frames, self.cells)
        for layer in self.downsamples:
            x = layer(x, memory)
        return x + shortcut


class UpStage(nn.Module):
    """Residual blocks and an upsampling, plus the repeated input; `temporal` None: blocks alone."""

    def __init__(self, dim_in: int, dim_out: int, blocks: int, temporal: bool | None, make: Maker) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            ResidualBlock(dim_in if block == 0 else dim_out, dim_out, make) for block in range(blocks)
        ]
        if temporal is not None:
            layers.append(Upsample(dim_out, dim_out, temporal, make))
        self.upsamples = nn.Sequential(*layers)
        self.dim_out = dim_out
        self.frames = 2 if temporal else 1
        self.has_shortcut = temporal is not None

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        starts = memory is None or self.upsamples[-1] not in memory
        h = x
        for layer in self.upsamples:
            h = layer(h, memory)
        # after the layers: at full size the repeated input is the largest thing here
        return h + repeat_up(x, self.dim_out, self.frames, starts) if self.has_shortcut else h


def average_down(x: Tensor, channels: int, frames: int, cells: int) -> Tensor:
    """Blocks of `frames` x `cells` x `cells` become channels, and groups of those their mean.

    (B, C, T, H, W) to (B, channels, T / frames, H / cells, W / cells). The frame that starts a clip has a
    frame of zeros before it; chunks after the first have an even number.
    """
    x = F.pad(x, (0, 0, 0, 0, x.shape[2] % frames, 0))
    x = rearrange(x, "b c (t f) (h p) (w q) -> b (c f p q) t h w", f=frames, p=cells, q=cells)
    return x.unflatten(1, (channels, -1)).mean(dim=2)


def repeat_up(x: Tensor, channels: int, frames: int, starts: bool) -> Tensor:
    """Repeated channels become blocks of `frames` x 2 x 2; a clip's first frame stays one frame.

    (B, C, T, H, W) to (B, channels, T * frames, 2H, 2W), without the first frames - 1 where x starts a clip.
    """
    x = x.repeat_interleave(channels * frames * 4 // x.shape[1], dim=1)
    x = rearrange(x, "b (c f p q) t h w -> b c (t f) (h p) (w q)", f=frames, p=2, q=2)
    return x[:, :, frames - 1 :] if starts else x


def patchify(video: Tensor) -> Tensor:
    """(B, 3, T, H, W) to (B, 12, T, H/2, W/2); a patch's columns count slower than its rows, as released."""
    return rearrange(video, "b c t (h q) (w r) -> b (c r q) t h w", q=PATCH, r=PATCH)


def unpatchify(patches: Tensor) -> Tensor:
    """(B, 12, T, h, w) to (B, 3, T, 2h, 2w): `patchify` undone."""
    return rearrange(patches, "b (c r q) t h w -> b c t (h q) (w r)", q=PATCH, r=PATCH)
