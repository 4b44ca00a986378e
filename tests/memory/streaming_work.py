"""A streamed forward pass to be measured, where a new process finds it; and a model folder to stream."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.pipeline.conftest import UMT5, VAE, toy_tokenizer
from wan_core.checkpoints import load_module, open_checkpoint, transformer_config
from wan_core.memory import Streamer, streamed_indices
from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.models.umt5 import UMT5Encoder
from wan_core.models.vae_2_1 import WanVAE

TOY = TransformerConfig(dim=128, ffn_dim=192, num_heads=1, num_layers=6, text_dim=32)
# 12 blocks of 34 MB each in bf16: large enough to be seen in a process's memory, computed in a second.
HEAVY = TransformerConfig(dim=1024, ffn_dim=4096, num_heads=8, num_layers=12, text_dim=32)


def numbers(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Small seeded numbers for every weight of a module built on the meta device."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) * 0.05
        for name, value in module.state_dict().items()
    }


def toy_folder(folder: Path, layers: int = 5) -> Path:
    """A T2V pair of six blocks each, a text encoder of five, and a VAE."""
    for seed, expert in enumerate(("high_noise", "low_noise")):
        save_file(numbers(WanTransformer(TOY, device="meta"), seed), folder / f"toy_t2v_{expert}.safetensors")
    config = type(UMT5)(**{**vars(UMT5), "num_layers": layers})
    spiece = torch.frombuffer(bytearray(toy_tokenizer()), dtype=torch.uint8)
    encoder = numbers(UMT5Encoder(config, device="meta"))
    save_file(encoder | {"spiece_model": spiece}, folder / "toy_umt5.safetensors")
    save_file(numbers(WanVAE(VAE, device="meta")), folder / "toy_vae.safetensors")
    return folder


def inputs(config: TransformerConfig) -> tuple[Tensor, Tensor, Tensor]:
    """A small noisy latent, a timestep and a text."""
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(1, config.in_channels, 2, 4, 4, generator=generator)
    return latent, torch.tensor([500.0]), torch.randn(1, 5, config.text_dim, generator=generator)


def write_heavy(path: Path) -> Path:
    """The heavy network in bf16."""
    save_file(
        {
            name: torch.full(value.shape, 0.01, dtype=torch.bfloat16)
            for name, value in WanTransformer(HEAVY, device="meta").state_dict().items()
        },
        path,
    )
    return path


def run_streamed(path: Path, streamed: int, passes: int) -> tuple[float, object]:
    """Predictions of the heavy network; the answer's first number, and what to hold while memory is read."""
    checkpoint = open_checkpoint(path)
    config = transformer_config(checkpoint.header)
    network = load_module(WanTransformer(config, device="meta"), checkpoint)
    device = torch.device("cpu")
    streamer = Streamer(network, network.blocks, streamed_indices(len(network.blocks), streamed), device)
    with torch.no_grad():
        for _ in range(passes):
            answer = network(*inputs(config))
    return answer.flatten()[0].item(), (network, streamer)
