"""Wan2.2 I2V-A14B: image to video, two experts (wan/configs/wan_i2v_A14B.py)."""

from __future__ import annotations

from .negative_prompt import RELEASED_NEGATIVE_PROMPT
from .variant import Variant

I2V_A14B = Variant(
    name="i2v-a14b",
    title="Wan2.2 I2V-A14B",
    task="i2v",
    in_channels=36,  # noise 16, mask 4, image latent 16
    out_channels=16,
    vae_family="wan-vae-2.1",
    vae_stride=(4, 8, 8),
    latent_channels=16,
    boundary=0.900,
    shift=5.0,
    steps=40,
    guidance_scale_low=3.5,
    guidance_scale_high=3.5,
    fps=16,
    frames=81,
    sizes=((1280, 720), (720, 1280), (832, 480), (480, 832)),
    negative_prompt=RELEASED_NEGATIVE_PROMPT,
)
