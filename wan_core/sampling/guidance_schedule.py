"""Steps without guidance: each saves the prediction against the negative prompt, half of a step's work.

Which steps can spare it is the model's: mostly the middle ones need it (arXiv 2404.07724), and wan-tiny
spares the first four at 46 dB, the last four at 33 dB.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import WanError
from ..schedulers.sigmas import MAX_STEPS

_COUNT = re.compile(r"(first|last|after) ?(\d{1,4})")
_STEPS = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_SHARES = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)%-(\d{1,3}(?:\.\d{1,3})?)%")
_MANY = 10**4  # more steps than any schedule has


@dataclass(frozen=True)
class GuidanceSchedule:
    """The steps that go without guidance, as people write them, with commas between.

    "60%-100%": the steps from 60 % of their number on. "10-19" and "7": steps, counted from 0. "first 2" and
    "last 4": that many. "after 2": all but the first two. Raises WanError for anything else.
    """

    skip: str

    def __post_init__(self) -> None:
        if not isinstance(self.skip, str) or not all(_span(part, _MANY) for part in self.skip.split(",")):
            raise WanError(
                f"guidance schedule: {self.skip!r} names no steps; give shares (60%-100%), steps counted "
                "from 0 (10-19 or 7), first 2, last 4 or after 2, with commas between"
            )

    def steps(self, total: int) -> frozenset[int]:
        """The steps of `total` without guidance, counted from 0. Raises WanError for ones not there."""
        skipped: set[int] = set()
        for part in self.skip.split(","):
            start, stop = _span(part, total) or (0, 0)
            if start < 0 or stop > total:
                raise WanError(
                    f"guidance schedule: {part.strip()!r} names steps that are not there; there are {total}, "
                    f"counted from 0 to {total - 1}"
                )
            skipped.update(range(start, stop))
        return frozenset(skipped)


def unguided_steps(schedule: GuidanceSchedule | None, total: int) -> frozenset[int]:
    """The steps of `total` that go without guidance by a schedule; none where there is none."""
    return frozenset() if schedule is None else schedule.steps(total)


def with_cfg_steps(schedule: GuidanceSchedule | None, cfg_steps: int) -> GuidanceSchedule | None:
    """The schedule with guidance on the first `cfg_steps` steps at most; 0 leaves it as it is.

    So a distilled model, which goes without guidance, gets its motion back. Raises WanError for a number that
    no schedule has.
    """
    if isinstance(cfg_steps, bool) or not isinstance(cfg_steps, int) or not 0 <= cfg_steps <= MAX_STEPS:
        raise WanError(
            f"cfg steps: {cfg_steps!r} is not a number of steps from 0 to {MAX_STEPS}; say how many of the "
            "first steps have guidance, or 0 for all"
        )
    if cfg_steps == 0:
        return schedule
    rest = f"after {cfg_steps}"
    return GuidanceSchedule(rest if schedule is None else f"{schedule.skip}, {rest}")


def _span(part: str, total: int) -> tuple[int, int] | None:
    """The first step that a part names and the one after its last; None where it names none."""
    part = part.strip().lower()
    if match := _COUNT.fullmatch(part):
        count = int(match[2])
        starts = {"first": 0, "last": total - count, "after": min(count, total)}
        return starts[match[1]], count if match[1] == "first" else total
    if match := _STEPS.fullmatch(part):
        first, last = int(match[1]), int(match[2] or match[1])
        return (first, last + 1) if first <= last else None
    if match := _SHARES.fullmatch(part):
        low, high = float(match[1]), float(match[2])
        return (math.ceil(low * total / 100), math.ceil(high * total / 100)) if low < high <= 100 else None
    return None
