"""Models known by their numbers: a swapped pair is found out even when its files are renamed.

The two experts of a model differ in no name and no shape, so this is a table of the first numbers of
`head.modulation`, kept unrounded in every file seen so far. Add a row for a model: `fingerprint` gives it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..media.preview import RELEASED_RGB, LatentRgb
from ..variants.variant import DENSE, HIGH_NOISE, LOW_NOISE
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
_TI2V = (
    *(-0.00738525390625, -0.004730224609375, 0.0147705078125, 0.05712890625),
    *(-0.0712890625, -0.032958984375, 0.04345703125, -0.022216796875),
)
# Fitted by `tiny/fit_preview.py`, for either of wan-tiny's VAEs.
_RGB_16 = LatentRgb(
    factors=(
        (-0.2073, -0.0233, -0.1084),
        (-0.0975, 0.0705, 0.0086),
        (-0.1197, -0.0651, -0.0709),
        (-0.0361, -0.0325, -0.0415),
        (-0.0239, -0.1198, -0.0314),
        (-0.1552, -0.153, -0.1353),
        (0.1178, 0.0615, 0.0721),
        (0.1399, 0.1055, 0.1211),
        (-0.1987, -0.2106, -0.1717),
        (-0.0326, -0.1532, 0.0229),
        (0.0253, 0.0163, 0.0587),
        (0.1705, -0.0106, 0.062),
        (0.0681, 0.1656, 0.1926),
        (0.079, 0.0982, -0.0543),
        (-0.0769, -0.0771, -0.2319),
        (-0.0234, -0.0383, 0.0511),
    ),
    bias=(-0.0585, -0.062, -0.0879),
)
_RGB_48 = LatentRgb(
    factors=(
        (0.2033, 0.4358, 0.2764),
        (1.4165, 0.9853, 1.6837),
        (-1.0459, -0.4068, -0.6018),
        (0.5078, 0.4602, 0.7144),
        (-0.0008, 0.0066, 0.0064),
        (-0.1283, -0.2155, -0.3904),
        (-0.0422, 0.1282, 0.0445),
        (-1.0232, -0.6841, -1.2231),
        (0.3357, 0.2007, 0.3554),
        (-0.5961, -0.2596, -0.8068),
        (1.0461, 0.658, 0.9803),
        (0.2429, 0.2647, -0.0426),
        (-0.4443, -0.5103, -0.208),
        (-0.4492, -0.4076, -0.2625),
        (0.0894, -0.0548, 0.1241),
        (-0.4989, -0.3192, -0.3264),
        (0.4552, 0.4536, 1.2014),
        (0.2902, 0.1354, 0.1062),
        (0.7525, 0.5287, 0.5622),
        (0.6227, 0.3737, 0.3712),
        (-0.4837, -0.5687, -1.0244),
        (-0.1067, -0.0201, 0.4849),
        (0.6076, 0.3639, 0.8377),
        (0.1109, 0.2884, 0.5712),
        (-0.6753, -0.4801, -0.5061),
        (0.0292, 0.0446, -0.1207),
        (0.3749, 0.3134, 0.9275),
        (0.5302, 0.2346, 0.6598),
        (-1.2283, -0.5971, -0.6966),
        (-0.528, -0.4752, -1.076),
        (-1.0268, -0.538, -1.299),
        (0.3518, 0.1792, 0.5574),
        (0.1347, 0.2623, 0.4219),
        (0.3425, 0.3304, 0.8128),
        (1.348, 1.041, 1.5079),
        (0.3563, 0.2261, 0.7702),
        (0.986, 0.838, 1.1706),
        (-0.0861, -0.2962, -0.476),
        (-0.555, -0.4073, -0.996),
        (0.5294, 0.3881, 0.2733),
        (-0.1524, -0.213, -0.2298),
        (-0.0328, -0.0647, 0.318),
        (-0.2928, -0.2052, -0.1357),
        (0.7902, 0.5996, 0.9278),
        (-0.6594, -0.3496, -0.5267),
        (0.0699, 0.1139, 0.0438),
        (-0.4295, -0.4083, -0.2826),
        (0.8754, 0.4308, 1.2143),
    ),
    bias=(-0.1134, -0.0915, -0.0995),
)
KNOWN = (
    Known("wan-tiny for text to video", HIGH_NOISE, _T2V_HIGH, _RGB_16),
    Known("wan-tiny for text to video", LOW_NOISE, _T2V_LOW, _RGB_16),
    Known("wan-tiny for image to video", HIGH_NOISE, _I2V_HIGH, _RGB_16),
    Known("wan-tiny for image to video", LOW_NOISE, _I2V_LOW, _RGB_16),
    Known("wan-tiny for text or image to video", DENSE, _TI2V, _RGB_48),
)


@dataclass(frozen=True)
class Clips:
    """What a model was taught with: (width, height) in pixels, and how many frames."""

    sizes: tuple[tuple[int, int], ...]
    frames: int


# Of models in KNOWN, where that is not what their variant was taught with.
CLIPS = {
    f"wan-tiny for {words}": Clips(((96, 96),), 17)
    for words in ("text to video", "image to video", "text or image to video")
}


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
