"""From noise to a clean latent: the noise, the experts' plan, guidance and the loop."""

from __future__ import annotations

from .ahead import looking_ahead
from .denoise import Experts, StepInfo, denoise
from .experts import ExpertPlan, plan_experts
from .guidance import guidance_by_expert, guided_velocity
from .guidance_schedule import GuidanceSchedule
from .noise import make_noise
from .plan import Plan, plan, plan_summary, plan_table
from .step_cache import StepCache
from .texts import KeepTexts

__all__ = [
    "ExpertPlan",
    "Experts",
    "GuidanceSchedule",
    "KeepTexts",
    "Plan",
    "StepCache",
    "StepInfo",
    "denoise",
    "guidance_by_expert",
    "guided_velocity",
    "looking_ahead",
    "make_noise",
    "plan",
    "plan_experts",
    "plan_summary",
    "plan_table",
]
