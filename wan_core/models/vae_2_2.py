"""The Wan2.2 video VAE, which TI2V-5B uses: 48 latent channels, 4 x 16 x 16 compression.

Source: the released `wan/modules/vae2_2.py` and `Wan2.2_VAE.pth`; state-dict keys are the released ones.
Beside the Wan2.1 VAE: it works on 2 x 2 patches of pixels, and around every stage runs a shortcut without
weights that averages groups of channels on the way down and repeats channels on the way up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .layers import casting_ops
from .vae_layers import (
    Downsample,
    Frames,
    Maker,
    Memory,
    ResidualBlock,
    Upsample,
    a_few_at_a_time,
    added,
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
        self.widest = 0 if config.temporal_downsample[0] else 1  # halving frames takes all of a chunk
        self.middle = middle(dims[-1], make)
        self.head = head(dims[-1], 2 * config.latent_channels, make)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        start, end = partial(causal_conv, self.conv1), partial(run_head, self.head)
        with streaming(memory):
            wide = [start, *self.downsamples[: self.widest]]
            frames = a_few_at_a_time(wide, to_list(patchify(x)), memory, self.conv1.out_channels)
            return to_tensor(through([*self.downsamples[self.widest :], *self.middle, end], frames, memory))


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
        start, end = partial(causal_conv, self.conv1), partial(run_head, self.head)
        with streaming(memory):
            frames = in_parts([start, *self.middle, *self.upsamples, end], to_list(x), memory)
            return unpatchify(to_tensor(frames))


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

    def forward(self, x: Frames, memory: Memory | None) -> Frames:
        shortcut = average_down(x, self.dim_out, self.frames, self.cells)
        for layer in self.downsamples:
            x = layer(x, memory)
        return [added(short, frame, memory) for short, frame in zip(shortcut, x, strict=True)]


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

    def forward(self, x: Frames, memory: Memory | None) -> Frames:
        starts = memory is None or self.upsamples[-1] not in memory
        h = x
        for layer in self.upsamples:
            h = layer(h, memory)
        return repeat_up(x, h, self.frames, starts) if self.has_shortcut else h


def average_down(x: Frames, channels: int, frames: int, cells: int) -> Frames:
    """Blocks of `frames` x `cells` x `cells` become channels, and groups of those their mean.

    T frames (B, H, W, C) to T / frames of (B, H / cells, W / cells, channels). The frame that starts a clip
    has a frame of zeros before it; chunks after the first have an even number.
    """
    if len(x) % frames:
        x = [torch.zeros_like(x[0]), *x]
    blocks = [torch.stack(x[start : start + frames], dim=1) for start in range(0, len(x), frames)]
    shape = "b f (h p) (w q) c -> b h w (c f p q)"
    columns = [rearrange(block, shape, p=cells, q=cells) for block in blocks]
    return [column.unflatten(-1, (channels, -1)).mean(dim=-1) for column in columns]


def repeat_up(x: Frames, h: Frames, frames: int, starts: bool) -> Frames:
    """`h` with blocks of `frames` x 2 x 2 of x's repeated channels added, in place where no gradient flows.

    T frames x (B, H, W, C) and T * frames of h (B, 2H, 2W, channels); where x starts a clip, its first frame
    stays one frame: the last of its block.
    """
    blocks = [(frame, index) for frame in x for index in range(frames)]
    out = []
    for (frame, index), target in zip(blocks[frames - 1 if starts else 0 :], h, strict=True):
        target = target.clone() if torch.is_grad_enabled() else target
        for p, q in product((0, 1), repeat=2):
            part = _repeated(frame, target.shape[-1], frames, (index * 2 + p) * 2 + q)
            target[:, p::2, q::2] += part
        out.append(target)
    return out


def _repeated(frame: Tensor, channels: int, frames: int, place: int) -> Tensor:
    """The channels at one place of `repeat_up`'s blocks: some of them, or each several times."""
    width = frame.shape[-1]
    if channels >= width:
        return frame.repeat_interleave(channels // width, dim=-1)
    step = width // channels
    return frame[..., place * step // (4 * frames) :: step]


def patchify(video: Tensor) -> Tensor:
    """(B, 3, T, H, W) to (B, 12, T, H/2, W/2); a patch's columns count slower than its rows, as released."""
    return rearrange(video, "b c t (h q) (w r) -> b (c r q) t h w", q=PATCH, r=PATCH)


def unpatchify(patches: Tensor) -> Tensor:
    """(B, 12, T, h, w) to (B, 3, T, 2h, 2w): `patchify` undone."""
    return rearrange(patches, "b (c r q) t h w -> b c t (h q) (w r)", q=PATCH, r=PATCH)
