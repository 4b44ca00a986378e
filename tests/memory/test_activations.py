"""What a prediction holds above weights and inputs, counted at real size on the meta device.

pytest tests/memory/test_activations.py
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench.live import LiveBytes, attention_kernel
from wan_core.models.activations import held_bytes, transformer_bytes
from wan_core.models.rope import rope_table
from wan_core.models.transformer import TransformerConfig, WanTransformer

T2V, I2V = TransformerConfig(), TransformerConfig(in_channels=36)
TI2V = TransformerConfig(48, 48, 3072, 14336, 24, 30)
LAYERS = 2  # a block lets go of what it held, so two show what forty hold
FLOAT32, BF16 = torch.float32, torch.bfloat16

# Latent cells, then GB: the target and what it comes to, for a float32 stream and a 16-bit one.
REAL = {
    "T2V 1280x720x81": (T2V, (21, 90, 160), False, (3.8, 3.361), (3.0, 2.587)),
    "I2V 1280x720x81": (I2V, (21, 90, 160), False, (3.8, 3.361), (3.0, 2.587)),
    "T2V 832x480x81": (T2V, (21, 60, 104), False, (2.1, 1.584), (1.7, 1.249)),
    "TI2V 1280x704x121": (TI2V, (31, 44, 80), True, (1.1, 0.812), (0.9, 0.645)),
}


def peak(config, cells, residual=FLOAT32, compute=BF16, batch=1, first_clean=False, rows=512, device="meta"):
    """Bytes at the worst moment of one prediction."""
    network = WanTransformer(config, device=device, dtype=compute).requires_grad_(False)
    network.residual_dtype, network.attention = residual, attention_kernel
    latent = torch.empty(batch, config.in_channels, *cells, device=device)
    context = torch.empty(batch, rows, config.text_dim, device=device, dtype=compute)
    timestep = torch.full((batch,), 900.0)
    if first_clean:
        frame = cells[1] * cells[2] // 4
        timestep = timestep[:, None].repeat(1, cells[0] * frame)
        timestep[:, :frame] = 0.0
    rope_table.cache_clear()
    with torch.inference_mode(), LiveBytes() as live:
        network(latent, timestep, context)
    rope_table.cache_clear()
    return live.peak


@pytest.mark.parametrize("residual", [FLOAT32, BF16], ids=["float32", "16-bit"])
@pytest.mark.parametrize("name", REAL)
def test_a_prediction_at_real_size(name, residual):
    config, cells, first_clean, *figures = REAL[name]
    target, expected = figures[residual == BF16]
    shallow = dataclasses.replace(config, num_layers=LAYERS)
    counted = peak(shallow, cells, residual, first_clean=first_clean)
    assert counted / 1e9 == pytest.approx(expected, abs=2e-3)
    assert expected <= target
    assert transformer_bytes(config, cells, BF16, residual, device_type="meta") == pytest.approx(
        counted, rel=0.05
    )
    with_texts = transformer_bytes(config, cells, BF16, residual, kept_texts=1, device_type="meta")
    assert with_texts / 1e9 <= target + 0.01  # every row of a prompt of 512 kept for all steps


TOY = TransformerConfig(dim=256, ffn_dim=1024, num_heads=2, num_layers=2, text_dim=64)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("compute", [FLOAT32, BF16])
@pytest.mark.parametrize("residual", [FLOAT32, BF16])
@pytest.mark.parametrize(
    ("device", "cells"), [("meta", (21, 60, 104)), ("meta", (5, 32, 32)), ("cpu", (5, 32, 32))]
)
def test_the_formula_is_the_count(device, cells, residual, compute, batch):
    counted = peak(TOY, cells, residual, compute, batch, rows=77, device=device)
    formula = transformer_bytes(TOY, cells, compute, residual, batch, 77, device_type=device)
    assert formula == pytest.approx(counted, rel=0.05)


def test_a_compile_that_failed_changes_no_count():
    """It leaves torch's frame evaluator in place, under which Python holds what a function is given."""

    def backend(*_: object) -> None:
        raise RuntimeError("no compiler here")

    with pytest.raises(RuntimeError, match="no compiler here"):
        torch.compile(lambda x: x + 1, backend=backend, fullgraph=True)(torch.ones(1))
    formula = transformer_bytes(TOY, (5, 32, 32), BF16, BF16, device_type="cpu")
    assert formula == pytest.approx(peak(TOY, (5, 32, 32), BF16, BF16, device="cpu"), rel=0.05)


def test_kept_texts_are_counted():
    network = WanTransformer(TOY, device="meta", dtype=BF16).requires_grad_(False)
    network.attention = attention_kernel
    latent, context = torch.empty(1, 16, 1, 4, 4, device="meta"), torch.empty(1, 512, 64, device="meta")
    with torch.inference_mode(), LiveBytes() as live:
        text = network.read_text(context)
        network(latent, torch.full((1,), 900.0), text)
        kept = sum(tensor.nbytes for pair in text.kept.values() for tensor in pair)
    plain, with_text = (
        transformer_bytes(TOY, (1, 4, 4), BF16, kept_texts=n, device_type="meta") for n in (0, 1)
    )
    assert with_text - plain == pytest.approx(kept - kept / TOY.num_layers, rel=0.01)
    assert live.now >= kept


def test_held_weights_of_the_released_block():
    assert held_bytes(T2V, BF16) == 2 * 5120 * 2 * 13824
    assert held_bytes(TOY, FLOAT32) == 4 * 256 * 2 * 1024
