"""How much memory reading a prompt takes beside the weights, counted from the code of `umt5.py`."""

from __future__ import annotations

import torch

from .umt5 import UMT5Config


def text_bytes(
    config: UMT5Config,
    tokens: int,
    weight_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    padded: int = 512,
) -> int:
    """Peak bytes of `UMT5Encoder.forward` of one prompt above weights and input, without gradients.

    Args:
        tokens: up to the last real one, which is all that is computed
        weight_dtype: of the linears as they are kept; any but float32 are made float32 one at a time
        device: on a GPU the position bias takes a whole matrix a head
        padded: rows of the answer
    """
    d, a, f, heads = config.dim, config.dim_attn, config.dim_ffn, config.num_heads
    casts = weight_dtype is not torch.float32
    # The stream and its norm; then q, k, v with q flipped and the result, or that with its flipped copies.
    projecting = tokens * (2 * d + 3 * a) + casts * a * d
    attending = tokens * (2 * d + 6 * a)
    joining = tokens * (3 * d + 5 * a) + casts * a * d
    feeding = tokens * (2 * d + 2 * f) + casts * f * d
    bias = heads * (2 * tokens - 1) + heads * tokens * tokens * (torch.device(device).type != "cpu")
    return 4 * max(max(projecting, attending, joining) + bias, feeding, (tokens + padded) * d)
