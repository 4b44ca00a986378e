"""The Wan2.1 video VAE, which Wan2.2's A14B models use: 16 latent channels, 4 x 8 x 8 compression.

Source: the released `wan/modules/vae2_1.py` and `Wan2.1_VAE.pth`; state-dict keys are the released ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .layers import casting_ops
from .vae_layers import (
    Downsample,
    Maker,
    Memory,
    ResidualBlock,
    Upsample,
    a_few_at_a_time,
    causal_conv,
    head,
    in_parts,
    middle,
    run_head,
    streaming,
    through,
    to_list,
    to_tensor,
)
from .video_vae import VideoVAE


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of a Wan2.1 VAE; the defaults are the released file's."""

    dim: int = 96
    latent_channels: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)


class WanVAE(VideoVAE):
    """Video (B, 3, T, H, W) in -1..1 to raw latents (B, 16, (T-1)//4+1, H/8, W/8), and back.

    Args:
        config: the network's sizes
        ops: namespace of layer classes that cast their weights to their input's dtype (torch.nn is adapted)
        device, dtype: of the weights
    """

    words = "the Wan2.1 VAE"
    stride = (4, 8, 8)
    size_multiple = 1  # as released: rows and columns past the last whole cell leave no cell

    def __init__(
        self,
        config: VAEConfig,
        ops: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        make = Maker(casting_ops(ops), device, dtype)
        super().__init__(config, Encoder(config, make), Decoder(config, make), make)


class Encoder(nn.Module):
    """(B, 3, T, H, W) to (B, 32, t, H/8, W/8) features; attribute names are checkpoint keys."""

    def __init__(self, config: VAEConfig, make: Maker) -> None:
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
        # Layers of the first stage, which work on whole pixels; halving frames takes all of a chunk.
        self.widest = config.num_res_blocks + (not config.temporal_downsample[0])
        self.middle = middle(dims[-1], make)
        self.head = head(dims[-1], 2 * config.latent_channels, make)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        start, end = partial(causal_conv, self.conv1), partial(run_head, self.head)
        with streaming(memory):
            wide = [start, *self.downsamples[: self.widest]]
            frames = a_few_at_a_time(wide, to_list(x), memory, self.conv1.out_channels)
            return to_tensor(through([*self.downsamples[self.widest :], *self.middle, end], frames, memory))


class Decoder(nn.Module):
    """(B, 16, F, h, w) to (B, 3, T, 8h, 8w); attribute names are checkpoint keys."""

    def __init__(self, config: VAEConfig, make: Maker) -> None:
        super().__init__()
        mult = config.dim_mult[::-1]
        dims = [config.dim * m for m in (mult[0], *mult)]
        temporal = config.temporal_downsample[::-1]
        self.conv1 = make.conv3d(config.latent_channels, dims[0], 3)
        self.middle = middle(dims[0], make)
        layers: list[nn.Module] = []
        for stage, (dim_in, dim_out) in enumerate(pairwise(dims)):
            first = dim_in if stage == 0 else dim_in // 2  # the upsampling before it halved the channels
            for block in range(config.num_res_blocks + 1):
                layers.append(ResidualBlock(first if block == 0 else dim_out, dim_out, make))
            if stage < len(mult) - 1:
                layers.append(Upsample(dim_out, dim_out // 2, temporal[stage], make))
        self.upsamples = nn.Sequential(*layers)
        self.head = head(dims[-1], 3, make)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        start, end = partial(causal_conv, self.conv1), partial(run_head, self.head)
        parts = (layer.parts() if isinstance(layer, Upsample) else [layer] for layer in self.upsamples)
        layers = chain.from_iterable(parts)
        with streaming(memory):
            return to_tensor(in_parts([start, *self.middle, *layers, end], to_list(x), memory))
