"""The Wan2.1 VAE against recorded answers of the released code, and against diffusers.

Golden file: a VAE of base width 8, random bf16 weights under `w.`; `enc_*`: pixels `x`, raw latent `mu`,
normalised latent `z`; `dec_*`: normalised latent `z`, pixels before the clamp `raw`. No batch axis.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from wan_core.checkpoints.layouts import LAYOUTS, VAE_2_1
from wan_core.errors import WanError
from wan_core.models.latent_scale import denormalize_latent, normalize_latent
from wan_core.models.vae_2_1 import VAEConfig, WanVAE

TINY = VAEConfig(dim=8)
ENCODED = ("enc_t1", "enc_t5", "enc_t9", "enc_t81", "enc_t7_truncates", "enc_odd_20x28")
DECODED = ("dec_l1", "dec_l2", "dec_l3", "dec_l6", "dec_l21")


@pytest.fixture(scope="module")
def golden(root):
    return load_file(root / "tests/parity/golden/vae21_d8.safetensors")


@pytest.fixture(scope="module")
def vae(golden):
    vae = WanVAE(TINY)
    vae.load_state_dict({k[2:]: v.float() for k, v in golden.items() if k.startswith("w.")}, strict=True)
    return vae.eval().requires_grad_(False)


@pytest.mark.parametrize("case", ENCODED)
def test_encode_gives_the_recorded_latents(golden, vae, case):
    raw = vae.encode(golden[f"{case}.x"].float()[None])
    assert_close(raw[0], golden[f"{case}.mu"])
    assert_close(normalize_latent(raw)[0], golden[f"{case}.z"])


@pytest.mark.parametrize("case", DECODED)
def test_decode_gives_the_recorded_pixels(golden, vae, case):
    video = vae.decode(denormalize_latent(golden[f"{case}.z"].float()[None]))
    assert_close(video[0], golden[f"{case}.raw"])


def test_bf16_weights_compute_in_the_dtype_of_the_video(golden, vae):
    """As a text encoder or transformer does: half the memory at rest, none of it lost in the numbers."""
    stored = WanVAE(TINY, dtype=torch.bfloat16).eval().requires_grad_(False)
    stored.load_state_dict({k[2:]: v for k, v in golden.items() if k.startswith("w.")})
    raw = denormalize_latent(golden["dec_l3.z"].float()[None])
    video = stored.decode(raw)
    assert_close(video, vae.decode(raw))
    assert_close(stored.encode(video), vae.encode(video))
    assert stored.decode(raw.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("frames", [1, 5, 13, 21])
def test_chunks_equal_the_whole_clip(vae, frames):
    video = torch.rand(2, 3, frames, 16, 24, generator=seeded(frames)) * 2 - 1
    raw = vae.encode(video)
    assert_close(raw, vae.encode_whole(video))
    assert_close(vae.decode(raw), vae.decode_whole(raw))


def test_chunks_come_as_one_frame_then_fours(vae):
    raw = torch.randn(1, 16, 4, 2, 3, generator=seeded(0))
    chunks = list(vae.decode_chunks(raw))
    assert [tuple(c.shape) for c in chunks] == [(1, 3, n, 16, 24) for n in (1, 4, 4, 4)]


def test_a_decoded_frame_never_depends_on_later_latents(vae):
    raw = torch.randn(1, 16, 4, 2, 2, generator=seeded(1))
    changed = raw.clone()
    changed[:, :, 3] += 1.0
    before, after = vae.decode(raw), vae.decode(changed)
    assert torch.equal(before[:, :, :9], after[:, :, :9])
    assert not torch.equal(before[:, :, 9:], after[:, :, 9:])


def test_two_clips_at_once_keep_apart(vae):
    first, second = (torch.randn(1, 16, 3, 2, 2, generator=seeded(n)) for n in (2, 3))
    interleaved = list(zip(vae.decode_chunks(first), vae.decode_chunks(second), strict=True))
    assert_close(torch.cat([a for a, _ in interleaved], dim=2), vae.decode(first))
    assert_close(torch.cat([b for _, b in interleaved], dim=2), vae.decode(second))


@pytest.mark.parametrize(
    ("method", "shape"),
    [("decode", (1, 48, 2, 4, 4)), ("encode", (1, 4, 5, 16, 16)), ("encode", (3, 5, 16, 16))],
)
def test_a_wrong_shape_is_told_in_one_line(vae, method, shape):
    with pytest.raises(WanError) as caught:
        getattr(vae, method)(torch.zeros(shape))
    assert str(shape) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_released_size_has_the_released_keys_shapes_and_parameters(root):
    released = WanVAE(VAEConfig(), device="meta")
    shapes = json.loads((root / "tests/parity/golden/keymaps.json").read_text())["vae2_1"]["shapes"]
    assert {name: list(value.shape) for name, value in released.state_dict().items()} == shapes
    assert len(shapes) == 194
    assert sum(p.numel() for p in released.parameters()) == 126_892_531


def test_agrees_with_diffusers(vae):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: make test installs it")
    theirs = diffusers.AutoencoderKLWan(base_dim=8, z_dim=16).eval().requires_grad_(False)
    names = [name for name in theirs.state_dict() if not name.startswith(("latents_mean", "latents_std"))]
    layout = next(one for one in LAYOUTS if one.family == VAE_2_1 and one.name == "diffusers")
    ours = vae.state_dict()
    theirs.load_state_dict({name: ours[layout.rename(name)] for name in names}, strict=True)
    video = torch.rand(1, 3, 9, 16, 16, generator=seeded(5)) * 2 - 1
    raw = vae.encode(video)
    assert_close(raw, theirs.encode(video).latent_dist.mode())
    assert_close(vae.decode(raw).clamp(-1, 1), theirs.decode(raw).sample)


def seeded(number):
    return torch.Generator().manual_seed(number)


def assert_close(ours, reference):
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)
