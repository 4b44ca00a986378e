"""Step caching: where a network would answer nearly as it did a step ago, its last answer is taken again.

In the manner of EasyCache (arXiv 2507.02860), which needs no calibration, so it fits every model, LoRA and
number of steps: between two computed steps it is measured how much the velocity changed for a change of the
latent, and from how far the latent has come since it is foretold how much the velocity will have changed.
Where that is little, measured by the velocity, the step takes the velocity as it was. EasyCache adds what
the latent has moved; on wan-tiny that came to the same within a few percent of the error, and a straight path
keeps its velocity.

What is kept is one network's: it is thrown away where the experts switch.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic

import torch
from torch import Tensor

from ..errors import WanError
from .guidance import Context, Predict

# Composition is decided in the first steps: none of this share of them is reused, and none of this many, so
# that the 4-step LoRAs, which have no step to spare, are left alone.
FIRST_SHARE, FIRST_STEPS = 0.15, 4
MAX_THRESHOLD = 1.0


@dataclass(frozen=True)
class StepCache:
    """How far off a reused velocity may be, in parts of its size: 0.1 lets it be 10 % off, as foretold."""

    threshold: float

    def __post_init__(self) -> None:
        number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        if not number or not math.isfinite(self.threshold) or not 0 < self.threshold <= MAX_THRESHOLD:
            raise WanError(
                f"step cache: the threshold must be above 0 and at most {MAX_THRESHOLD:g}, got "
                f"{self.threshold!r}: 0.05 to 0.2 are usual; leave it out to compute every step"
            )


@dataclass(frozen=True)
class Answer:
    """What a network was last asked and said."""

    latent: Tensor
    velocity: Tensor
    rate: Tensor | None = None  # change of velocity for a change of the latent, both in L2; None: not known


class Reuse(Generic[Context]):
    """One run's step cache. Between `at` of one step and of the next, all predictions belong to that step.

    The first prediction of a step, with the prompt, decides for the one against it, too: guidance multiplies
    their difference, and the difference of a fresh and a kept one is mostly their age. Windows over a long
    video (`window`: any key) decide each for itself.

    Always computed: the first steps of the run, the first two of each expert, which give the rate, the last
    step, which writes the details, and those on which guidance sets in.
    """

    def __init__(self, cache: StepCache | None, experts: Sequence[str], scales: Sequence[float]) -> None:
        """experts, scales: who takes each step, and with which guidance."""
        self._cache = cache
        self._starts = [n == 0 or name != experts[n - 1] for n, name in enumerate(experts)]
        guided = [scale != 1 for scale in scales]
        self._fresh = {
            *range(min(len(experts), max(FIRST_STEPS, math.ceil(FIRST_SHARE * len(experts))))),
            len(experts) - 1,
            *(n for n, start in enumerate(self._starts) if start),
            *(n for n in range(1, len(guided)) if guided[n] and not guided[n - 1]),
        }
        self._answers: dict[tuple[int, Hashable], Answer] = {}
        self._decided: dict[Hashable, bool] = {}  # of this step, by window: whether it is reused
        self._must = True
        self._computed = False

    @property
    def skipped(self) -> bool:
        """Whether the step so far took kept answers only."""
        return any(self._decided.values()) and not self._computed

    def at(self, index: int, predict: Predict[Context]) -> Predict[Context]:
        """The network to ask at a step, which may answer from memory. Without a step cache itself."""
        if self._cache is None:
            return predict
        if self._starts[index]:
            self._answers.clear()
        self._decided, self._computed, self._must = {}, False, index in self._fresh
        return partial(self._ask, predict)

    def _ask(
        self,
        predict: Predict[Context],
        latent: Tensor,
        timestep: Tensor,
        context: Context,
        window: Hashable = None,
    ) -> Tensor:
        key = (id(context), window)  # the contexts live as long as the run
        last, decides = self._answers.get(key), window not in self._decided
        if decides:
            self._decided[window] = last is not None and not self._must and self._foretold(last, latent)
        if last is not None and self._decided[window]:
            return last.velocity
        self._computed = True
        velocity = predict(latent, timestep, context).float()
        rate = None if last is None or not decides else change_rate(last, latent, velocity)
        self._answers[key] = Answer(latent, velocity, rate)
        return velocity

    def _foretold(self, last: Answer, latent: Tensor) -> bool:
        """Whether the velocity is foretold to have changed by less than the threshold."""
        if last.rate is None:
            return False
        change = last.rate * torch.dist(latent, last.latent)
        return bool(change < self._cache.threshold * last.velocity.norm())  # on a GPU, the step's only wait


def change_rate(last: Answer, latent: Tensor, velocity: Tensor) -> Tensor:
    """How much the velocity changed for a change of the latent; no number where that stood still."""
    return torch.dist(velocity, last.velocity) / torch.dist(latent, last.latent)
