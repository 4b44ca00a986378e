"""DPM-Solver++ 2M, midpoint form (arXiv 2211.01095), for flow matching as in wan/utils/fm_solvers.py."""

from __future__ import annotations

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
        following = self._follow(velocity, latent, index)
        if index == self.steps - 1:
            return following
        previous, self._previous = self._previous, self._clean(velocity, latent, index)
        if previous is None:
            return following
        change = previous.sub_(self._previous)  # in place: nobody else knows it
        return following.add_(change, alpha=self._change_weight(index))

    def _change_weight(self, index: int) -> float:
        """Of the estimate before less this one: -(1 - sigma_next / sigma) * h / (2 * h_previous)."""
        before, sigma, after = self._levels[index - 1 : index + 2]
        h, h_previous = log_snr(after) - log_snr(sigma), log_snr(sigma) - log_snr(before)
        return -0.5 * (1.0 - after / sigma) * (h / h_previous)
