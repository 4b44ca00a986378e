"""Activations at real size, counted on the meta device: no GPU, no weights, no time.

In bfloat16, with attention as a fused kernel, which holds no scores. Of ComfyUI, whose kernels do not run on
meta, the figures counted before the project began are repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.models.vae import make_vae
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import VAE22Config
from wan_core.models.vae_activations import decode_bytes

from . import machine, results
from .contest import say
from .live import LiveBytes, attention_kernel
from .peers import diffusers

A14B = TransformerConfig()
TI2V_5B = TransformerConfig(
    in_channels=48, out_channels=48, dim=3072, ffn_dim=14336, num_heads=24, num_layers=30
)
# name, sizes, latent (F, h, w), targets in GB (float32 residual, 16-bit), ComfyUI counted before
TRANSFORMERS = (
    ("A14B_720p", "A14B, 1280 x 720 x 81", A14B, (21, 90, 160), (3.8, 3.0), 7.38),
    ("A14B_480p", "A14B, 832 x 480 x 81", A14B, (21, 60, 104), (2.1, 1.7), 3.20),
    ("5B_704p", "5B, 1280 x 704 x 121", TI2V_5B, (31, 44, 80), (1.1, 0.9), 2.29),
)
# name, sizes, latent (h, w), targets (caches on the device, on the host), ComfyUI counted before
VAES = (
    ("vae21_720p", "VAE 2.1, 1280 x 720", VAEConfig(), (90, 160), (5.0, 2.5), 6.7),
    ("vae22_704p", "VAE 2.2, 1280 x 704", VAE22Config(), (44, 80), (None, None), 7.6),
)
TEXT = 60  # real rows


def describe(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--case", action="append", help="only these cases")
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="where the JSON goes")


def run(options: argparse.Namespace) -> int:
    """Count, print, write."""
    record = results.Record("activations", options.results, machine.cores())
    for row in rows(options.case):
        record.add(row)
        say(f"{row['name']}: {row['words']}")
        for fact in row["facts"]:
            say(f"  {fact['words']}: {fact['value']:.2f} {fact['unit']}")
    return 0


def rows(chosen: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Each case's figures, one after the other."""
    for name, words, config, latent, targets, comfyui in TRANSFORMERS:
        if chosen is None or name in chosen:
            facts = [
                _fact(
                    "wan_core, float32 residual", transformer_peak(config, latent, torch.float32), targets[0]
                ),
                _fact(
                    "wan_core, 16-bit residual", transformer_peak(config, latent, torch.bfloat16), targets[1]
                ),
                *_of_diffusers(lambda config=config, latent=latent: diffusers_peak(config, latent)),
                _fact("ComfyUI, counted before", comfyui * 1e9),
            ]
            yield {"name": name, "words": f"one prediction, {words}, bfloat16", "facts": facts}
    for name, words, config, size, wanted, comfyui in VAES:
        if chosen is None or name in chosen:
            facts = [
                _fact("wan_core, streamed", decode_peak(config, size), wanted[0]),
                _fact("wan_core, its caches on the host, as it plans", _on_host(config, size), wanted[1]),
                _fact("ComfyUI, counted before", comfyui * 1e9),
            ]
            yield {"name": name, "words": f"decode of any length, {words}, bfloat16", "facts": facts}


def transformer_peak(config: TransformerConfig, latent: tuple[int, int, int], residual: torch.dtype) -> int:
    """Bytes of one prediction of ours above weights and inputs."""
    network = WanTransformer(config, device="meta", dtype=torch.bfloat16).requires_grad_(False)
    network.attention = attention_kernel
    network.residual_dtype = residual
    given = _inputs(config, latent)
    with torch.no_grad(), fused_attention(), LiveBytes() as live:
        network(given, torch.tensor([875.0]), _empty(1, TEXT, config.text_dim))
    return live.peak


def diffusers_peak(config: TransformerConfig, latent: tuple[int, int, int]) -> int:
    """The same of diffusers; for 5B with a timestep per token, as its pipeline always gives."""
    with torch.device("meta"):
        network = diffusers.transformer(config).to(dtype=torch.bfloat16).requires_grad_(False)
    frames, rows, columns = latent
    per_token = config.in_channels == 48
    shape = (1, frames * rows * columns // 4) if per_token else (1,)
    given, timestep = _inputs(config, latent), torch.empty(shape, device="meta")
    text = _empty(1, config.text_len, config.text_dim)
    with torch.no_grad(), fused_attention(), LiveBytes() as live:
        network(given, timestep, text, return_dict=False)
    return live.peak


def decode_peak(config: VAEConfig | VAE22Config, size: tuple[int, int], latents: int = 4) -> int:
    """Bytes of a streamed decode of ours; a few latent frames reach its worst moment."""
    vae = make_vae(config, device="meta", dtype=torch.bfloat16).requires_grad_(False)
    latent = _empty(1, config.latent_channels, latents, *size)
    with torch.no_grad(), fused_attention(), LiveBytes() as live:
        for chunk in vae.decode_chunks(latent):
            del chunk
    return live.peak


def _on_host(config: VAEConfig | VAE22Config, size: tuple[int, int]) -> int:
    """By the library's own formula, which a test holds to the count: meta has no host to move anything to."""
    return decode_bytes(config, *size, torch.bfloat16, caches_on_host=True)


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attention as a kernel that keeps no scores, wherever torch's is called."""
    kept = F.scaled_dot_product_attention

    def kernel(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return attention_kernel(query, key, value)

    F.scaled_dot_product_attention = kernel
    try:
        yield
    finally:
        F.scaled_dot_product_attention = kept


def _of_diffusers(count: Any) -> list[dict[str, Any]]:
    if diffusers.version() is None:
        return []
    return [_fact("diffusers", count())]


def _inputs(config: TransformerConfig, latent: tuple[int, int, int]) -> Tensor:
    return _empty(1, config.in_channels, *latent)


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", dtype=torch.bfloat16)


def _fact(words: str, size: float, target: float | None = None) -> dict[str, Any]:
    return {"words": words, "value": size / 1e9, "unit": "GB", "target": target}
