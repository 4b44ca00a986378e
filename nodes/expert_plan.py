"""WanCoreExpertPlan: which expert takes which step, before anything is loaded."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..wan_core.media.sigma_plot import draw_sigma_plot
from ..wan_core.sampling.plan import plan, plan_summary, plan_table
from ..wan_core.schedulers import SCHEDULERS
from ..wan_core.variants import T2V_A14B, TASKS, variant_for_task
from .bounds import Least
from .hosting import say
from .sockets import CATEGORY


class WanCoreExpertPlan(io.ComfyNode):
    """A schedule as text and as a picture; runs no model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanCoreExpertPlan",
            display_name="Expert Plan (WanCore)",
            category=CATEGORY,
            description="Shows each step's timestep, sigma and expert, and where the experts take turns, "
            "before anything runs. Give it the Sampler's numbers.",
            search_aliases=["sigmas", "schedule", "boundary"],
            inputs=[
                *schedule_inputs(),
                io.Combo.Input(
                    "task",
                    options=list(TASKS),
                    default=T2V_A14B.task,
                    tooltip="t2v and i2v have two experts; ti2v is one network, which ignores the boundary.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="plan", tooltip="One line per step."),
                io.Image.Output(display_name="plot", tooltip="The noise level over the steps."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, steps: int, shift: float, boundary: float, scheduler: str, task: str) -> io.NodeOutput:
        split = None if variant_for_task(task).boundary is None else boundary
        planned = plan(task, steps, shift, scheduler, split)
        sigmas = [step["sigma"] for step in planned["steps"]]
        experts = [step["expert"] for step in planned["steps"]]
        picture = draw_sigma_plot([*sigmas, 0.0], experts, split)
        image = torch.from_numpy(np.array(picture)).float().div(255).unsqueeze(0)  # (1, H, W, 3)
        summary = plan_summary(planned)
        say(summary)  # ComfyUI's page shows the pictures among the results, and no text
        shown = {**ui.PreviewImage(image, cls=cls).as_dict(), **ui.PreviewText(summary).as_dict()}
        return io.NodeOutput(plan_table(planned), image, ui=shown)


def schedule_inputs() -> list[io.Input]:
    """The widgets that fix a schedule and its split; the Sampler has the same."""
    return [
        io.Int.Input(
            "steps",
            default=T2V_A14B.steps,
            min=1,
            max=1000,
            tooltip="How many steps there are, both experts' together.",
        ),
        io.Float.Input(
            "shift",
            default=T2V_A14B.shift,
            min=Least(0.001),
            max=1000.0,
            step=0.1,
            round=0.001,
            tooltip="How long the schedule stays at high noise. Released: 12 for T2V, 5 for I2V and TI2V.",
        ),
        io.Float.Input(
            "boundary",
            default=T2V_A14B.boundary,
            min=Least(0.0),
            max=1.0,
            step=0.005,
            round=0.0001,
            advanced=True,
            tooltip="The noise level at which the low-noise expert takes over. Released: 0.875 for T2V, "
            "0.9 for I2V; TI2V has one network and does not use it.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(SCHEDULERS),
            default=SCHEDULERS[0],
            advanced=True,
            tooltip="The solver. unipc is the released default; flowmatch_euler tells exact timesteps, which "
            "4-step LoRAs want.",
        ),
    ]
