"""What every container's header says: the name, dtype, shape and place of each tensor. No tensor is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import shown

LONGEST_HEADER = 100_000_000  # bytes, safetensors' own limit; a 14B model's header has about 150 kB
MOST_ELEMENTS = 2**48  # of one tensor
LARGEST_AXIS = 2**40


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor. `shape` is in torch's order; `begin` and `end` are byte positions in `file`.

    `dtype` is spelled as safetensors and GGUF do: "F32", "BF16", "F8_E4M3", "Q4_K", ...
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    file: Path

    @property
    def elements(self) -> int:
        """How many numbers the shape holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A model's table of contents, over all of its files.

    `problems` are faults that leave it readable, as a cut download does.
    """

    container: str  # "safetensors", "gguf" or "pth"
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def shown_file(path: str | Path) -> str:
    """A file's own name, as messages begin with it."""
    return shown(Path(path).name or str(path))


def listed(names: list[str], limit: int = 3) -> str:
    """The first few names and how many more there are."""
    first = ", ".join(shown(name) for name in names[:limit])
    return first if len(names) <= limit else f"{first} and {len(names) - limit:,} more"
