"""DPM-Solver++ 2M, midpoint form (arXiv 2211.01095), for flow matching as in wan/utils/fm_solvers.py."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from .schedule import Schedule
from .sigmas import full_grid, log_snr


class DPMpp2MSchedule(Schedule):
    """Second order from two clean-latent estimates; first order on the first step and on the last one.

    sigma[0] is exactly 1, where lambda is -inf: the second step then weighs its first estimate with 0 and is
    first order in effect, as in the released code.
    """

    name: ClassVar[str] = "dpm++"

    def __init__(self, steps: int, shift: float) -> None:
        super().__init__(full_grid(steps, shift))
        self._previous: Tensor | None = None  # the clean latent estimated one step ago

    def _solve(self, velocity: Tensor, latent: Tensor, index: int) -> Tensor:
        sigma, sigma_next = self._levels[index], self._levels[index + 1]
        clean = latent - sigma * velocity
        h = log_snr(sigma_next) - log_snr(sigma)
        direction = clean
        if self._previous is not None and index < self.steps - 1:
            h_previous = log_snr(sigma) - log_snr(self._levels[index - 1])
            direction = clean + 0.5 * (h / h_previous) * (clean - self._previous)
        self._previous = clean
        # expm1(-inf) is -1, so the step to sigma 0 returns the clean latent itself.
        return (sigma_next / sigma) * latent - (1.0 - sigma_next) * math.expm1(-h) * direction
