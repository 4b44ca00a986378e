"""WanCoreEmptyVideoLatent: the size of the video to make."""

from __future__ import annotations

import comfy.model_management as mm
import torch
from comfy_api.latest import io

from ..wan_core.errors import WanError
from ..wan_core.request import MAX_FRAMES, MAX_SIDE, check_frames, check_side
from ..wan_core.variants import T2V_A14B
from .sockets import CATEGORY

WIDTH, HEIGHT = 832, 480


class WanCoreEmptyVideoLatent(io.ComfyNode):
    """An all-zero LATENT (1, 16, (frames - 1) / 4 + 1, height / 8, width / 8)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side = T2V_A14B.size_multiple
        return io.Schema(
            node_id="WanCoreEmptyVideoLatent",
            display_name="Empty Video Latent (WanCore)",
            category=CATEGORY,
            description="Says how large and how long the video will be.",
            search_aliases=["resolution", "video size", "frames"],
            inputs=[
                io.Int.Input(
                    "width",
                    default=WIDTH,
                    min=side,
                    max=MAX_SIDE,
                    step=side,
                    tooltip=f"Pixels, a multiple of {side}.",
                ),
                io.Int.Input(
                    "height",
                    default=HEIGHT,
                    min=side,
                    max=MAX_SIDE,
                    step=side,
                    tooltip=f"Pixels, a multiple of {side}.",
                ),
                io.Int.Input(
                    "frames",
                    default=T2V_A14B.frames,
                    min=1,
                    max=MAX_FRAMES,
                    step=T2V_A14B.vae_stride[0],
                    tooltip="One more than a multiple of 4. At 16 frames a second, 81 last five seconds.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="For WanCore's Sampler.")],
        )

    @classmethod
    def validate_inputs(cls, frames: object) -> bool | str:
        """Refuse a bad frame count when the graph is queued.

        Core repeats a message once for each input named here, so only this one is; the sizes follow in
        `execute`, still before any sampling. What is no int comes from a link and is not known yet (None), or
        core has complained about it already.
        """
        try:
            if isinstance(frames, int):
                check_frames(frames, T2V_A14B.vae_stride[0])
        except WanError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, width: int, height: int, frames: int) -> io.NodeOutput:
        every, down, across = T2V_A14B.vae_stride
        check_frames(frames, every)
        check_side("width", width, T2V_A14B.size_multiple)
        check_side("height", height, T2V_A14B.size_multiple)
        shape = (1, T2V_A14B.latent_channels, (frames - 1) // every + 1, height // down, width // across)
        # The ratio is core's note by which its own samplers fit an empty latent to other models.
        samples = torch.zeros(shape, device=mm.intermediate_device())
        return io.NodeOutput({"samples": samples, "downscale_ratio_spacial": down})
