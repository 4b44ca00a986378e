"""What every optional attention kernel says about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]

HALF = (torch.bfloat16, torch.float16)
# The largest relative L2 distance from attention in float32 at which a kernel that computes in 16 bits counts
# as right: rounding costs 0.3 %, a wrong layout, scale or mask 100 %.
EXACT_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Backend:
    """An attention kernel that a machine may have.

    name         as users choose it
    package      what has to be installed; "" for torch's own
    load         imports it; gives the kernel, (B, H, L, d) 16-bit tensors without a bias to the same, and how
                 the log names it. Raises ImportError where the package is missing
    matches      whether a card of this compute capability runs it
    max_head_dim the widest head it takes
    tolerance    relative L2 against attention in float32, above which it is not used
    """

    name: str
    package: str
    load: Callable[[], tuple[Kernel, str]]
    matches: Callable[[tuple[int, int]], bool]
    max_head_dim: int
    tolerance: float = EXACT_TOLERANCE

    def refuses(self, q: Tensor) -> str | None:
        """Why queries like these are not for it; None when they are."""
        if q.dtype not in HALF:
            return f"computes in 16 bits, and the queries are {q.dtype}"
        if q.shape[-1] > self.max_head_dim:
            return f"takes heads of at most {self.max_head_dim}, and these have {q.shape[-1]}"
        return None


def token_major(kernel: Callable[[Tensor, Tensor, Tensor], Tensor | tuple[Tensor, ...]]) -> Kernel:
    """A kernel on (B, L, H, d), which may give more than its output, as one on (B, H, L, d); no copies."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = kernel(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    return call
