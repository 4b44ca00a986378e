"""The Wan2.2 VAE against recorded answers of the released code, and against diffusers.

Golden file: a VAE of base widths 4 and 6, random bf16 weights under `w.`; `enc_*`: pixels `x`, raw latent
`mu`, normalised latent `z`; `dec_*`: normalised latent `z`, pixels before the clamp `raw`. No batch axis.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from wan_core.checkpoints import vae_config
from wan_core.checkpoints.header import TensorInfo
from wan_core.checkpoints.layouts import LAYOUTS, VAE_2_2
from wan_core.errors import WanError
from wan_core.models.latent_scale import denormalize_latent, normalize_latent
from wan_core.models.vae import make_vae
from wan_core.models.vae_2_1 import VAEConfig, WanVAE
from wan_core.models.vae_2_2 import VAE22Config, WanVAE22

TINY = VAE22Config(dim=4, decoder_dim=6)
ENCODED = ("enc_t1", "enc_t5", "enc_t9", "enc_t17", "enc_t7_truncates")
DECODED = ("dec_l1", "dec_l2", "dec_l3", "dec_l5")


@pytest.fixture(scope="module")
def golden(root):
    return load_file(root / "tests/parity/golden/vae22_d4.safetensors")


@pytest.fixture(scope="module")
def vae(golden):
    vae = WanVAE22(TINY)
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


@pytest.mark.parametrize("frames", [1, 5, 13, 21])
def test_chunks_equal_the_whole_clip(vae, frames):
    video = torch.rand(2, 3, frames, 16, 32, generator=seeded(frames)) * 2 - 1
    raw = vae.encode(video)
    assert_close(raw, vae.encode_whole(video))
    assert_close(vae.decode(raw), vae.decode_whole(raw))


def test_chunks_come_as_one_frame_then_fours(vae):
    raw = torch.randn(1, 48, 3, 2, 3, generator=seeded(0))
    chunks = list(vae.decode_chunks(raw))
    assert [tuple(c.shape) for c in chunks] == [(1, 3, n, 32, 48) for n in (1, 4, 4)]


def test_two_clips_at_once_keep_apart(vae):
    first, second = (torch.randn(1, 48, 3, 1, 2, generator=seeded(n)) for n in (2, 3))
    interleaved = list(zip(vae.decode_chunks(first), vae.decode_chunks(second), strict=True))
    assert_close(torch.cat([a for a, _ in interleaved], dim=2), vae.decode(first))
    assert_close(torch.cat([b for _, b in interleaved], dim=2), vae.decode(second))


def test_bf16_weights_compute_in_the_dtype_of_the_video(golden, vae):
    stored = WanVAE22(TINY, dtype=torch.bfloat16).eval().requires_grad_(False)
    stored.load_state_dict({k[2:]: v for k, v in golden.items() if k.startswith("w.")})
    raw = denormalize_latent(golden["dec_l2.z"].float()[None])
    assert_close(stored.decode(raw), vae.decode(raw))
    assert stored.decode(raw.bfloat16()).dtype == torch.bfloat16


def test_one_training_step_reaches_every_weight():
    """The whole-clip path is differentiable end to end: the shortcuts hide no layer from the gradient."""
    vae = WanVAE22(TINY)
    vae.decode_whole(
        vae.encode_whole(torch.rand(1, 3, 9, 16, 16, generator=seeded(8)))
    ).square().sum().backward()
    half = vae.config.latent_channels  # of conv1 and the head, the half that says the variance is not used
    assert [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert not vae.conv1.weight.grad[half:].any()


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("decode", (1, 16, 2, 4, 4)),
        ("encode", (1, 4, 5, 16, 16)),
        ("encode", (3, 5, 16, 16)),
        ("encode", (1, 3, 0, 16, 16)),
    ],
)
def test_a_wrong_shape_is_told_in_one_line(vae, method, shape):
    with pytest.raises(WanError) as caught:
        getattr(vae, method)(torch.zeros(shape))
    assert str(shape) in str(caught.value)
    assert "Wan2.2 VAE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_size_that_is_no_multiple_of_16_gets_one_that_is(vae):
    with pytest.raises(WanError, match=r"40 x 24 pixels.* multiples of 16; use 32 x 32$"):
        vae.encode(torch.zeros(1, 3, 1, 24, 40))


def test_released_size_has_the_released_keys_shapes_and_parameters(root):
    released = WanVAE22(VAE22Config(), device="meta")
    shapes = json.loads((root / "tests/parity/golden/keymaps.json").read_text())["vae2_2"]["shapes"]
    assert {name: list(value.shape) for name, value in released.state_dict().items()} == shapes
    assert len(shapes) == 196
    assert sum(p.numel() for p in released.parameters()) == 704_688_668


@pytest.mark.parametrize(
    "config",
    [
        VAE22Config(),
        TINY,
        VAE22Config(dim=8, decoder_dim=4, dim_mult=(1, 2, 2), temporal_downsample=(True, True)),
        VAEConfig(),
        VAEConfig(dim=4),
    ],
)
def test_the_sizes_are_read_from_the_shapes(config):
    vae = make_vae(config, device="meta")
    assert type(vae) is (WanVAE22 if isinstance(config, VAE22Config) else WanVAE)
    assert vae_config({name: info(value) for name, value in vae.state_dict().items()}) == config


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_agrees_with_diffusers(vae, theirs, frames):
    video = torch.rand(1, 3, frames, 32, 48, generator=seeded(frames)) * 2 - 1
    raw = vae.encode(video)
    assert_close(raw, theirs.encode(video).latent_dist.mode())
    assert_close(vae.decode(raw).clamp(-1, 1), theirs.decode(raw).sample)


@pytest.fixture(scope="module")
def theirs(vae):
    """diffusers' class with the settings of TI2V-5B's VAE and our weights under its names."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: make test installs it")
    theirs = diffusers.AutoencoderKLWan(
        base_dim=TINY.dim,
        decoder_base_dim=TINY.decoder_dim,
        z_dim=48,
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_spatial=16,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
    )
    layout = next(one for one in LAYOUTS if one.family == VAE_2_2 and one.name == "diffusers")
    ours = vae.state_dict()
    theirs.load_state_dict({name: ours[layout.rename(name)] for name in theirs.state_dict()}, strict=True)
    return theirs.eval().requires_grad_(False)


@pytest.mark.parametrize("channels", [16, 48])
def test_normalising_and_back_is_the_identity(channels):
    raw = torch.randn(1, channels, 2, 3, 3, generator=seeded(4)) * 3
    assert_close(denormalize_latent(normalize_latent(raw)), raw)


@pytest.mark.parametrize("shape", [(1, 32, 2, 4, 4), (1, 4, 1, 8, 8), (48, 2, 4, 4)])
def test_only_the_two_vaes_latents_have_a_scale(shape):
    for convert in (normalize_latent, denormalize_latent):
        with pytest.raises(WanError) as caught:
            convert(torch.zeros(shape))
        assert str(shape) in str(caught.value)
        assert "\n" not in str(caught.value)


def info(value):
    return TensorInfo("F32", tuple(value.shape), 0, 4 * value.numel(), Path("vae.safetensors"))


def seeded(number):
    return torch.Generator().manual_seed(number)


def assert_close(ours, reference):
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)
