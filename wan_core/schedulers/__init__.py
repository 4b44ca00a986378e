"""Schedulers: a sigma grid and its solver by name."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import WanError
from .dpmpp_2m import DPMpp2MSchedule
from .euler import EulerSchedule, FlowMatchEulerSchedule
from .schedule import Schedule
from .unipc import UniPCSchedule

__all__ = ["SCHEDULERS", "Schedule", "make_schedule"]

_CLASSES: dict[str, Callable[[int, float], Schedule]] = {
    "unipc": UniPCSchedule,
    "dpm++": DPMpp2MSchedule,
    "euler": EulerSchedule,
    "flowmatch_euler": FlowMatchEulerSchedule,
}
SCHEDULERS = tuple(_CLASSES)
_ALIASES = {"dpmpp": "dpm++", "dpmpp_2m": "dpm++", "dpm++_2m": "dpm++"}


def make_schedule(name: str, steps: int, shift: float) -> Schedule:
    """A fresh schedule, with an empty history. Raises WanError for an unknown name, step count or shift.

    Capitals do not matter, and "dpmpp_2m", as ComfyUI writes it, is "dpm++".
    """
    key = _ALIASES.get(name.lower(), name.lower()) if isinstance(name, str) else name
    if key not in SCHEDULERS:
        raise WanError(f"scheduler {name!r} is unknown: choose one of {', '.join(SCHEDULERS)}")
    return _CLASSES[key](steps, shift)
