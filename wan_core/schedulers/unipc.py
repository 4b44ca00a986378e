"""UniPC (arXiv 2302.04867) for flow matching: order 2, B(h) = expm1(-h), from clean-latent estimates.

Each step first corrects the latent it is given, now that the network has been asked about it, and then
predicts the next one from the corrected latent. One network evaluation serves both. The coefficients are
those of wan/utils/fm_solvers_unipc.py.

Written out, both together are Euler's step plus two multiples: of the change from the last clean-latent
estimate to this one, and of the change before. The corrected latent itself is never needed, which leaves five
passes over a latent instead of fifteen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .schedule import Schedule
from .sigmas import log_snr, unipc_grid


@dataclass(frozen=True)
class Memory:
    """What a step leaves for the next one."""

    clean: Tensor  # the clean latent estimated at the step
    change: Tensor | None  # the estimate one step earlier less this one
    order: int  # of the predictor


class UniPCSchedule(Schedule):
    """The released default solver.

    Order 1 on the first step and on the last, whatever the number of steps; order 2 between. The corrector
    runs from the second step on, at the order of the prediction it corrects.
    """

    name: ClassVar[str] = "unipc"

    def __init__(self, steps: int, shift: float) -> None:
        super().__init__(unipc_grid(steps, shift))
        self._memory: Memory | None = None

    def _solve(self, velocity: Tensor, latent: Tensor, index: int) -> Tensor:
        following = self._follow(velocity, latent, index)
        if index == self.steps - 1:  # at sigma 0 the clean latent is all there is
            return following
        clean, memory = self._clean(velocity, latent, index), self._memory
        if memory is None:
            self._memory = Memory(clean, None, order=1)
            return following
        change = memory.clean.sub_(clean)  # in place: nobody else knows it
        self._memory = Memory(clean, change, order=2)
        older_weight, change_weight = self._weights(memory.order, index)
        following.add_(change, alpha=change_weight)
        if memory.change is not None:
            following.add_(memory.change, alpha=older_weight)
        return following

    def _weights(self, order: int, index: int) -> tuple[float, float]:
        """What the change before this one and this one weigh in the next latent.

        The corrector moves the latent, of which the next one keeps sigma_next / sigma; the predictor moves
        the clean latent that the rest is made of. order: of the step before, which is being corrected.
        """
        older, newer = self._correction(order, index - 1)
        kept = self._levels[index + 1] / self._levels[index]
        return kept * older, kept * newer + (1.0 - kept) * 0.5 / self._step_ratio(index)

    def _correction(self, order: int, index: int) -> tuple[float, float]:
        """How far the corrector moves the latent at sigmas[index + 1], in units of the change before and of
        the change since: the corrector's direction less the predictor's, times 1 - sigma_next / sigma."""
        moved = 1.0 - self._levels[index + 1] / self._levels[index]
        if order == 1:
            return 0.0, moved * -0.5
        ratio = self._step_ratio(index)
        older_weight, change_weight = self._corrector_weights(ratio, index)
        return moved * (older_weight - 0.5) / ratio, moved * -change_weight

    def _corrector_weights(self, ratio: float, index: int) -> tuple[float, float]:
        """Solve w0 + w1 = b1, ratio * w0 + w1 = b2: the two order conditions of the corrector."""
        h = self._step_size(index)
        growth = math.expm1(-h)
        phi_2 = growth / -h - 1.0
        phi_3 = phi_2 / -h - 0.5
        b1, b2 = phi_2 / growth, 2.0 * phi_3 / growth
        older_weight = (b1 - b2) / (1.0 - ratio)
        return older_weight, b1 - older_weight

    def _step_size(self, index: int) -> float:
        return log_snr(self._levels[index + 1]) - log_snr(self._levels[index])

    def _step_ratio(self, index: int) -> float:
        """Where the older estimate lies, in units of this step: negative, since it lies behind."""
        return -self._step_size(index - 1) / self._step_size(index)
