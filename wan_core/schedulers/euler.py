"""Euler's method: follow the velocity straight to the next noise level."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .schedule import Schedule
from .sigmas import SigmaGrid, exact_grid, full_grid


class EulerSchedule(Schedule):
    """Euler on the released DPM++ grid.

    Wan2.2 releases no Euler of its own, so the grid is a choice: the one that starts at sigma 1. It equals
    ComfyUI's `simple` wherever the step count divides 1000, which is what few-step LoRAs are tuned on: 4
    steps at shift 5 visit 1000, 937.5, 833.3 and 625 (told to the network cut to integers, as released).
    `FlowMatchEulerSchedule` tells it the fractions.
    """

    name: ClassVar[str] = "euler"

    def __init__(self, steps: int, shift: float) -> None:
        super().__init__(self._grid(steps, shift))

    @staticmethod
    def _grid(steps: int, shift: float) -> SigmaGrid:
        return full_grid(steps, shift)

    def _solve(self, velocity: Tensor, latent: Tensor, index: int) -> Tensor:
        return self._follow(velocity, latent, index)


class FlowMatchEulerSchedule(EulerSchedule):
    """Euler on the same noise levels, each told to the network as it is, with its fraction.

    What the 4-step distilled networks and LoRAs were trained with and are run with (lightx2v's
    `step_distill`: 1000, 750, 500 and 250 through shift 5 are 1000, 937.5, 833.3 and 625), and what ComfyUI's
    euler with `simple` does.
    """

    name: ClassVar[str] = "flowmatch_euler"

    @staticmethod
    def _grid(steps: int, shift: float) -> SigmaGrid:
        return exact_grid(steps, shift)
