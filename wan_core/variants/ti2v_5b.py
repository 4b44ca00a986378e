"""Wan2.2 TI2V-5B: text, or text and image, to video; one network (wan/configs/wan_ti2v_5B.py)."""

from __future__ import annotations

from .negative_prompt import RELEASED_NEGATIVE_PROMPT
from .variant import Variant

TI2V_5B = Variant(
    name="ti2v-5b",
    title="Wan2.2 TI2V-5B",
    task="ti2v",
    in_channels=48,
    out_channels=48,
    vae_family="wan-vae-2.2",
    vae_stride=(4, 16, 16),
    latent_channels=48,
    boundary=None,
    shift=5.0,
    steps=50,
    guidance_scale_low=5.0,
    guidance_scale_high=5.0,
    fps=24,
    frames=121,
    sizes=((1280, 704), (704, 1280)),
    negative_prompt=RELEASED_NEGATIVE_PROMPT,
)
