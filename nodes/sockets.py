"""The socket types that ComfyUI has no word for, and inputs that several nodes have."""

from __future__ import annotations

from comfy_api.latest import io

from .bounds import Least

CATEGORY = "WanCore"

WanModel = io.Custom("WANCORE_MODEL")
WanTextEncoder = io.Custom("WANCORE_TEXT_ENCODER")
WanVAE = io.Custom("WANCORE_VAE")


def samples_input() -> io.Latent.Input:
    return io.Latent.Input("samples", tooltip="What the Sampler made.")


def vae_input() -> io.MultiType.Input:
    return io.MultiType.Input(
        "vae", types=[WanVAE, io.Vae], tooltip="From WanCore's Load VAE or ComfyUI's own."
    )


def fps_input(and_also: str = "") -> io.Float.Input:
    """Frames per second; `and_also` is the end of the tooltip."""
    return io.Float.Input(
        "fps",
        default=16.0,
        min=Least(0.01),
        max=1000.0,
        step=1.0,
        round=0.001,
        tooltip=f"Frames per second. The A14B models are made for 16, TI2V-5B for 24.{and_also}",
    )
