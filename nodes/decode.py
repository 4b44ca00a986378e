"""WanCoreDecode: latents to frames."""

from __future__ import annotations

from typing import Any

import comfy.sd
import torch
from comfy_api.latest import io

from ..wan_core.errors import WanError
from .handles import VAEHandle
from .sockets import CATEGORY, WanVAE


class WanCoreDecode(io.ComfyNode):
    """Raw VAE latents, as ComfyUI keeps them, to the frames of one video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanCoreDecode",
            display_name="Decode (WanCore)",
            category=CATEGORY,
            description="Turns latents into frames, one latent frame (four frames of video) at a time.",
            search_aliases=["vae decode"],
            inputs=[
                io.Latent.Input("samples", tooltip="What the Sampler made."),
                io.MultiType.Input(
                    "vae",
                    types=[WanVAE, io.Vae],
                    tooltip="From WanCore's Load VAE or ComfyUI's own.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The frames, in order.")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: VAEHandle | comfy.sd.VAE) -> io.NodeOutput:
        latent = samples["samples"]
        if latent.ndim != 5 or latent.shape[0] != 1:
            raise WanError(
                f"samples: shape {tuple(latent.shape)} is not one video (1, channels, frames, height, "
                "width); decode the latent of one Wan video at a time"
            )
        if isinstance(vae, VAEHandle):
            return io.NodeOutput(torch.cat(list(vae.decode(latent))))
        return io.NodeOutput(vae.decode(latent)[0])  # core's is (1, F, H, W, 3)
