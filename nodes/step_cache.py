"""WanCoreStepCache: predictions that are foretold to be near the last one are not made."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..wan_core.sampling.step_cache import MAX_THRESHOLD, StepCache
from .bounds import Least
from .handles import ModelHandle
from .sockets import CATEGORY, WanModel


class WanCoreStepCache(io.ComfyNode):
    """A model handle to one whose sampling takes the last prediction again where it is near enough."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanCoreStepCache",
            display_name="Step Cache (WanCore)",
            category=CATEGORY,
            description="Faster, and not the same video: a step whose prediction is foretold to be near the "
            "last one takes that again. The node that samples says which steps it reused.",
            search_aliases=["easycache", "magcache", "teacache", "cache", "fast"],
            inputs=[
                WanModel.Input("model", tooltip="From Load Model, Load LoRA or another node that gives one."),
                io.Float.Input(
                    "threshold",
                    default=0.05,
                    min=Least(0.0),
                    max=MAX_THRESHOLD,
                    step=0.01,
                    round=0.001,
                    tooltip="How far off a reused prediction may be, as a share of it. 0 computes all steps.",
                ),
            ],
            outputs=[WanModel.Output(display_name="model", tooltip="For WanCore's Sampler.")],
        )

    @classmethod
    def execute(cls, model: ModelHandle, threshold: float) -> io.NodeOutput:
        return io.NodeOutput(replace(model, step_cache=StepCache(threshold) if threshold else None))
