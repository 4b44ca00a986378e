"""The UMT5 text encoder: token ids in, one state per token out.

State-dict keys are the released ones (wan/modules/t5.py). Positions enter as a bias on the attention scores,
from a table of its own in every layer (T5 shares the first layer's). Linears have no bias, and the scores are
not divided by sqrt(head_dim): the weights were trained that way (Raffel et al. 2020, arXiv 1910.10683).

Precision: everything is float32, whatever the dtype of the weights; they are cast as each layer runs. A
prompt is read once for a whole video, so this costs little, and the released bf16 run is 5e-3 to 1e-2
(relative L2) away from the exact answer. Setting `compute_dtype` to bfloat16 runs the feed-forwards in it,
two thirds of the work, at an error of 3e-3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import WanError
from .layers import casting_ops


@dataclass(frozen=True)
class UMT5Config:
    """Shape of the encoder; the defaults are UMT5-XXL."""

    vocab_size: int = 256384
    dim: int = 4096
    dim_attn: int = 4096
    dim_ffn: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    num_buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6


class UMT5Encoder(nn.Module):
    """The released text encoder.

    Args:
        config: the encoder's shape
        ops: namespace of layer classes that cast their weights to their input's dtype (torch.nn is adapted)
        device, dtype: of the weights; `compute_dtype`, that of the feed-forwards, starts as float32 and may
            be set to bfloat16 (not to float16: UMT5's activations outgrow it)
    """

    def __init__(
        self,
        config: UMT5Config,
        ops: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        ops, place = casting_ops(ops), {"device": device, "dtype": dtype}
        self.config = config
        self.compute_dtype = torch.float32
        self.token_embedding = ops.Embedding(config.vocab_size, config.dim, **place)
        self.blocks = nn.ModuleList(EncoderBlock(config, ops, place) for _ in range(config.num_layers))
        self.norm = ops.RMSNorm(config.dim, eps=config.eps, **place)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode token ids.

        Args:
            ids: (B, L) token ids
            mask: (B, L), nonzero on real tokens; None: all are real. Only columns up to the last real token
                are computed: a prompt of 20 tokens padded to 512 costs 20.

        Returns: (B, L, dim) float32, zero where the mask is zero. Raises WanError on ids that do not fit.
        """
        self._check(ids, mask)
        padded = ids.shape[1]
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.to(ids.device) != 0
        used = real.any(0).nonzero()
        length = int(used.max()) + 1 if len(used) else 1
        ids, real = ids[:, :length], real[:, :length]
        hidden = None if real.all() else ~real[:, None, None]  # (B, 1, 1, L)

        x = self.token_embedding(ids).float()
        buckets = position_buckets(length, self.config.num_buckets, self.config.max_distance).to(x.device)
        for block in self.blocks:
            x = block(x, buckets, hidden, self.compute_dtype)
        x = self.norm(x) * real.unsqueeze(2)
        return F.pad(x, (0, 0, 0, padded - length))

    def _check(self, ids: Tensor, mask: Tensor | None) -> None:
        if ids.ndim != 2 or not ids.numel() or (mask is not None and mask.shape != ids.shape):
            found = "none" if mask is None else tuple(mask.shape)
            raise WanError(
                f"ids: expected (B, L) with a mask alike, got {tuple(ids.shape)} with mask {found}"
            )
        if not 0 <= (largest := int(ids.max())) < self.config.vocab_size:
            raise WanError(
                f"ids: token {largest} is outside the text encoder's {self.config.vocab_size} embeddings; "
                "use the tokenizer that belongs to this encoder"
            )


class EncoderBlock(nn.Module):
    """Self-attention with position bias, then the gated feed-forward; each normed first and added."""

    def __init__(self, config: UMT5Config, ops: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.norm1 = ops.RMSNorm(config.dim, eps=config.eps, **place)
        self.attn = SelfAttention(config, ops, place)
        self.norm2 = ops.RMSNorm(config.dim, eps=config.eps, **place)
        self.ffn = FeedForward(config, ops, place)
        self.pos_embedding = PositionBias(config, ops, place)

    def forward(self, x: Tensor, buckets: Tensor, hidden: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Tokens (B, L, D) float32 to the same.

        Args:
            x: (B, L, D) float32
            buckets: (2L-1,) as `position_buckets` gives them
            hidden: (B, 1, 1, L) true on the keys to pass over, None when there are none
            dtype: of the feed-forward
        """
        bias = self.pos_embedding(buckets).unsqueeze(0)  # (1, heads, L, L), the last query first
        if hidden is not None:  # by a finite score, lest a sample without tokens become NaN
            bias = bias.masked_fill(hidden, torch.finfo(bias.dtype).min)
        if torch.is_grad_enabled():
            x = x + self.attn(self.norm1(x), bias)
            return x + self.ffn(self.norm2(x).to(dtype))
        x.add_(self.attn(self.norm1(x), bias))
        return x.add_(self.ffn(self.norm2(x).to(dtype)))


class SelfAttention(nn.Module):
    """Attention of every token to every token, without 1/sqrt(d).

    Unscaled scores are large, and rounding them or what they come from to bf16 is half of a bf16 run's error.
    """

    def __init__(self, config: UMT5Config, ops: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q = ops.Linear(config.dim, config.dim_attn, bias=False, **place)
        self.k = ops.Linear(config.dim, config.dim_attn, bias=False, **place)
        self.v = ops.Linear(config.dim, config.dim_attn, bias=False, **place)
        self.o = ops.Linear(config.dim_attn, config.dim, bias=False, **place)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, L, D) float32 to the same; bias: (1 or B, heads, L, L) float32, the last query first."""
        q, k, v = (self._heads(layer(x)) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q.flip(2), k, v, attn_mask=bias, scale=1.0)
        return self.o(out.flip(2).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, L, d)


class FeedForward(nn.Module):
    """fc2(fc1(x) * gelu(gate(x))), GELU in its tanh form."""

    def __init__(self, config: UMT5Config, ops: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            ops.Linear(config.dim, config.dim_ffn, bias=False, **place), nn.GELU(approximate="tanh")
        )
        self.fc1 = ops.Linear(config.dim, config.dim_ffn, bias=False, **place)
        self.fc2 = ops.Linear(config.dim_ffn, config.dim, bias=False, **place)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to the same, in the dtype of x; the product is rounded once."""
        gate = self.gate[0](x).float()
        if torch.is_grad_enabled():
            product = self.fc1(x).float() * self.gate[1](gate)
        else:  # in place: two of the wide tensors instead of four
            product = torch.ops.aten.gelu_(gate, approximate="tanh").mul_(self.fc1(x))
        return self.fc2(product.to(x.dtype))


class PositionBias(nn.Module):
    """A learned score per head for each bucket of distances between two tokens."""

    def __init__(self, config: UMT5Config, ops: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.embedding = ops.Embedding(config.num_buckets, config.num_heads, **place)

    def forward(self, buckets: Tensor) -> Tensor:
        """Buckets (2L-1,) of the offsets -(L-1) .. L-1 to the bias (heads, L queries, L keys), float32.

        The last query comes first. Query i sees the offsets -i .. L-1-i, so from there on each sees a window
        one further to the right: on a CPU a view of (heads, 2L-1) numbers. GPU kernels want aligned rows.
        """
        by_offset = self.embedding(buckets).float().T.contiguous()
        windows = by_offset.unfold(1, (len(buckets) + 1) // 2, 1)
        return windows if windows.device.type == "cpu" else windows.contiguous()


def position_buckets(length: int, num_buckets: int, max_distance: int) -> Tensor:
    """Bucket (2L-1,) of each offset key - query from -(L-1) to L-1.

    Half the buckets are for keys behind the query. Of each half, half hold one distance each, the others grow
    logarithmically up to `max_distance`. Evaluated in float32 on the CPU: some edges of the released buckets
    fall exactly on a distance, and another rounding would move them.
    """
    offset = torch.arange(1 - length, length, device="cpu")
    half = num_buckets // 2
    exact = half // 2
    distance = offset.abs()
    ratio = torch.log(distance.float().clamp(min=1) / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(distance < exact, distance, far) + (offset > 0) * half
