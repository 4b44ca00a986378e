"""Experts known by their numbers: a swapped pair is found out even when its files are renamed.

The two experts of a model differ in no name and no shape, so this is a table of the first numbers of
`head.modulation`, kept unrounded in every file seen so far. Add a row for a model: `fingerprint` gives it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..media.preview import RELEASED_RGB, LatentRgb
from ..variants.variant import HIGH_NOISE, LOW_NOISE
from .containers import map_stored
from .detect import Detection
from .header import Header
from .rounding import ROUNDING, close

TENSOR = "head.modulation"
NUMBERS = 8


@dataclass(frozen=True)
class Known:
    """One expert of one model."""

    model: str
    expert: str
    numbers: tuple[float, ...]
    rgb: LatentRgb | None = None  # the colours of its VAE's latents, where that is not the released VAE


_T2V_HIGH = (
    *(0.0245361328125, 0.01031494140625, 0.006744384765625, 0.0634765625),
    *(-0.058349609375, -0.0306396484375, 0.03466796875, -0.01544189453125),
)
_T2V_LOW = (
    *(0.056884765625, 0.0140380859375, -0.02392578125, 0.0771484375),
    *(-0.0634765625, -0.04345703125, 0.037841796875, -0.26171875),
)
_I2V_HIGH = (
    *(0.021728515625, 0.0029144287109375, 0.01165771484375, 0.07763671875),
    *(-0.05712890625, -0.0308837890625, 0.03759765625, -0.0155029296875),
)
_I2V_LOW = (
    *(0.0595703125, 0.0186767578125, -0.0228271484375, 0.07861328125),
    *(-0.0615234375, -0.037841796875, 0.03662109375, -0.302734375),
)
KNOWN = (
    Known("wan-tiny for text to video", HIGH_NOISE, _T2V_HIGH),
    Known("wan-tiny for text to video", LOW_NOISE, _T2V_LOW),
    Known("wan-tiny for image to video", HIGH_NOISE, _I2V_HIGH),
    Known("wan-tiny for image to video", LOW_NOISE, _I2V_LOW),
)


def fingerprint(header: Header, detection: Detection) -> torch.Tensor | None:
    """The numbers a transformer is known by (8,), in the file's dtype; None when it lacks them."""
    info = detection.tensors.get(TENSOR)
    if header.problems or info is None or info.dtype not in ROUNDING or info.elements < NUMBERS:
        return None
    stored = detection.names[TENSOR]
    return map_stored(header, [stored])[stored].flatten()[:NUMBERS]


def known_expert(header: Header, detection: Detection) -> Known | None:
    """The expert that a transformer file holds by its numbers, or None when they are new to us."""
    numbers = fingerprint(header, detection)
    if numbers is None:
        return None
    dtype = detection.tensors[TENSOR].dtype
    return next((one for one in KNOWN if close(numbers, torch.tensor(one.numbers), dtype, "F32")), None)


def latent_rgb(model: str | None, channels: int) -> LatentRgb:
    """How latents of so many channels become colours: as a model named in KNOWN says, else as released."""
    own = (one.rgb for one in KNOWN if one.model == model and one.rgb is not None)
    return next(own, RELEASED_RGB[channels])
