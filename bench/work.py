"""What a contestant is asked to do, and how its adapter is found."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from .weights import Config

# In the order of the table. Each module has `version` and `WORKS`.
CONTESTANTS = {
    "wan_core": "bench.ours",
    "diffusers": "bench.peers.diffusers",
    "comfyui": "bench.peers.comfyui",
}

SHIFT = 5.0  # of every schedule
PROMPT = "a red circle moves to the right over a dark background"  # of every whole video

Inputs = dict[str, Tensor]
Output = Tensor | Iterable[Tensor]  # an iterable: pieces along the frames, made as they are asked for
Run = Callable[[Inputs], Output]


@dataclass(frozen=True)
class Task:
    """One network to build, from a file of released names, and one kind of work for it.

    Work that needs no network has neither.
    """

    work: str
    config: Config | None = None
    weights: Path | None = None


class Contestant(Protocol):
    """An adapter: how its users run this implementation."""

    WORKS: dict[str, Callable[[Task], Run]]

    def loader(self) -> Callable[[Path], Any]:
        """What loads a transformer's file; everything it needs is imported."""
        ...

    def version(self) -> str | None:
        """The version installed; None when it is not."""


def contestant(name: str) -> Contestant:
    """The adapter of that name; it imports its implementation only when asked for its version or its work."""
    module: Any = importlib.import_module(CONTESTANTS[name])
    return module
