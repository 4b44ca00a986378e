"""Classifier-free guidance: how hard the prompt pulls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import WanError

Context = TypeVar("Context")
# predict(latent (B, C, F, H, W) with the channels of the conditioning, timestep (B,) or (B, tokens) on the
# CPU, context) -> velocity like the latent without them
Predict = Callable[[Tensor, Tensor, Context], Tensor]

MAX_GUIDANCE = 1000.0


def guided_velocity(
    predict: Predict[Context],
    latent: Tensor,
    timestep: Tensor,
    context: Context,
    negative_context: Context | None,
    guidance_scale: float,
) -> Tensor:
    """u + g * (c - u) in float32, from two predictions one after the other: c with the prompt, u without it.

    One at a time, as released: a doubled batch needs twice the memory. At g = 1 the formula is c itself, so u
    is never asked for (the released code asks, and gets the same up to rounding). Raises WanError
    when u is needed and negative_context is None.
    """
    conditional = predict(latent, timestep, context).float()
    if guidance_scale == 1:
        return conditional
    if negative_context is None:
        raise WanError(
            f"negative prompt missing: guidance {guidance_scale:g} needs one; give it, or set guidance to 1"
        )
    unconditional = predict(latent, timestep, negative_context).float()
    return torch.lerp(unconditional, conditional, guidance_scale)  # the formula above, in one pass


def guidance_by_expert(
    guidance_scale: float | Mapping[str, float], experts: Iterable[str]
) -> dict[str, float]:
    """The scale of each named expert; one number serves all. Raises WanError for a missing or absurd one."""
    scales = {}
    for name in dict.fromkeys(experts):
        scale = guidance_scale.get(name) if isinstance(guidance_scale, Mapping) else guidance_scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) <= MAX_GUIDANCE:
            raise WanError(
                f"guidance of the {name} expert must be a number of at most {MAX_GUIDANCE:g}, got {scale!r}: "
                "1 to 6 are usual"
            )
        scales[name] = float(scale)
    return scales


def step_scales(
    by_expert: Mapping[str, float], experts: Sequence[str], unguided: Collection[int]
) -> list[float]:
    """The scale of each step: its expert's, 1 where it goes without guidance."""
    return [1.0 if n in unguided else by_expert[expert] for n, expert in enumerate(experts)]
