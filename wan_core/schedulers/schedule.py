"""What every scheduler is: a sigma grid, and a solver that takes one step along it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import WanError
from .sigmas import SigmaGrid


class Schedule(ABC):
    """One run's noise levels and its solver with its history. A new run needs a new object.

    Steps are counted by index. The released solvers look their start up by timestep instead, so two equal
    leading integers make them begin at step 1 (UniPC at shift 12 then fails from 100 steps on); by index,
    every grid just works.
    """

    name: ClassVar[str]

    def __init__(self, grid: SigmaGrid) -> None:
        self.steps = grid.steps
        self.shift = grid.shift
        self.timesteps = grid.timesteps  # (N,) int64, or float64 where the network is told fractions
        self.sigmas = grid.sigmas  # (N + 1,) float32
        # The solvers' scalars are worked out in float64 from the float32 sigmas, as Python floats, which cost
        # no device synchronisation.
        self._levels: list[float] = grid.sigmas.tolist()
        self._next_index: int | None = None

    def step(self, velocity: Tensor, latent: Tensor, index: int) -> Tensor:
        """The latent at sigmas[index + 1] from the one at sigmas[index].

        velocity, latent: any one shape, float32; velocity is the network's answer at sigmas[index]. Neither
        is changed, and the answer is a tensor of its own. Steps come in order, from any first one. One
        object serves both experts: its history lives through the switch. Raises WanError for a step out of
        order.
        """
        if not 0 <= index < self.steps or (self._next_index is not None and index != self._next_index):
            due = "0" if self._next_index is None else str(self._next_index)
            raise WanError(
                f"{self.name} schedule: got step {index}, but step {due} of {self.steps} is next; "
                "make a new schedule for a new run"
            )
        self._next_index = index + 1
        return self._solve(velocity.float(), latent.float(), index)

    @abstractmethod
    def _solve(self, velocity: Tensor, latent: Tensor, index: int) -> Tensor: ...

    def _follow(self, velocity: Tensor, latent: Tensor, index: int) -> Tensor:
        """Euler's step, which every solver here starts from: straight along to sigmas[index + 1].

        It is exact where the clean latent that the velocity points at, latent - sigma * velocity, stays the
        same; the solvers of second order add multiples of how that estimate changed.
        """
        return torch.add(latent, velocity, alpha=self._levels[index + 1] - self._levels[index])

    def _clean(self, velocity: Tensor, latent: Tensor, index: int) -> Tensor:
        """The clean latent that the velocity points at."""
        return torch.add(latent, velocity, alpha=-self._levels[index])
