"""A word before the experts switch, in time to read the next one's file."""

from __future__ import annotations

from collections.abc import Callable

from .denoise import StepInfo
from .experts import ExpertPlan


def looking_ahead(
    plan: ExpertPlan, expect: Callable[[str], None], on_step: Callable[[StepInfo], None] | None
) -> Callable[[StepInfo], None]:
    """`on_step` that also tells `expect` the next expert's name, a whole step before its first.

    With a single step before the switch it is told at once.
    """

    def look(done: int) -> None:
        soon = plan.experts[done : done + 2]
        if len(soon) == 2 and soon[0] != soon[1]:
            expect(soon[1])

    def note(info: StepInfo) -> None:
        look(info.index + 1)
        if on_step is not None:
            on_step(info)

    look(0)
    return note
