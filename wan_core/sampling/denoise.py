"""The sampling loop: noise becomes a latent, one step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

from ..errors import WanError
from ..schedulers import Schedule
from ..variants import Conditioning
from .experts import ExpertPlan
from .guidance import Context, Predict, guidance_by_expert, guided_velocity, step_scales
from .guidance_schedule import GuidanceSchedule, unguided_steps
from .step_cache import Reuse, StepCache


@dataclass(frozen=True)
class StepInfo:
    """One finished step, for progress bars and previews.

    The tensors are the loop's own: only read them. Nothing changes them later: a preview may take its time.
    """

    index: int  # from 0
    total: int
    timestep: float  # what the network was told: an int, but for schedules that tell it fractions
    sigma: float  # the noise level before the step
    expert: str
    latent: Tensor  # (B, C, F, H, W) after the step
    estimate: Callable[[], Tensor] = field(repr=False)  # works `denoised` out
    skipped: bool = False  # the step cache had the answers: the network was not asked
    unguided: bool = False  # the guidance schedule left guidance out

    @cached_property
    def denoised(self) -> Tensor:
        """(B, C, F, H, W) where the step believed the clean latent to be; made when first asked for."""
        return self.estimate()


class Experts(Protocol[Context]):
    """Hands out an expert when its turn comes, so that it can be loaded then and the other one let go."""

    def at(self, name: str) -> Predict[Context]:
        """The expert by name; asked once, before its first step."""
        ...


@torch.no_grad()
def denoise(
    noise: Tensor,
    experts: Experts[Context] | Mapping[str, Predict[Context]],
    context: Context,
    negative_context: Context | None,
    guidance_scale: float | Mapping[str, float],
    schedule: Schedule,
    plan: ExpertPlan,
    on_step: Callable[[StepInfo], None] | None = None,
    conditioning: Conditioning | None = None,
    step_cache: StepCache | None = None,
    guidance_schedule: GuidanceSchedule | None = None,
) -> Tensor:
    """Follow the schedule from noise to a clean (normalised) latent, each step by the expert the plan names.

    noise: (B, C, F, H, W), any float type, on the device to sample on; the answer has its shape, in float32.
    guidance_scale: one number, or one per expert name. conditioning: the pictures' part, None for text alone.
    step_cache, guidance_schedule: None computes every step, and guides it.
    What on_step raises ends the run. Raises WanError when the latent stops being finite.
    """
    by_expert = guidance_by_expert(guidance_scale, plan.experts)
    unguided = unguided_steps(guidance_schedule, schedule.steps)
    scales = step_scales(by_expert, plan.experts, unguided)
    reuse: Reuse[Context] = Reuse(step_cache, plan.experts, scales)
    expert_at = experts.__getitem__ if isinstance(experts, Mapping) else experts.at
    conditioning = Conditioning() if conditioning is None else conditioning.on(noise)
    latent, name, predict = conditioning.keep_clean(noise.float()), None, None
    for index, (timestep, planned) in enumerate(zip(schedule.timesteps.tolist(), plan.experts, strict=True)):
        if predict is None or planned != name:
            name, predict = planned, None  # the last expert goes before the next one comes
            predict = expert_at(planned)
        timesteps, model_input = conditioning.timesteps(timestep, latent), conditioning.model_input(latent)
        velocity = guided_velocity(
            reuse.at(index, predict), model_input, timesteps, context, negative_context, scales[index]
        )
        sigma = schedule.sigmas[index].item()
        estimate = partial(clean_estimate, latent, velocity, sigma, conditioning)
        latent = conditioning.keep_clean(schedule.step(velocity, latent, index))
        skips = reuse.skipped, index in unguided
        info = StepInfo(index, schedule.steps, timestep, sigma, planned, latent, estimate, *skips)
        check_finite(info)
        if on_step is not None:
            on_step(info)
    return latent


def clean_estimate(latent: Tensor, velocity: Tensor, sigma: float, conditioning: Conditioning) -> Tensor:
    """Where a latent at a noise level and the velocity there say that the clean latent is."""
    return conditioning.keep_clean(torch.add(latent, velocity, alpha=-sigma))


def check_finite(info: StepInfo) -> None:
    """Stop at the step that broke, not at a black video. Raises WanError."""
    if not math.isfinite(info.latent.sum().item()):  # one pass: NaN and infinities survive a sum
        raise WanError(
            f"step {info.index + 1} of {info.total} (timestep {info.timestep:g}, {info.expert} expert) gave "
            "NaN or infinite values: check that expert's checkpoint file, or run it in bfloat16 or float32"
        )
