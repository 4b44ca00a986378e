"""cuDNN's kernel through torch: on Hopper faster than the FlashAttention 2 that torch would take first."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.backends import cudnn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .backend import Backend, Kernel

FIRST_TO_LAST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def cudnn_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """SDPA that asks cuDNN before the other kernels."""
    with sdpa_kernel(FIRST_TO_LAST, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v)


def load() -> tuple[Kernel, str]:
    """The kernel, and how the log names it."""
    if not cudnn.is_available():
        raise ImportError("this torch comes without cuDNN")
    return cudnn_first, f"SDPA with cuDNN {cudnn.version()}"


# Compute capability 9.0 is Hopper, 10.x the Blackwell of data centres; elsewhere cuDNN is no faster.
BACKEND = Backend("cudnn", "", load, lambda capability: capability[0] in (9, 10), max_head_dim=128)
