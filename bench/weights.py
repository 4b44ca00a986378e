"""Random weights under released names, one file for all, scaled so that activations stay sane."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.models.umt5 import UMT5Config, UMT5Encoder
from wan_core.models.vae import make_vae
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import VAE22Config

Config = TransformerConfig | VAEConfig | VAE22Config | UMT5Config


def empty_module(config: Config, device: str = "meta") -> nn.Module:
    """Our network of these sizes."""
    if isinstance(config, TransformerConfig):
        return WanTransformer(config, device=device)
    if isinstance(config, UMT5Config):
        return UMT5Encoder(config, device=device)
    return make_vae(config, device=device)


def write_weights(path: Path, config: Config, seed: int = 0) -> Path:
    """Every tensor of the network in float32, drawn from a seeded generator."""
    save_file(dict(random_weights(config, seed)), path)
    return path


def random_weights(config: Config, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """(released name, values): matrices keep the variance of what passes through them."""
    generator = torch.Generator().manual_seed(seed)
    for name, shape in empty_module(config).state_dict().items():
        yield name, _draw(name, tuple(shape.shape), config, generator)


def _draw(name: str, shape: tuple[int, ...], config: Config, generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if name.endswith(("gamma", "norm.weight")) or ("norm" in name and name.endswith("weight")):
        return values.mul_(0.1).add_(1.0)
    if "modulation" in name or len(shape) == 1:
        return values.mul_(0.1)
    if "embedding.weight" in name:
        return values
    scale = 1 / math.sqrt(values[0].numel())
    if isinstance(config, UMT5Config) and name.endswith("attn.q.weight"):
        scale /= math.sqrt(
            config.dim_attn / config.num_heads
        )  # its scores are not scaled: trained weights are small
    return values.mul_(scale)
