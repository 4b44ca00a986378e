"""Work for the benchmark to measure, where a new process finds it."""

from __future__ import annotations

import torch


def take(megabytes: int) -> tuple[int, torch.Tensor]:
    """Hold so much memory."""
    return 7, torch.ones(megabytes * 2**18)
