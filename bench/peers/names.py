"""Weights under a peer's own names, from a file with the released ones."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from wan_core.checkpoints.layouts import LAYOUTS


def fill(module: nn.Module, weights: Path | None, family: str, layout: str) -> nn.Module:
    """Load a released file into a module whose names are another layout's."""
    rename = next(one.rename for one in LAYOUTS if (one.family, one.name) == (family, layout))
    assert weights is not None
    stored = load_file(weights)
    module.load_state_dict({name: stored[rename(name)] for name in module.state_dict()}, strict=True)
    return module.eval().requires_grad_(False)
