"""Sampling settings that belong together, by name, for each task."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from .errors import WanError
from .variants import I2V_A14B, T2V_A14B, VARIANTS, Variant, variant_for_task

RELEASED, DISTILLED_4, THREE_PHASE, DRAFT = "released", "distilled-4", "three-phase", "draft"
PRESET_NAMES = (RELEASED, DISTILLED_4, THREE_PHASE, DRAFT)


@dataclass(frozen=True)
class Preset:
    """The sampling settings of one task ("t2v", "i2v", "ti2v") under a name.

    `boundary` is None for a model with one network, which takes `guidance_scale_high`. `cfg_steps`: only this
    many first steps have guidance; 0: all.
    """

    task: str
    name: str
    title: str
    note: str
    steps: int
    shift: float
    boundary: float | None
    guidance_scale_high: float
    guidance_scale_low: float
    scheduler: str = "unipc"
    cfg_steps: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What the preset sets, as fields of a `Request`."""
        about = ("task", "name", "title", "note")
        return {field: value for field, value in asdict(self).items() if field not in about}


def presets_for(task: str) -> tuple[Preset, ...]:
    """The presets of a task, the released settings first. Raises WanError for an unknown task."""
    variant_for_task(task)
    return tuple(preset for preset in PRESETS if preset.task == task)


def find_preset(task: str, name: str) -> Preset:
    """A task's preset by name. Raises WanError, which names those there are."""
    presets = presets_for(task)
    for preset in presets:
        if preset.name == name:
            return preset
    raise WanError(f"preset: {task} has no {name!r}; choose one of {', '.join(one.name for one in presets)}")


def _released(variant: Variant) -> Preset:
    return Preset(
        task=variant.task,
        name=RELEASED,
        title="Released settings",
        note=f"The numbers {variant.title} was released with.",
        steps=variant.steps,
        shift=variant.shift,
        boundary=variant.boundary,
        guidance_scale_high=variant.guidance_scale_high,
        guidance_scale_low=variant.guidance_scale_low,
    )


def _distilled_4(variant: Variant) -> Preset:
    # lightx2v's own: 1000, 937.5, 833.3 and 625 told as they are, two steps an expert, no guidance.
    return Preset(
        task=variant.task,
        name=DISTILLED_4,
        title="Distilled, 4 steps",
        note="For the 4-step LoRAs (lightx2v, Lightning): their exact timesteps, two steps for each expert, "
        "no guidance.",
        steps=4,
        shift=5.0,
        boundary=variant.boundary,
        guidance_scale_high=1.0,
        guidance_scale_low=1.0,
        scheduler="flowmatch_euler",
    )


def _three_phase(variant: Variant) -> Preset:
    # Guidance 3.5 on the first steps is what Wan2GP's three-phase profiles take, for T2V and I2V alike.
    return replace(
        _distilled_4(variant),
        name=THREE_PHASE,
        title="Distilled, three phases",
        note="For the 4-step LoRAs, with more motion: guidance on the first two of 8 steps, then none; a "
        "lower LoRA strength for the high-noise expert helps further.",
        steps=8,
        guidance_scale_high=3.5,
        cfg_steps=2,
    )


def _draft(variant: Variant) -> Preset:
    steps = variant.steps * 2 // 5
    return replace(
        _released(variant),
        name=DRAFT,
        title="Draft",
        note=f"{steps} steps instead of {variant.steps}, all else as released: to choose a prompt or a seed.",
        steps=steps,
    )


PRESETS = (
    *(_released(variant) for variant in VARIANTS),
    *(_distilled_4(variant) for variant in (T2V_A14B, I2V_A14B)),
    *(_three_phase(variant) for variant in (T2V_A14B, I2V_A14B)),
    *(_draft(variant) for variant in VARIANTS),
)
