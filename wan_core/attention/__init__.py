"""Attention backends: callables `attention(q, k, v, bias=None) -> out` on (B, heads, tokens, head_dim)."""

from .sdpa import attention

__all__ = ["attention"]
