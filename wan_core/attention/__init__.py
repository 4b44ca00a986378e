"""Attention backends: callables `attention(q, k, v, bias=None) -> out` on (B, heads, tokens, head_dim).

`attention` is torch's own, right everywhere. `choose` gives the one that a user named, or the fastest exact
one, checked against `attention` on the first real input: choice.py. Each backend is a small file that says
what it matches; its package is imported only when it is asked for.
"""

from __future__ import annotations

from .choice import AUTO, NAMES, Attention, choose
from .sdpa import attention

__all__ = ["AUTO", "NAMES", "Attention", "attention", "choose"]
