"""What both VAE suites do: decode and encode 17 frames, and a longer clip for the memory."""

from __future__ import annotations

import argparse

import torch

from wan_core.models.vae import make_vae
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import VAE22Config

from . import contest, flops
from .contest import Case
from .work import Inputs

LONG = 81  # frames


def describe(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    contest.describe(parser)
    parser.add_argument("--size", type=int, default=256, help="height and width (default 256)")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--long", type=int, default=LONG, help=f"frames of the longer clip (default {LONG})")
    parser.add_argument("--width", type=int, help="channels of the first stage (default: the released)")


def cases(config: VAEConfig | VAE22Config, options: argparse.Namespace) -> list[Case]:
    """Decode and encode at the size asked for; streamed decodes at half of it, of both lengths."""
    size, small = options.size, options.size // 2
    return [
        _decode("decode", "decode", config, options.frames, size),
        Case(
            "encode", f"encode {options.frames} frames of {size} x {size}", "encode", config,
            _video(options.frames, size), flops.encode(config, options.frames, size, size),
            warm_up=_video(5, _tiny(config)),
        ),
        _decode("stream_short", "stream", config, options.frames, small, rounds=1),
        _decode("stream_long", "stream", config, options.long, small, rounds=1),
    ]  # fmt: skip


def _decode(
    name: str, work: str, config: VAEConfig | VAE22Config, frames: int, size: int, rounds: int | None = None
) -> Case:
    words = "decode" if work == "decode" else "decode, streamed by those who can,"
    return Case(
        name, f"{words} {frames} frames of {size} x {size}", work, config, _latent(config, frames, size),
        flops.decode(config, frames, size, size), warm_up=_latent(config, 5, _tiny(config)), rounds=rounds,
        clamp=True,
    )  # fmt: skip


def _tiny(config: VAEConfig | VAE22Config) -> int:
    return 64 if isinstance(config, VAE22Config) else 32


def _latent(config: VAEConfig | VAE22Config, frames: int, size: int) -> Inputs:
    stride = make_vae(config, device="meta").stride
    shape = (1, config.latent_channels, (frames - 1) // stride[0] + 1, size // stride[1], size // stride[2])
    return {"latent": torch.randn(shape, generator=torch.Generator().manual_seed(frames))}


def _video(frames: int, size: int) -> Inputs:
    generator = torch.Generator().manual_seed(frames)
    return {"video": torch.rand((1, 3, frames, size, size), generator=generator) * 2 - 1}
