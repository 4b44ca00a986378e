"""WanCoreGuidanceSchedule: steps that go without guidance, in half the time."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..wan_core.sampling.guidance_schedule import GuidanceSchedule
from .handles import ModelHandle
from .sockets import CATEGORY, WanModel


class WanCoreGuidanceSchedule(io.ComfyNode):
    """A model handle to one that is sampled without guidance on some steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanCoreGuidanceSchedule",
            display_name="Guidance Schedule (WanCore)",
            category=CATEGORY,
            description="Faster, and not the same video: on the steps named here the negative prompt is not "
            "looked at, and a step takes half the time.",
            search_aliases=["cfg schedule", "skip cfg", "cfg", "guidance interval"],
            inputs=[
                WanModel.Input("model", tooltip="From Load Model, Load LoRA or another node that gives one."),
                io.String.Input(
                    "skip_steps",
                    default="first 4",
                    tooltip="The steps without guidance, with commas between: first 4, last 2, 60%-100%, or "
                    "counted from 0 as 10-19 or 7. Empty guides them all.",
                ),
            ],
            outputs=[WanModel.Output(display_name="model", tooltip="For WanCore's Sampler.")],
        )

    @classmethod
    def execute(cls, model: ModelHandle, skip_steps: str) -> io.NodeOutput:
        schedule = GuidanceSchedule(skip_steps) if skip_steps.strip() else None
        return io.NodeOutput(replace(model, guidance_schedule=schedule))
