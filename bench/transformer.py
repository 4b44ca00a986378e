"""One prediction of the transformer: T2V, TI2V with a clean first frame, and with CFG."""

from __future__ import annotations

import argparse

import torch

from wan_core.models.transformer import TransformerConfig

from . import contest, flops
from .contest import Case
from .work import Inputs

TEXT = 60  # real rows of the 512


def describe(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    contest.describe(parser)
    parser.add_argument("--dim", type=int, default=1024, help="width; heads are 128 wide (default 1024)")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--cells", type=int, default=40, help="rows and columns of the latent (default 40)")


def run(options: argparse.Namespace) -> int:
    """Measure, print, write."""
    return contest.run_cases("transformer", cases(options.dim, options.layers, options.cells), options)


def cases(dim: int, layers: int, cells: int) -> list[Case]:
    """The three kinds of prediction."""
    a14b, ti2v = sizes(dim, layers, 16), sizes(dim, layers, 48)
    t2v, image, guided = (8, cells, cells), (6, cells - 4, cells), (6, cells - 8, cells)
    texts = {name: _draw(seed, 1, TEXT, a14b.text_dim) for name, seed in (("context", 2), ("negative", 3))}
    step = {"timestep": torch.tensor([875.0]), "context": texts["context"]}
    guidance = {"negative": texts["negative"], "guidance": torch.tensor(3.5)}
    clean = torch.full((1, image[0]), 875.0)
    clean[:, 0] = 0.0
    return [
        Case(
            "T2V", _words(a14b, t2v), "predict", a14b, step | _latent(a14b, t2v),
            flops.prediction(a14b, tokens(t2v)),
        ),
        Case(
            "TI2V", _words(ti2v, image) + ", a clean first frame: a timestep per token", "predict", ti2v,
            step | _latent(ti2v, image) | {
                "timestep": clean.repeat_interleave(tokens(image) // image[0], 1),
                "timestep_of_frames": clean,
            },
            flops.prediction(ti2v, tokens(image)),
        ),
        Case(
            "CFG", _words(a14b, guided) + ", two prompts", "predict_guided", a14b,
            step | guidance | _latent(a14b, guided), 2 * flops.prediction(a14b, tokens(guided)),
        ),
    ]  # fmt: skip


def sizes(dim: int, layers: int, channels: int) -> TransformerConfig:
    """A Wan transformer with heads of 128 and an FFN four times as wide."""
    return TransformerConfig(
        dim=dim, ffn_dim=4 * dim, num_heads=max(1, dim // 128), num_layers=layers,
        in_channels=channels, out_channels=channels,
    )  # fmt: skip


def tokens(latent: tuple[int, int, int]) -> int:
    """Patches of 1 x 2 x 2 cells."""
    return latent[0] * latent[1] * latent[2] // 4


def _words(config: TransformerConfig, latent: tuple[int, int, int]) -> str:
    return f"dim {config.dim}, {config.num_layers} layers, FFN {config.ffn_dim}, {tokens(latent)} tokens"


def _latent(config: TransformerConfig, latent: tuple[int, int, int]) -> Inputs:
    return {"latent": _draw(1, 1, config.in_channels, *latent)}


def _draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
