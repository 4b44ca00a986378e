"""Attention through torch's own kernels: always there, on every device."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax(q k^T / sqrt(d) + bias) v.

    Args:
        q: (B, H, Lq, d)
        k, v: (B, H, Lk, d), the dtype of q
        bias: added to the scores, broadcastable to (B, H, Lq, Lk); -inf hides a key

    Returns: (B, H, Lq, d) in the dtype of q.
    """
    # The memory-efficient CUDA kernel takes a bias of the queries' dtype only.
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
