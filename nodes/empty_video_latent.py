"""WanCoreEmptyVideoLatent: the size of the video to make."""

from __future__ import annotations

from comfy_api.latest import io

from ..wan_core.errors import WanError
from ..wan_core.request import MAX_FRAMES, MAX_SIDE, check_frames, check_side
from ..wan_core.variants import T2V_A14B, TI2V_5B
from .conditioning import empty_latent
from .sockets import CATEGORY

WIDTH, HEIGHT = 832, 480
MODELS = {"T2V-A14B": T2V_A14B, "TI2V-5B": TI2V_5B}


class WanCoreEmptyVideoLatent(io.ComfyNode):
    """An all-zero LATENT: (1, 16, (frames - 1) / 4 + 1, height / 8, width / 8), or 48 channels and / 16."""

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
                    tooltip=f"Pixels, a multiple of {side} ({TI2V_5B.size_multiple} for TI2V-5B).",
                ),
                io.Int.Input(
                    "height",
                    default=HEIGHT,
                    min=side,
                    max=MAX_SIDE,
                    step=side,
                    tooltip=f"Pixels, a multiple of {side} ({TI2V_5B.size_multiple} for TI2V-5B).",
                ),
                io.Int.Input(
                    "frames",
                    default=T2V_A14B.frames,
                    min=1,
                    max=MAX_FRAMES,
                    step=T2V_A14B.vae_stride[0],
                    tooltip="One more than a multiple of 4. At 16 frames a second, 81 last five seconds.",
                ),
                io.Combo.Input(
                    "model",
                    options=list(MODELS),
                    default=next(iter(MODELS)),
                    optional=True,  # graphs saved before it came do without
                    tooltip="Which model the latent is for: their VAEs differ.",
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
    def execute(cls, width: int, height: int, frames: int, model: str = "T2V-A14B") -> io.NodeOutput:
        variant = MODELS[model]
        check_frames(frames, variant.vae_stride[0])
        check_side("width", width, variant.size_multiple)
        check_side("height", height, variant.size_multiple)
        return io.NodeOutput(empty_latent(variant, width, height, frames))
