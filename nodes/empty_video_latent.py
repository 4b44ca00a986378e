"""WanCoreEmptyVideoLatent: the size of the video to make."""

from __future__ import annotations

from comfy_api.latest import io

from ..wan_core.request import MAX_FRAMES, MAX_SIDE, ClipSize
from ..wan_core.variants import T2V_A14B, TI2V_5B, Variant
from .conditioning import empty_latent
from .hosting import log, say
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
                    tooltip=f"Pixels; the nearest multiple of {side} is made, for TI2V-5B of "
                    f"{TI2V_5B.size_multiple}.",
                ),
                io.Int.Input(
                    "height",
                    default=HEIGHT,
                    min=side,
                    max=MAX_SIDE,
                    step=side,
                    tooltip=f"Pixels; the nearest multiple of {side} is made, for TI2V-5B of "
                    f"{TI2V_5B.size_multiple}.",
                ),
                io.Int.Input(
                    "frames",
                    default=T2V_A14B.frames,
                    min=1,
                    max=MAX_FRAMES,
                    step=T2V_A14B.vae_stride[0],
                    tooltip="One more than a multiple of 4 is made, the nearest. At 16 frames a second, 81 "
                    "last five seconds.",
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
    def execute(cls, width: int, height: int, frames: int, model: str = "T2V-A14B") -> io.NodeOutput:
        variant = MODELS[model]
        asked = ClipSize(width, height, frames)
        used = asked.fitted(variant)
        say_size(asked, used, variant)
        return io.NodeOutput(empty_latent(variant, used.width, used.height, used.frames))


def say_size(asked: ClipSize, used: ClipSize, variant: Variant) -> None:
    """On the node the size there will be, and where it is not what was asked for, in the log as well."""
    words = used.made_of(asked, variant)
    say(words)
    if used != asked:
        log.info(words)
