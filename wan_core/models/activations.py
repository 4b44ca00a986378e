"""What the transformer holds while it computes, in bytes: counted from its shapes, not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .spans import even_size, limits
from .transformer import TransformerConfig

# On a GPU, beside the tensors: the workspaces of cuBLAS (32 MB on Hopper) and cuDNN, and the log-sum-exp that
# flash attention keeps per query and head (0.7 MB for 4096 queries of 40 heads).
WORKSPACES = 64 * 2**20


def transformer_bytes(
    config: TransformerConfig,
    latent_shape: Sequence[int],
    compute_dtype: torch.dtype,
    residual_dtype: torch.dtype = torch.float32,
    batch: int = 1,
    text_rows: int = 512,
    kept_texts: int = 0,
    device_type: str = "cuda",
) -> int:
    """Peak of one prediction above weights and inputs.

    Args:
        config: the network's shape
        latent_shape: (..., F, H, W) in cells
        compute_dtype, residual_dtype: the network's
        batch: samples
        text_rows: of the context; of several that are kept the mean
        kept_texts: how many values of `read_text` live, whose keys and values every block keeps
        device_type: "cpu", "cuda" (with an allowance for workspaces) or another

    Not counted: weights that are fetched, cast or decoded while a block runs (`held_bytes`).
    """
    dim, compute, residual = config.dim, compute_dtype.itemsize, residual_dtype.itemsize
    tokens = math.prod(n // p for n, p in zip(latent_shape[-3:], config.patch_size, strict=True))
    wide, narrow = (batch * min(tokens, even_size(tokens, n)) for n in limits(batch, device_type))

    stream = batch * tokens * dim * residual
    keys_values = 2 * batch * tokens * dim * compute
    rope = tokens * (dim // config.num_heads // 2) * torch.complex64.itemsize
    rows = batch * dim * compute * (text_rows + 3)  # with the stand-ins for the padding
    text = rows * kept_texts * (1 + 2 * config.num_layers) if kept_texts else 3 * rows

    # Of a span: the norm, with the stream and the result in other types; a projection, float32, being normed;
    # what attention gave, the same with the heads side by side, and its projection.
    norm = dim * (4 + 4 * (residual < 4) + compute * (compute < 4))
    attend = wide * max(norm, dim * (compute + 8), dim * 3 * compute)
    feed = narrow * max(norm, compute * (dim + config.ffn_dim))
    most = max(keys_values + attend, feed)
    return stream + rope + text + most + (WORKSPACES if device_type == "cuda" else 0)


def held_bytes(config: TransformerConfig, compute_dtype: torch.dtype) -> int:
    """What a block adds while its weights are not there as it computes with them.

    For quantized weights, such as are cast, and such as core streams: the four projections around attention,
    or the feed-forward (when no keys and values live, so that the larger of the two is a safe sum).
    """
    return compute_dtype.itemsize * config.dim * max(4 * config.dim, 2 * config.ffn_dim)
