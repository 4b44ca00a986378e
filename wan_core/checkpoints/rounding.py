"""What each dtype does to a number: whether two tensors can be roundings of the same ones."""

from __future__ import annotations

import torch
from torch import Tensor

# dtype -> the largest relative error of rounding to it, and the largest absolute one near zero.
ROUNDING = {
    "F64": (2.0**-53, 0.0), "F32": (2.0**-24, 0.0), "F16": (2.0**-11, 2.0**-25), "BF16": (2.0**-8, 0.0),
    "F8_E4M3": (2.0**-4, 2.0**-10), "F8_E5M2": (2.0**-3, 2.0**-17),
}  # fmt: skip
_TWICE = 1.25  # room for a number that was rounded to one dtype on its way to another


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
