"""Which expert takes which step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import WanError
from ..schedulers.sigmas import TRAIN_TIMESTEPS
from ..variants.variant import DENSE, HIGH_NOISE, LOW_NOISE


@dataclass(frozen=True)
class ExpertPlan:
    """experts: the expert of each step, in order.

    switch: the first low-noise step counted from 0; the number of steps when there is none; None when the
    model has a single network.
    """

    experts: tuple[str, ...]
    switch: int | None


def plan_experts(timesteps: Tensor | Sequence[float], boundary: float | None) -> ExpertPlan:
    """High noise while timestep >= boundary * 1000, the boundary itself included; then low noise.

    timesteps: (N,), falling. boundary: 0..1, or None for a model with one network. Compared as released
    (wan/text2video.py): what the network is told, not the sigma, decides. Raises WanError for a bad boundary.
    """
    steps = timesteps.tolist() if isinstance(timesteps, Tensor) else timesteps
    if boundary is None:
        return ExpertPlan((DENSE,) * len(steps), None)
    check_boundary(boundary)
    threshold = boundary * TRAIN_TIMESTEPS
    experts = tuple(HIGH_NOISE if timestep >= threshold else LOW_NOISE for timestep in steps)
    return ExpertPlan(experts, experts.index(LOW_NOISE) if LOW_NOISE in experts else len(experts))


def check_boundary(boundary: float) -> None:
    """Refuse a boundary that is no noise level. Raises WanError."""
    is_number = isinstance(boundary, int | float) and not isinstance(boundary, bool)
    if not is_number or not math.isfinite(boundary) or not 0.0 <= boundary <= 1.0:
        raise WanError(
            f"boundary must be a noise level from 0 to 1, got {boundary!r}: 0.875 for T2V, 0.9 for I2V"
        )
