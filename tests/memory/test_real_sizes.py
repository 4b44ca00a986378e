"""The released models on small cards: weights by their shapes, activations by the models' own counts."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from wan_core.checkpoints.header import TensorInfo
from wan_core.errors import WanError
from wan_core.memory import SLABS, least_bytes
from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.models.umt5 import UMT5Config, UMT5Encoder
from wan_core.models.vae import make_vae
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import VAE22Config
from wan_core.placement import (
    Budget,
    Need,
    budget,
    decode_tiles,
    describe,
    encode_need,
    expert_need,
    reserve,
    text_need,
)
from wan_core.speed import HALF, Speed

CARD = torch.device("cuda")
A14B = TransformerConfig()
TI2V = TransformerConfig(
    in_channels=48, out_channels=48, dim=3072, ffn_dim=14336, num_heads=24, num_layers=30
)
P480, P720, P704 = (16, 21, 60, 104), (16, 21, 90, 160), (48, 31, 44, 80)


@dataclass(frozen=True)
class OnPaper:
    """A checkpoint of which only the header exists."""

    network: nn.Module
    width: float  # bytes of a number in a matrix

    @property
    def header(self) -> dict[str, TensorInfo]:
        return {
            name: TensorInfo(
                "F8_E4M3" if value.ndim == 2 and self.width == 1 else "BF16", tuple(value.shape), 0, 0, Path()
            )
            for name, value in self.network.state_dict().items()
        }

    @property
    def inspection(self) -> SimpleNamespace:
        return SimpleNamespace(quantization="bfloat16")

    def rounding(self, _: torch.dtype) -> None:
        return None

    def stored_bytes(self, dtype: torch.dtype | None = None) -> dict[str, int]:
        return {
            name: info.elements * dtype.itemsize
            if dtype
            else math.ceil(info.elements * (self.width if len(info.shape) == 2 else 2))
            for name, info in self.header.items()
        }


TEXT_ENCODER = OnPaper(UMT5Encoder(UMT5Config(), device="meta"), 2)


def need(config: TransformerConfig, shape: tuple[int, ...], width: float, speed: Speed) -> Need:
    network = WanTransformer(config, device="meta")
    return expert_need(OnPaper(network, width), shape, torch.bfloat16, speed, CARD)


def least(wanted: Need) -> float:
    """The smallest --vram, in GB."""
    return (least_bytes(wanted.weights, wanted.work) + reserve(CARD)) / 1e9


@pytest.mark.parametrize(
    ("config", "shape", "width", "speed", "gigabytes"),
    [
        (A14B, P720, 2, Speed(), 7.2),
        (A14B, P720, 2, Speed(residual=HALF), 6.4),
        (A14B, P720, 1, Speed(), 6.6),
        (A14B, P480, 2, Speed(), 5.3),
        (A14B, P480, 1, Speed(), 4.7),
        (TI2V, P704, 2, Speed(), 3.2),
    ],
    ids=["720p", "720p, 16-bit residual", "720p, fp8", "480p", "480p, fp8", "5B"],
)
def test_small_cards_are_enough(config, shape, width, speed, gigabytes):
    wanted = need(config, shape, width, speed)
    assert least(wanted) <= gigabytes
    chosen = budget(CARD, int(gigabytes * 1e9)).residence(wanted)
    assert chosen.device_bytes + wanted.work + reserve(CARD) <= gigabytes * 1e9
    assert SLABS < len(chosen.streamed) <= config.num_layers


@pytest.mark.parametrize(
    ("config", "shape", "width", "speed", "from_text", "from_picture"),
    [
        (A14B, P720, 2, Speed(), 7.0, 7.0),
        (A14B, P720, 2, Speed(residual=HALF), 6.2, 6.3),
        (A14B, P720, 1, Speed(), 6.4, 6.4),
        (A14B, P480, 2, Speed(), 5.1, 5.1),
        (A14B, P480, 1, Speed(), 4.5, 4.5),
        (TI2V, P704, 2, Speed(), 3.9, 5.2),
    ],
    ids=["720p", "720p, 16-bit residual", "720p, fp8", "480p", "480p, fp8", "5B"],
)
def test_the_least_that_readme_states(config, shape, width, speed, from_text, from_picture):
    """README.md, "Speed and memory": what a whole run takes, in GB, and no tenth less."""
    vae = OnPaper(make_vae(VAE22Config() if config is TI2V else VAEConfig(), device="meta"), 2)
    pixels = vae.network.stride[1]
    encode = encode_need(vae, shape[2] * pixels, shape[3] * pixels, lean=True)
    for gigabytes, has_picture in ((from_text, False), (from_picture, True)):
        channels = 36 if has_picture and config is A14B else config.in_channels
        wanted = need(dataclasses.replace(config, in_channels=channels), shape, width, speed)
        needs = [wanted, text_need(TEXT_ENCODER, CARD), *([encode] if has_picture else [])]

        def fits(size, needs=needs):
            limit = budget(CARD, round(size * 1e9))
            limit.check(needs)
            return decode_tiles(limit, vae, *shape[-2:])

        fits(gigabytes)
        told = rf"^vram: {gigabytes - 0.1:.1f} GB are too few: the [\w ]+ needs {gigabytes} GB at this size; "
        with pytest.raises(WanError, match=told):
            fits(gigabytes - 0.1)


def test_a14b_is_as_large_as_its_files():
    wanted = need(A14B, P720, 2, Speed())
    assert wanted.weights.total == pytest.approx(28.6e9, rel=0.005)
    assert wanted.weights.blocks[0] == pytest.approx(0.70e9, rel=0.01)
    assert wanted.tokens == 75_600
    assert budget(CARD, 40 * 10**9).residence(wanted).streamed == ()


def test_the_text_encoder_fits_two_gigabytes():
    wanted = text_need(TEXT_ENCODER, CARD)
    assert wanted.weights.total == pytest.approx(9.26e9, rel=0.01), "its embedding, 2.1 GB, stays in the file"
    assert least(wanted) <= 2.0


def test_the_line_warns_where_copying_a_block_takes_longer_than_computing_it():
    shape = (16, 1, 80, 240)  # 4,800 tokens
    text = text_need(TEXT_ENCODER, CARD)
    for width, tokens, warns in ((2, 6300, True), (1, 3150, False)):
        wanted = need(A14B, shape, width, Speed())
        assert (wanted.tokens, wanted.break_even) == (4800, pytest.approx(tokens, rel=0.01))
        line = describe(budget(CARD, 6 * 10**9), [wanted], text, [])
        assert " are streamed" in line.partition(";")[0]
        assert (" (of only 4,800 tokens: copying will take longer than computing)" in line) is warns


def test_the_line_of_a_card():
    text = text_need(TEXT_ENCODER, CARD)
    here = Budget(torch.device("cuda:0"), 24 * 10**9)
    line = describe(here, [need(A14B, P720, 2, Speed())], text, [])
    assert re.fullmatch(
        r"memory: transformer 28\.6 GB \+ \d\.\d GB of work, 24\.0 GB free on cuda:0: 2\d of 40 blocks stay, "
        r"1\d are streamed; text encoder 9\.5 GB; RAM 1\.4 GB pinned, files mapped(, [\d.]+ GB free)?",
        line,
    ), line
    few = describe(budget(CARD, 8 * 10**9), [need(TI2V, (48, 1, 16, 16), 2, Speed())], text, [])
    assert "8.0 GB allowed on cuda: " in few
    assert "text encoder 9.5 GB streamed" in few
    assert "(of only 64 tokens: copying will take longer than computing)" in few
