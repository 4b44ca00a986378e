"""A model's configuration from the shapes of its tensors. The small built-in model goes by the same rules."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import WanError
from ..models.transformer import TransformerConfig
from ..models.umt5 import UMT5Config
from ..models.vae_2_1 import VAEConfig
from ..models.vae_2_2 import VAE22Config
from .header import TensorInfo

HEAD_DIM = 128  # in every released Wan transformer
PATCH_AREA = 4  # the 2 x 2 patch: the head writes four numbers per channel
MOST_STAGES = 8  # of a VAE, to look for; the released ones have four

Tensors = Mapping[str, TensorInfo]


def transformer_config(tensors: Tensors) -> TransformerConfig:
    """The transformer's sizes, from tensors under released names. Raises WanError when one is out of line."""
    dim = _axis(tensors, "head.modulation", 2, axes=3)
    if dim == 0 or dim % HEAD_DIM:
        raise WanError(
            f"head.modulation: {dim} channels, expected a multiple of {HEAD_DIM} (heads of {HEAD_DIM})"
        )
    return TransformerConfig(
        in_channels=_axis(tensors, "patch_embedding.weight", 1, axes=5),
        out_channels=_axis(tensors, "head.head.weight", 0, axes=2) // PATCH_AREA,
        dim=dim,
        ffn_dim=_axis(tensors, "blocks.0.ffn.0.weight", 0, axes=2),
        num_heads=dim // HEAD_DIM,
        num_layers=_layers(tensors),
        freq_dim=_axis(tensors, "time_embedding.0.weight", 1, axes=2),
        text_dim=_axis(tensors, "text_embedding.0.weight", 1, axes=2),
    )


def umt5_config(tensors: Tensors) -> UMT5Config:
    """The text encoder's sizes; heads are the columns of its position tables."""
    return UMT5Config(
        vocab_size=_axis(tensors, "token_embedding.weight", 0, axes=2),
        dim=_axis(tensors, "token_embedding.weight", 1, axes=2),
        dim_attn=_axis(tensors, "blocks.0.attn.q.weight", 0, axes=2),
        dim_ffn=_axis(tensors, "blocks.0.ffn.fc1.weight", 0, axes=2),
        num_heads=_axis(tensors, "blocks.0.pos_embedding.embedding.weight", 1, axes=2),
        num_layers=_layers(tensors),
        num_buckets=_axis(tensors, "blocks.0.pos_embedding.embedding.weight", 0, axes=2),
    )


def vae_config(tensors: Tensors) -> VAEConfig | VAE22Config:
    """The VAE's sizes, of either kind: the Wan2.2 one's encoder is a list of lists."""
    if "encoder.downsamples.0.downsamples.0.residual.6.weight" in tensors:
        return _vae_2_2_config(tensors)
    dim = _axis(tensors, "decoder.head.0.gamma", 0, axes=4)
    # The encoder is a flat list: two residual blocks and a resampler per stage, no resampler after the last.
    blocks = [f"encoder.downsamples.{3 * stage}.residual.6.weight" for stage in range(MOST_STAGES)]
    resamplers = [f"encoder.downsamples.{3 * stage + 2}.time_conv.weight" for stage in range(MOST_STAGES)]
    dim_mult = _multiples(tensors, blocks, dim)
    return VAEConfig(
        dim=dim,
        latent_channels=_axis(tensors, "conv2.weight", 0, axes=5),
        dim_mult=dim_mult,
        temporal_downsample=tuple(name in tensors for name in resamplers[: len(dim_mult) - 1]),
    )


def _vae_2_2_config(tensors: Tensors) -> VAE22Config:
    dim = _axis(tensors, "encoder.conv1.weight", 0, axes=5)
    stages = [f"encoder.downsamples.{stage}.downsamples" for stage in range(MOST_STAGES)]
    dim_mult = _multiples(tensors, [f"{stage}.0.residual.6.weight" for stage in stages], dim)
    return VAE22Config(
        dim=dim,
        decoder_dim=_axis(tensors, "decoder.head.0.gamma", 0, axes=4),
        latent_channels=_axis(tensors, "conv2.weight", 0, axes=5),
        dim_mult=dim_mult,
        temporal_downsample=tuple(
            f"{stage}.2.time_conv.weight" in tensors for stage in stages[: len(dim_mult) - 1]
        ),
    )


def _multiples(tensors: Tensors, blocks: list[str], dim: int) -> tuple[int, ...]:
    """How many times `dim` each encoder stage is wide, by the first residual block of each that is there."""
    widths = [_axis(tensors, name, 0, axes=5) for name in blocks if name in tensors]
    if dim == 0 or not widths or any(width % dim for width in widths):
        raise WanError(f"the encoder is {widths} wide, expected multiples of {dim}")
    return tuple(width // dim for width in widths)


def _layers(tensors: Tensors) -> int:
    return 1 + max(
        (int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d{1,4})\.", name))), default=-1
    )


def _axis(tensors: Tensors, name: str, axis: int, axes: int) -> int:
    info = tensors.get(name)
    if info is None:
        raise WanError(f"{name} is missing; choose a whole file")
    if len(info.shape) != axes:
        raise WanError(f"{name} has {len(info.shape)} axes {list(info.shape)}, expected {axes}")
    return info.shape[axis]
