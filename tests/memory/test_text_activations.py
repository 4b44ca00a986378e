"""The text encoder's peak memory is what its count says.

pytest tests/memory/test_text_activations.py
"""

from __future__ import annotations

import pytest
import torch

from bench.live import LiveBytes
from wan_core.models.text_activations import text_bytes
from wan_core.models.umt5 import UMT5Config, UMT5Encoder

SMALL = UMT5Config(vocab_size=64, dim=256, dim_attn=256, dim_ffn=640, num_heads=4, num_layers=2)
WIDE = UMT5Config(vocab_size=64, dim=64, dim_attn=64, dim_ffn=4096, num_heads=2, num_layers=2)


@pytest.mark.parametrize("config", [SMALL, WIDE], ids=["even", "wide feed-forward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("tokens", [2, 20, 77, 512])
def test_the_peak_is_counted(config: UMT5Config, dtype: torch.dtype, tokens: int) -> None:
    encoder = UMT5Encoder(config, device="cpu", dtype=dtype).requires_grad_(False)
    ids, mask = torch.ones(1, 512, dtype=torch.long), torch.arange(512)[None] < tokens
    with torch.no_grad(), LiveBytes() as live:
        encoder(ids, mask)
    assert text_bytes(config, tokens, dtype) == pytest.approx(live.peak, rel=0.05)
