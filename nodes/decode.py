"""WanCoreDecode: latents to frames."""

from __future__ import annotations

from typing import Any

import comfy.sd
from comfy_api.latest import io

from .decoded_video import all_frames, check_one_video
from .handles import VAEHandle
from .sockets import CATEGORY, samples_input, vae_input


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
            inputs=[samples_input(), vae_input()],
            outputs=[io.Image.Output(display_name="images", tooltip="The frames, in order.")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: VAEHandle | comfy.sd.VAE) -> io.NodeOutput:
        latent = check_one_video(samples["samples"])
        if isinstance(vae, VAEHandle):
            return io.NodeOutput(all_frames(latent, vae))
        return io.NodeOutput(vae.decode(latent)[0])  # core's is (1, F, H, W, 3)
