"""Either Wan VAE, by its sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .vae_2_1 import VAEConfig, WanVAE
from .vae_2_2 import VAE22Config, WanVAE22
from .video_vae import VideoVAE


def make_vae(
    config: VAEConfig | VAE22Config,
    ops: Any = nn,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> VideoVAE:
    """The VAE whose sizes `config` gives; the arguments are those of both classes."""
    network = WanVAE22 if isinstance(config, VAE22Config) else WanVAE
    return network(config, ops, device, dtype)
