"""The small parts against recorded answers of the released ones: a fault here is named before a network is.

Golden file: `sinusoid.t` with float64 `emb64`; per head width, `in` (1, 24, 2, d) and the same rotated on a
2 x 3 x 4 grid; the VAE's norm with random gamma.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from wan_core.models.rope import apply_rope, rope_table
from wan_core.models.transformer import time_sinusoid
from wan_core.models.vae_layers import RMSNorm


@pytest.fixture(scope="module")
def golden(root):
    return load_file(root / "tests/parity/golden/units.safetensors")


def test_time_sinusoid_is_the_float64_one_rounded_once(golden):
    ours = time_sinusoid(golden["sinusoid.t"], 256)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, golden["sinusoid.emb64"].float())


@pytest.mark.parametrize("head_dim", [48, 128])
def test_rope_on_a_grid(golden, head_dim):
    table = rope_table((2, 3, 4), head_dim, torch.device("cpu"))
    rotated = apply_rope(golden[f"rope.d{head_dim}.in"].clone(), table)
    torch.testing.assert_close(rotated, golden[f"rope.d{head_dim}.out_grid_2_3_4"], rtol=0, atol=1e-6)


def test_vae_norm(golden):
    normed = RMSNorm(golden["norm.vae_gamma"])(golden["norm.vae_x"])
    torch.testing.assert_close(normed, golden["norm.vae_out"], rtol=0, atol=1e-6)
