"""Whole image-to-video loops against diffusers: the same weights, pictures, noise and noise levels.

This is the reference for end images, which the released code does not have. Its solver walks our noise
levels; its own would differ (it starts at 1 and ends at 0.001).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bench.peers.diffusers import transformer
from wan_core.checkpoints.layouts import LAYOUTS
from wan_core.models.latent_scale import LATENT_STATISTICS, normalize_latent
from wan_core.models.vae_2_2 import VAE22Config, WanVAE22
from wan_core.sampling.denoise import denoise
from wan_core.sampling.experts import plan_experts
from wan_core.sampling.noise import make_noise
from wan_core.schedulers import make_schedule
from wan_core.variants import I2V_A14B, TI2V_5B

from .test_loops import GOLDEN, NAMES, Case, tiny_expert, tiny_vae

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: make test installs it")
STEPS, SHIFT, FRAMES, WIDTH, HEIGHT = 4, 5.0, 9, 64, 32
TOLERANCE = 2e-5


class OnOurLevels(diffusers.UniPCMultistepScheduler):
    """Its solver with the noise levels and timesteps of the released schedule."""

    def set_timesteps(self, steps, device=None, **_):
        super().set_timesteps(steps, device)
        schedule = make_schedule("unipc", steps, SHIFT)
        self.sigmas, self.timesteps = schedule.sigmas, schedule.timesteps


def scheduler():
    return OnOurLevels(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT)


def in_diffusers(module, theirs, family):
    layout = next(one for one in LAYOUTS if one.family == family and one.name == "diffusers")
    ours = module.state_dict()
    theirs.load_state_dict({name: ours[layout.rename(name)] for name in theirs.state_dict()}, strict=True)
    return theirs.eval().requires_grad_(False)


def transformer_in_diffusers(network):
    return in_diffusers(network, transformer(network.config), "wan-transformer")


def tiny_vae_2_2():
    golden = load_file(GOLDEN / "vae22_d4.safetensors")
    vae = WanVAE22(VAE22Config(dim=4, decoder_dim=6))
    vae.load_state_dict({key[2:]: value.float() for key, value in golden.items() if key.startswith("w.")})
    return vae.eval().requires_grad_(False)


def picture(seed):
    """The same picture as a Pillow image and as (H, W, 3) in 0..1, at the size of the video."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return Image.fromarray(pixels), torch.from_numpy(pixels).float() / 255.0


def padded(rows, length):
    """diffusers takes the zero rows that the model attends to; ours adds them itself."""
    return torch.nn.functional.pad(rows, (0, 0, 0, length - len(rows))).unsqueeze(0)


def both(case, variant, vae, pipeline, end_seed=None):
    """(our latent, diffusers') from the same picture or pictures; guidance 3.5 and, low noise, 2.5."""
    schedule = make_schedule("unipc", STEPS, SHIFT)
    channels, cells = variant.latent_channels, variant.vae_stride[1]
    noise = make_noise((channels, (FRAMES - 1) // 4 + 1, HEIGHT // cells, WIDTH // cells), 7)
    start_image, start = picture(1)
    end_image, end = (None, None) if end_seed is None else picture(end_seed)
    experts = {name: tiny_expert(case, word) for word, name in NAMES.items() if name in variant.experts}
    scales = {"high_noise": 3.5, "low_noise": 2.5, "dense": 3.5}
    ours = denoise(
        noise,
        experts,
        case["ctx"].unsqueeze(0),
        case["ctx_null"].unsqueeze(0),
        scales,
        schedule,
        plan_experts(schedule.timesteps, variant.boundary),
        conditioning=variant.prepare(
            start, end, FRAMES, HEIGHT, WIDTH, lambda chunks: normalize_latent(vae.encode_chunks(chunks))
        ),
    )
    text_len = case.meta["config"]["text_len"]
    theirs = pipeline(
        image=start_image,
        last_image=end_image,
        prompt_embeds=padded(case["ctx"], text_len),
        negative_prompt_embeds=padded(case["ctx_null"], text_len),
        height=HEIGHT,
        width=WIDTH,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=scales["high_noise"],
        guidance_scale_2=None if variant.boundary is None else scales["low_noise"],
        latents=noise,
        output_type="latent",
        return_dict=False,
    )[0]
    return ours, theirs


def make_pipeline(vae, transformers, **settings):
    names = dict(
        zip(("transformer", "transformer_2"), map(transformer_in_diffusers, transformers), strict=False)
    )
    pipeline = diffusers.WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=scheduler(), **names, **settings
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("end_seed", [None, 2], ids=["start", "start and end"])
def test_i2v(end_seed):
    case, vae = Case("i2v"), tiny_vae()
    theirs = in_diffusers(vae, diffusers.AutoencoderKLWan(base_dim=8, z_dim=16), "wan-vae-2.1")
    experts = [tiny_expert(case, "high"), tiny_expert(case, "low")]
    pipeline = make_pipeline(theirs, experts, boundary_ratio=I2V_A14B.boundary)
    ours, other = both(case, I2V_A14B, vae, pipeline, end_seed)
    torch.testing.assert_close(ours, other, rtol=0, atol=TOLERANCE)


def test_ti2v():
    case, vae = Case("ti2v"), tiny_vae_2_2()
    mean, std = LATENT_STATISTICS[48]
    theirs = diffusers.AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=6,
        z_dim=48,
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_spatial=16,
        latents_mean=list(mean),
        latents_std=list(std),
    )
    theirs = in_diffusers(vae, theirs, "wan-vae-2.2")
    pipeline = make_pipeline(theirs, [tiny_expert(case, "model")], expand_timesteps=True)
    ours, other = both(case, TI2V_5B, vae, pipeline)
    torch.testing.assert_close(ours, other, rtol=0, atol=TOLERANCE)
