"""SageAttention: queries, keys and (on newer cards) values in 8 bits. Faster, and not exact."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version

from torch import Tensor

from .backend import Backend, Kernel

# Its 8 bits cost some percent; see EXACT_TOLERANCE for what a mistake costs.
TOLERANCE = 0.1


def load() -> tuple[Kernel, str]:
    """The kernel, and how the log names it."""
    sageattn = importlib.import_module("sageattention").sageattn
    try:
        name = f"SageAttention {version('sageattention')}"
    except PackageNotFoundError:  # imported from a folder
        name = "SageAttention"

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sageattn(q, k, v, tensor_layout="HND")

    return kernel, f"{name} (8-bit, not exact)"


BACKEND = Backend("sage", "sageattention", load, lambda capability: capability >= (8, 0), 128, TOLERANCE)
