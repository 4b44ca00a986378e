"""WanCoreSpeed: what a model may trade for speed and memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..wan_core.attention import NAMES
from ..wan_core.speed import RESIDUALS, Speed
from .handles import ModelHandle
from .sockets import CATEGORY, WanModel

EXACT = Speed()


class WanCoreSpeed(io.ComfyNode):
    """A model handle to one with other speed settings; no weights are read again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanCoreSpeed",
            display_name="Speed (WanCore)",
            category=CATEGORY,
            description="What a Wan2.2 model may trade for speed and memory. Without this node it computes "
            "exactly, with the fastest exact attention that is there.",
            search_aliases=["sage attention", "flash attention", "torch compile", "fp8", "fast"],
            inputs=[
                WanModel.Input("model", tooltip="From Load Model, Load LoRA or another node that gives one."),
                io.Combo.Input(
                    "attention",
                    options=list(NAMES),
                    default=EXACT.attention,
                    tooltip="auto: the fastest exact kernel that is installed. sage computes in 8 bits and "
                    "is not exact; all others are. One that is missing or fails its check leaves it to sdpa.",
                ),
                io.Boolean.Input(
                    "compile",
                    default=EXACT.compile,
                    tooltip="torch.compile the blocks. Exact up to rounding; the first step takes a minute "
                    "longer. Without a compiler, and under LoRAs, nothing changes.",
                ),
                io.Combo.Input(
                    "residual",
                    options=list(RESIDUALS),
                    default=EXACT.residual,
                    advanced=True,
                    tooltip="What the network's running sum is kept in. float32 is as released; 16-bit takes "
                    "less memory and is not exact.",
                ),
                io.Boolean.Input(
                    "fp8_matmul",
                    default=EXACT.fp8_matmul,
                    advanced=True,
                    tooltip="Multiply weights that are stored in fp8 in fp8, on cards that can (RTX 40 and "
                    "newer, H100). Faster and not exact.",
                ),
            ],
            outputs=[WanModel.Output(display_name="model", tooltip="For WanCore's Sampler.")],
        )

    @classmethod
    def execute(cls, model: ModelHandle, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(replace(model, speed=Speed(**settings)))
