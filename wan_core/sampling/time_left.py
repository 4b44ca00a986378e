"""How long a run will still take, by the steps it has done."""

from __future__ import annotations

from collections.abc import Sequence

RECENT = 5  # steps a pace is taken from: it changes with what else the machine does
UNGUIDED = 0.5  # of a guided step's work: one prediction instead of two


class TimeLeft:
    """Is told when things happen, in seconds by any clock, and guesses when the last step will be done.

    A step without guidance counts half. Of an expert that has not worked yet the best guess is that it takes
    as long to load, and as long for a step, as the one before it.
    """

    def __init__(self, experts: Sequence[str], scales: Sequence[float], now: float) -> None:
        """experts, scales: of each step, in order. now: when the run begins."""
        self.experts = experts
        self.work = [1.0 if scale != 1 else UNGUIDED for scale in scales]
        self._last = now
        self._loading = 0.0
        self._steps: list[tuple[float, float]] = []  # seconds and work of the steps of this expert's turn
        self.done = 0

    def ready(self, now: float) -> None:
        """An expert has been loaded."""
        self._loading, self._last, self._steps = now - self._last, now, []

    def step(self, now: float) -> None:
        """One step is done."""
        self._steps.append((now - self._last, self.work[self.done]))
        self._last = now
        self.done += 1

    @property
    def pace(self) -> float:
        """Seconds that a step takes of late."""
        return sum(seconds for seconds, _ in self._recent) / len(self._recent)

    @property
    def seconds(self) -> float:
        """From the last step that was done to the end."""
        of_work = sum(seconds for seconds, _ in self._recent) / sum(work for _, work in self._recent)
        changes = sum(
            one != next_one
            for one, next_one in zip(self.experts[self.done - 1 :], self.experts[self.done :], strict=False)
        )
        return of_work * sum(self.work[self.done :]) + changes * self._loading

    @property
    def _recent(self) -> list[tuple[float, float]]:
        # The first step of a turn also compiles, warms up and reads what the loading left in the file.
        return self._steps[1:][-RECENT:] or self._steps


def clock_words(seconds: float) -> str:
    """A time as people read it: 0:43, 12:05, 1:02:30."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
