"""FlashAttention 2, the `flash_attn` package. torch's own SDPA holds the same kernel, mostly an older one."""

from __future__ import annotations

import importlib

from .backend import Backend, Kernel, token_major


def load() -> tuple[Kernel, str]:
    """The kernel, and how the log names it."""
    package = importlib.import_module("flash_attn")
    return token_major(package.flash_attn_func), f"flash_attn {package.__version__}"


BACKEND = Backend("flash2", "flash_attn", load, lambda capability: capability >= (8, 0), max_head_dim=256)
