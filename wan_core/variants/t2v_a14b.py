"""Wan2.2 T2V-A14B: text to video, two experts (wan/configs/wan_t2v_A14B.py)."""

from __future__ import annotations

from .negative_prompt import RELEASED_NEGATIVE_PROMPT
from .variant import Variant

T2V_A14B = Variant(
    name="t2v-a14b",
    title="Wan2.2 T2V-A14B",
    task="t2v",
    in_channels=16,
    out_channels=16,
    vae_family="wan-vae-2.1",
    vae_stride=(4, 8, 8),
    latent_channels=16,
    boundary=0.875,
    shift=12.0,
    steps=40,
    guidance_scale_low=3.0,
    guidance_scale_high=4.0,
    fps=16,
    frames=81,
    sizes=((1280, 720), (720, 1280), (832, 480), (480, 832)),
    negative_prompt=RELEASED_NEGATIVE_PROMPT,
)
