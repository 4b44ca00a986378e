"""WanCoreDecodeToVideo: latents to a VIDEO that is decoded while it is saved."""

from __future__ import annotations

from typing import Any

import comfy.sd
from comfy_api.latest import InputImpl, Types, io

from ..wan_core.media.mp4 import frame_rate
from .decoded_video import DecodedVideo, check_one_video
from .handles import VAEHandle
from .sockets import CATEGORY, fps_input, samples_input, vae_input


class WanCoreDecodeToVideo(io.ComfyNode):
    """Raw VAE latents, as ComfyUI keeps them, to one video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanCoreDecodeToVideo",
            display_name="Decode to Video (WanCore)",
            category=CATEGORY,
            description="Turns latents into a video. Decoding waits until the video is saved, and goes along "
            "with it, so that a long video needs no more memory than a short one.",
            search_aliases=["vae decode", "video", "stream"],
            inputs=[samples_input(), vae_input(), fps_input()],
            outputs=[
                io.Video.Output(display_name="video", tooltip="For Save Video, WanCore's or ComfyUI's.")
            ],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: VAEHandle | comfy.sd.VAE, fps: float) -> io.NodeOutput:
        latent, rate = check_one_video(samples["samples"]), frame_rate(fps)
        if isinstance(vae, VAEHandle):
            vae.check_channels(latent)
            return io.NodeOutput(DecodedVideo(latent, vae, rate))
        frames = vae.decode(latent)[0]  # core's is (1, F, H, W, 3), and comes whole
        return io.NodeOutput(InputImpl.VideoFromComponents(Types.VideoComponents(frames, rate)))
