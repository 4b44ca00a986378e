"""The small parts against recorded answers of the released ones: a fault here is named before a network is.

Golden file: `sinusoid.t` with float64 `emb64`; per head width, `in` (1, 24, 2, d) and the same rotated on a
2 x 3 x 4 grid; the VAE's norm with random gamma; the Wan2.2 VAE's shortcuts of one input, and its patches.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from wan_core.models.rope import apply_rope, rope_table
from wan_core.models.transformer import time_sinusoid
from wan_core.models.vae_2_2 import average_down, patchify, repeat_up, unpatchify
from wan_core.models.vae_layers import RMSNorm, to_list, to_tensor


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
    normed = RMSNorm(golden["norm.vae_gamma"])(golden["norm.vae_x"].movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(normed, golden["norm.vae_out"], rtol=0, atol=1e-6)


def test_vae_2_2_shortcut_down(golden):
    """Three frames in twos: a frame of zeros comes first."""
    x = to_list(golden["vae22.x"])
    assert_close(to_tensor(average_down(x, 4, frames=1, cells=2)), golden["vae22.avgdown_t1s2_out4"])
    assert_close(to_tensor(average_down(x, 8, frames=2, cells=2)), golden["vae22.avgdown_t2s2_out8"])


@pytest.mark.parametrize(
    ("name", "frames", "starts"),
    [("t1s2_out4", 1, True), ("t2s2_out2", 2, False), ("t2s2_out2_first", 2, True)],
)
def test_vae_2_2_shortcut_up(golden, name, frames, starts):
    expected = golden[f"vae22.dupup_{name}"]
    nothing = [torch.zeros_like(frame) for frame in to_list(expected)]
    assert torch.equal(to_tensor(repeat_up(to_list(golden["vae22.x"]), nothing, frames, starts)), expected)


def test_vae_2_2_patches(golden):
    assert torch.equal(patchify(golden["vae22.patchify_in"]), golden["vae22.patchify_out"])
    assert torch.equal(unpatchify(golden["vae22.patchify_out"]), golden["vae22.patchify_in"])


def assert_close(ours, reference):
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-6)
