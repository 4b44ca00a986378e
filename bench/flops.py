"""Floors: the operations a network cannot do without, by formula. A multiply and an add count as two."""

from __future__ import annotations

from wan_core.models.transformer import TransformerConfig
from wan_core.models.umt5 import UMT5Config
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import PATCH, VAE22Config


def prediction(config: TransformerConfig, tokens: int, text_rows: int = 512) -> float:
    """One prediction of one sample: matrix products and attention."""
    dim, patch = config.dim, 4
    per_token = 2 * (
        4 * dim * dim + 2 * dim * dim + 2 * dim * config.ffn_dim
    )  # q k v o, q o of the text, FFN
    text = text_rows * 2 * 2 * dim * dim
    attention = 4 * tokens * (tokens + text_rows) * dim
    embedded = 2 * text_rows * dim * (config.text_dim + dim)
    ends = 2 * tokens * patch * (config.in_channels + config.out_channels) * dim
    return float(config.num_layers * (tokens * per_token + text + attention) + embedded + ends)


def text_states(config: UMT5Config, tokens: int) -> float:
    """The text encoder on its real tokens."""
    per_token = 2 * (4 * config.dim * config.dim_attn + 3 * config.dim * config.dim_ffn)
    return float(config.num_layers * (tokens * per_token + 4 * tokens * tokens * config.dim_attn))


def decode(config: VAEConfig | VAE22Config, frames: int, height: int, width: int) -> float:
    """Convolutions of a decode to that many frames of pixels; upsampling convolutions at full size."""
    decoder = config.decoder_dim if isinstance(config, VAE22Config) else config.dim
    patch = PATCH if isinstance(config, VAE22Config) else 1
    channels = [decoder * mult for mult in (config.dim_mult[-1], *reversed(config.dim_mult))]
    stages = len(config.dim_mult)
    latents = (frames - 1) // 4 + 1
    rows, columns = (size // patch // 2 ** (stages - 1) for size in (height, width))
    cells = float(latents * rows * columns)
    total = cells * _conv(config.latent_channels, channels[0], 27) + _middle(
        cells, channels[0], rows * columns
    )
    temporal = tuple(reversed(config.temporal_downsample))
    flat = isinstance(config, VAEConfig)  # 2.1 halves the channels in the upsampler, 2.2 in the next stage
    width_in = channels[0]
    for stage in range(stages):
        width_out = channels[stage + 1]
        for _ in range(config.num_res_blocks + 1):
            total += cells * _block(width_in, width_out)
            width_in = width_out
        if stage == stages - 1:
            break
        if temporal[stage]:
            total += cells * _conv(width_out, 2 * width_out, 3)
            latents = 1 + 2 * (latents - 1)
        rows, columns = 2 * rows, 2 * columns
        cells = float(latents * rows * columns)
        width_in = width_out // 2 if flat else width_out
        total += cells * _conv(width_out, width_in, 9)
    return total + cells * _conv(channels[-1], 3 * patch * patch, 27)


def encode(config: VAEConfig | VAE22Config, frames: int, height: int, width: int) -> float:
    """Convolutions of an encode of that many frames of pixels."""
    patch = PATCH if isinstance(config, VAE22Config) else 1
    channels = [config.dim * mult for mult in (1, *config.dim_mult)]
    stages = len(config.dim_mult)
    rows, columns = height // patch, width // patch
    cells = float(frames * rows * columns)
    total = cells * _conv(3 * patch * patch, channels[0], 27)
    width_in = channels[0]
    for stage in range(stages):
        width_out = channels[stage + 1]
        for _ in range(config.num_res_blocks):
            total += cells * _block(width_in, width_out)
            width_in = width_out
        if stage == stages - 1:
            break
        rows, columns = rows // 2, columns // 2
        total += frames * rows * columns * _conv(width_out, width_out, 9)
        if config.temporal_downsample[stage]:
            frames = 1 + (frames - 1) // 2
            total += frames * rows * columns * _conv(width_out, width_out, 3)
        cells = float(frames * rows * columns)
    total += _middle(cells, width_in, rows * columns)
    return total + cells * _conv(width_in, 2 * config.latent_channels, 27)


def _conv(given: int, made: int, taps: int) -> float:
    return 2.0 * given * made * taps


def _block(given: int, made: int) -> float:
    shortcut = _conv(given, made, 1) if given != made else 0.0
    return _conv(given, made, 27) + _conv(made, made, 27) + shortcut


def _middle(cells: float, width: int, per_frame: int) -> float:
    """Two residual blocks, and attention within each frame."""
    return cells * (2 * _block(width, width) + 2 * 4 * width * width + 4 * per_frame * width)
