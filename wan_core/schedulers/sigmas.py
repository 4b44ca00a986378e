"""The sigma grids: which noise levels a run visits, and the timesteps that name them, whole as released.

A grid for N steps starts from N evenly spaced u, warps each by `shift`

    sigma(u) = shift * u / (1 + (shift - 1) * u)

and appends 0. The two released solvers differ in where u starts: exactly 1 for DPM++, the float32 value of
0.999 for UniPC (its training table ends there). Source: wan/utils/fm_solvers.py and fm_solvers_unipc.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import WanError

TRAIN_TIMESTEPS = 1000
# More steps than the network knows timesteps cannot help, and a shift beyond 1000 leaves float32 sigmas with
# fewer than a dozen distinct values per step near 1, where the solvers divide by their differences.
MAX_STEPS = 1000
MIN_SHIFT, MAX_SHIFT = 0.001, 1000.0
UNIPC_FIRST_U = torch.tensor(0.999, dtype=torch.float32).item()


@dataclass(frozen=True)
class SigmaGrid:
    """The noise levels of one run.

    sigmas: (N + 1,) float32, falling from about 1 to exactly 0.
    timesteps: (N,), 0..1000, what the network is told: int64, or float64 where it is told fractions.
    """

    steps: int
    shift: float
    sigmas: Tensor
    timesteps: Tensor


def unipc_grid(steps: int, shift: float) -> SigmaGrid:
    """The grid of the released UniPC: sigma[0] is 0.99992 at shift 12 and 0.99980 at shift 5."""
    return _whole_grid(steps, shift, first_u=UNIPC_FIRST_U)


def full_grid(steps: int, shift: float) -> SigmaGrid:
    """The grid of the released DPM++: sigma[0] is exactly 1, so the first timestep is 1000."""
    return _whole_grid(steps, shift, first_u=1.0)


def exact_grid(steps: int, shift: float) -> SigmaGrid:
    """`full_grid` with uncut timesteps: 1000, 937.5, 833.333333333 and 625 for 4 steps at shift 5."""
    sigmas = _shifted_sigmas(steps, shift, first_u=1.0)
    # Rounded to nine places, so that 874.9999999999999 is the 875 it stands for: a boundary there belongs to
    # the high-noise expert.
    timesteps = [round(sigma * TRAIN_TIMESTEPS, 9) for sigma in sigmas]
    return _grid(shift, sigmas, torch.tensor(timesteps, dtype=torch.float64))


def check_schedule(steps: int, shift: float) -> None:
    """Refuse a step count or shift no grid can be made of. Raises WanError."""
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise WanError(f"steps must be a whole number from 1 to {MAX_STEPS}, got {steps!r}")
    if not 1 <= steps <= MAX_STEPS:
        raise WanError(f"steps must be from 1 to {MAX_STEPS}, got {steps}: 20 to 50 are usual")
    if isinstance(shift, bool) or not isinstance(shift, int | float) or not math.isfinite(shift):
        raise WanError(f"shift must be a finite number from {MIN_SHIFT} to {MAX_SHIFT:g}, got {shift!r}")
    if not MIN_SHIFT <= shift <= MAX_SHIFT:
        raise WanError(f"shift must be from {MIN_SHIFT} to {MAX_SHIFT:g}, got {shift:g}: 3 to 12 are usual")


def log_snr(sigma: float) -> float:
    """lambda = ln(1 - sigma) - ln(sigma), the solvers' time: -inf at pure noise, +inf at a clean latent."""
    if sigma >= 1.0:
        return -math.inf
    if sigma <= 0.0:
        return math.inf
    return math.log1p(-sigma) - math.log(sigma)


def _whole_grid(steps: int, shift: float, first_u: float) -> SigmaGrid:
    sigmas = _shifted_sigmas(steps, shift, first_u)
    timesteps = [int(sigma * TRAIN_TIMESTEPS) for sigma in sigmas]
    return _grid(shift, sigmas, torch.tensor(timesteps, dtype=torch.int64))


def _shifted_sigmas(steps: int, shift: float, first_u: float) -> list[float]:
    check_schedule(steps, shift)
    shift = float(shift)
    # Python floats, in the released order of operations: a timestep is sigma * 1000 cut to an integer, so one
    # ulp decides between 875 and 874, and with it which expert takes the step. Cutting the float32 sigmas
    # instead would move the switch in some ordinary schedules (DPM++ with shift 3 and 10 to 50 steps).
    us = [first_u - index * (first_u / steps) for index in range(steps)]
    return [shift * u / (1 + (shift - 1) * u) for u in us]


def _grid(shift: float, sigmas: list[float], timesteps: Tensor) -> SigmaGrid:
    levels = torch.tensor([*sigmas, 0.0], dtype=torch.float32)
    return SigmaGrid(steps=len(sigmas), shift=float(shift), sigmas=levels, timesteps=timesteps)
