"""How much memory there is, and how sizes are read and shown."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import WanError, shown

UNITS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
# Of a GPU's budget, what no tensor gets: the CUDA context with its libraries (about 0.5 GB, which is gone
# already where free memory is asked for, and then is room for fragments) and the kernels' own workspaces.
RESERVE = 600 * 10**6
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class HostMemory:
    """Bytes of RAM: all there is, and what could be had now, the page cache included."""

    total: int
    available: int


def parse_size(text: str) -> int:
    """Bytes of "8GB", "7.5 GiB" or "800MB"; raises WanError for anything else."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]+)\s*", text)
    unit = UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if not size:
        raise WanError(f"vram: {shown(text)!r} is no size; give a number with its unit, as 8GB or 800MB")
    return size


def shown_size(size: int, up: bool = False) -> str:
    """A size as messages say it: 28.6 GB, 800 MB, 12 KB. `up`: rounded up, so that it is enough."""
    unit = next((name for name in ("GB", "MB") if size >= UNITS[name]), "KB")
    digits = 1 if unit == "GB" else 0
    value = size / UNITS[unit] * 10**digits
    return f"{(math.ceil(value) if up else round(value)) / 10**digits:.{digits}f} {unit}"


def free_bytes(device: torch.device) -> int | None:
    """What is free on a GPU now, the reserve taken off; None where memory is not counted.

    What torch has set aside and does not use counts as free.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, free + unused - RESERVE)


def give_back(device: torch.device) -> None:
    """Hand what torch has set aside on a GPU and does not use back to it, whole, before the next network."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def host_memory() -> HostMemory | None:
    """RAM, as Linux counts it; None elsewhere."""
    try:
        rows = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        total, available = (int(rows[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return HostMemory(total, available)
