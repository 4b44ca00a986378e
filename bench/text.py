"""The text encoder: prompts of 20, 77 and 200 tokens in the 512 frame."""

from __future__ import annotations

import argparse

import torch

from wan_core.models.umt5 import UMT5Config

from . import contest, flops
from .contest import Case

FRAME = 512
LENGTHS = (20, 77, 200)
VOCABULARY = 32128  # of 256384: embedding is a look-up, whatever the number of rows


def describe(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    contest.describe(parser)
    parser.add_argument("--dim", type=int, default=1024, help="width; heads are 64 wide (default 1024)")
    parser.add_argument("--layers", type=int, default=8)


def run(options: argparse.Namespace) -> int:
    """Measure, print, write."""
    return contest.run_cases("text", cases(options.dim, options.layers), options)


def cases(dim: int, layers: int) -> list[Case]:
    """A prompt of each length."""
    config = UMT5Config(
        vocab_size=VOCABULARY, dim=dim, dim_attn=dim, dim_ffn=dim * 11 // 4, num_heads=max(1, dim // 64),
        num_layers=layers,
    )  # fmt: skip
    return [_case(config, length) for length in LENGTHS]


def _case(config: UMT5Config, length: int) -> Case:
    ids = torch.zeros(1, FRAME, dtype=torch.long)
    ids[:, :length] = torch.randint(2, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length))
    mask = (torch.arange(FRAME) < length).long()[None]
    words = f"{length} tokens of {FRAME}, dim {config.dim}, {config.num_layers} layers, FFN {config.dim_ffn}"
    flop = flops.text_states(config, length)
    return Case(f"{length}_tokens", words, "read_prompt", config, {"ids": ids, "mask": mask}, flop)
