"""The noise a run starts from."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import WanError

MAX_SEED = 2**64 - 1


def make_noise(shape: tuple[int, int, int, int], seed: int) -> Tensor:
    """Standard normal noise (1, C, F, h, w), float32, on the CPU.

    shape: (C, F, h, w), the latent's. Drawn on the CPU so that a seed means the same video on every machine;
    the released code draws on its GPU, and GPU streams differ. One draw without the batch axis, as released
    (ComfyUI's draw with one gives the same stream). Raises WanError for a seed outside 0 to 2**64 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise WanError(f"seed must be a whole number from 0 to {MAX_SEED}, got {seed!r}")
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32).unsqueeze(0)
