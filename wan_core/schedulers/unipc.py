"""UniPC (arXiv 2302.04867) for flow matching: order 2, B(h) = expm1(-h), from clean-latent estimates.

Each call first corrects the latent it is given, now that the network has been asked about it, and then
predicts the next one from the corrected latent. One network evaluation serves both. The coefficients are
those of wan/utils/fm_solvers_unipc.py.
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

    latent: Tensor  # the corrected latent the step started from
    clean: Tensor  # the clean latent estimated there
    older_clean: Tensor | None  # the same, one step earlier
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
        clean = latent - self._levels[index] * velocity
        memory = self._memory
        if memory is not None:
            latent = self._correct(memory, clean, index)
        order = 2 if memory is not None and index < self.steps - 1 else 1
        older_clean = memory.clean if memory is not None else None
        self._memory = Memory(latent, clean, older_clean, order)
        return self._predict(self._memory, index)

    def _predict(self, memory: Memory, index: int) -> Tensor:
        """From sigmas[index] to sigmas[index + 1]."""
        direction = memory.clean
        if memory.order == 2 and memory.older_clean is not None:
            ratio = self._step_ratio(index)
            direction = direction + (0.5 / ratio) * (memory.older_clean - memory.clean)
        return self._advance(memory.latent, direction, index)

    def _correct(self, memory: Memory, clean: Tensor, index: int) -> Tensor:
        """The step from sigmas[index - 1] to sigmas[index] again, now knowing the clean latent at its end."""
        change = clean - memory.clean
        if memory.order == 1 or memory.older_clean is None:
            direction = memory.clean + 0.5 * change
        else:
            ratio = self._step_ratio(index - 1)
            older_weight, change_weight = self._corrector_weights(ratio, index - 1)
            older_slope = (1.0 / ratio) * (memory.older_clean - memory.clean)
            direction = memory.clean + older_weight * older_slope + change_weight * change
        return self._advance(memory.latent, direction, index - 1)

    def _corrector_weights(self, ratio: float, index: int) -> tuple[float, float]:
        """Solve w0 + w1 = b1, ratio * w0 + w1 = b2: the two order conditions of the corrector."""
        h = self._step_size(index)
        growth = math.expm1(-h)
        phi_2 = growth / -h - 1.0
        phi_3 = phi_2 / -h - 0.5
        b1, b2 = phi_2 / growth, 2.0 * phi_3 / growth
        older_weight = (b1 - b2) / (1.0 - ratio)
        return older_weight, b1 - older_weight

    def _advance(self, latent: Tensor, direction: Tensor, index: int) -> Tensor:
        """One step, exact if the clean latent is `direction` all along; a step to sigma 0 returns it."""
        sigma, sigma_next = self._levels[index], self._levels[index + 1]
        growth = math.expm1(-self._step_size(index))
        return (sigma_next / sigma) * latent - (1.0 - sigma_next) * growth * direction

    def _step_size(self, index: int) -> float:
        return log_snr(self._levels[index + 1]) - log_snr(self._levels[index])

    def _step_ratio(self, index: int) -> float:
        """Where the older estimate lies, in units of this step: negative, since it lies behind."""
        return -self._step_size(index - 1) / self._step_size(index)
