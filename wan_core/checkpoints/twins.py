"""Whether two files hold the same network, whatever they are called and however their numbers are stored."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import WanError
from .checkpoint import Checkpoint

# Small tensors that training moves: enough to tell two experts apart, read in a moment.
_TELLTALE = (
    *("head.modulation", "head.head.bias", "patch_embedding.bias", "time_projection.1.bias"),
    *("blocks.0.modulation", "blocks.0.self_attn.norm_q.weight", "blocks.0.cross_attn.norm_k.weight"),
)
# dtype -> the largest relative error of rounding to it, and the largest absolute one near zero.
ROUNDING = {
    "F64": (2.0**-53, 0.0), "F32": (2.0**-24, 0.0), "F16": (2.0**-11, 2.0**-25), "BF16": (2.0**-8, 0.0),
    "F8_E4M3": (2.0**-4, 2.0**-10), "F8_E5M2": (2.0**-3, 2.0**-17),
}  # fmt: skip
_TWICE = 1.25  # room for a number that was rounded to one dtype on its way to another


def same_weights(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two transformers are the same, in their small tensors and within what their dtypes can tell.

    Files of one dtype must agree exactly. Tensors kept in blocks (GGUF rarely does it to small ones) are
    passed over.
    """
    names = [name for name in _TELLTALE if name in first.header]
    if not names:
        raise WanError(f"{first.file}: is {first.inspection.words}; only transformers are compared")
    if names != [name for name in _TELLTALE if name in second.header]:
        return False
    dtypes = {name: (first.header[name].dtype, second.header[name].dtype) for name in names}
    names = [name for name in names if ROUNDING.keys() >= set(dtypes[name])]
    return bool(names) and all(
        close(first.tensor(name), second.tensor(name), *dtypes[name]) for name in names
    )


def close(ours: Tensor, theirs: Tensor, our_dtype: str, their_dtype: str) -> bool:
    """Whether two tensors can be roundings of the same numbers."""
    if ours.shape != theirs.shape:
        return False
    if our_dtype == their_dtype:
        return torch.equal(ours, theirs)
    ours, theirs = ours.float(), theirs.float()
    relative, smallest = (
        sum(pair) * _TWICE for pair in zip(ROUNDING[our_dtype], ROUNDING[their_dtype], strict=True)
    )
    allowed = torch.maximum(ours.abs(), theirs.abs()) * relative + smallest
    return bool(((ours - theirs).abs() <= allowed).all())
