"""A word before the experts switch, in time to read the next one's file."""

from __future__ import annotations

from collections.abc import Callable

from .denoise import StepInfo
from .experts import ExpertPlan

STEPS_AHEAD = 3  # a file of 28 GB takes a slow disk minutes


def looking_ahead(
    plan: ExpertPlan, expect: Callable[[str], None], on_step: Callable[[StepInfo], None] | None
) -> Callable[[StepInfo], None]:
    """`on_step` that also tells `expect` the next expert's name, once, three whole steps before its first.

    With fewer it is told after the first step, when the expert of that has been loaded; with a single step
    before the switch, at once.
    """
    told: set[str] = set()

    def look(done: int) -> None:
        soon = plan.experts[done : done + STEPS_AHEAD + 1]
        following = next((name for name in soon if name != soon[0]), None)
        if following is not None and following not in told:
            told.add(following)
            expect(following)

    def note(info: StepInfo) -> None:
        look(info.index + 1)
        if on_step is not None:
            on_step(info)

    if plan.experts[:1] != plan.experts[1:2]:
        look(0)
    return note
