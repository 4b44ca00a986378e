"""FlashAttention 3, the `flash_attn_interface` module: the fastest exact kernel on Hopper.

Releases before 2025-06 give (output, log-sum-exp), later ones the output alone.
"""

from __future__ import annotations

import importlib

from .backend import Backend, Kernel, token_major


def load() -> tuple[Kernel, str]:
    """The kernel, and how the log names it."""
    package = importlib.import_module("flash_attn_interface")
    return token_major(package.flash_attn_func), "FlashAttention 3"


BACKEND = Backend(
    "flash3", "flash_attn_interface", load, lambda capability: capability[0] == 9, max_head_dim=256
)
