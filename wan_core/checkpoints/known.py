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
        (-0.1531, -0.0541, -0.0795),
        (-0.0415, 0.0616, 0.0203),
        (-0.0829, -0.0861, -0.0462),
        (-0.0304, -0.0459, -0.0306),
        (-0.0599, -0.1046, -0.0476),
        (-0.1912, -0.1467, -0.1508),
        (0.0702, 0.0341, 0.0512),
        (0.0919, 0.1007, 0.1014),
        (-0.2306, -0.1845, -0.1941),
        (-0.0937, -0.1587, 0.0023),
        (-0.0036, 0.0021, 0.0413),
        (0.1109, -0.001, 0.0296),
        (0.0859, 0.1798, 0.1895),
        (0.0839, 0.0879, -0.0567),
        (-0.0552, -0.1134, -0.2282),
        (-0.0777, -0.0508, 0.0202),
    ),
    bias=(-0.0452, -0.0441, -0.0777),
)
_RGB_48 = LatentRgb(
    factors=(
        (0.0856, 0.0976, 0.0805),
        (0.0359, 0.0402, 0.0474),
        (0.0353, 0.0595, 0.0649),
        (0.0132, -0.0171, -0.0109),
        (0.0806, 0.0399, 0.0694),
        (-0.0041, 0.001, -0.0045),
        (-0.0876, -0.0686, -0.0609),
        (-0.0111, -0.0349, -0.0047),
        (-0.0432, 0.0137, -0.0043),
        (0.0309, 0.0492, -0.0108),
        (0.1302, 0.0758, 0.0528),
        (-0.0444, -0.002, -0.0343),
        (-0.0054, -0.0426, -0.0179),
        (0.0184, -0.0018, 0.027),
        (-0.0104, -0.0572, -0.0089),
        (-0.0286, -0.0155, -0.0074),
        (0.0127, -0.0262, -0.0234),
        (0.0303, 0.0033, 0.0156),
        (0.1175, 0.1192, 0.0771),
        (-0.0053, 0.0026, 0.0309),
        (-0.0254, -0.0289, -0.0076),
        (-0.0379, -0.0197, 0.0024),
        (0.0362, 0.0952, 0.0659),
        (0.0726, 0.0616, 0.0881),
        (0.041, 0.0011, -0.0178),
        (0.0951, 0.0836, 0.0822),
        (-0.0462, -0.0035, -0.056),
        (0.0181, -0.0103, 0.0694),
        (0.0177, 0.0466, 0.0516),
        (-0.0708, -0.0806, -0.1308),
        (0.0259, -0.0235, -0.0145),
        (0.0281, 0.0275, 0.0624),
        (-0.0775, -0.0564, -0.0912),
        (-0.0175, -0.0319, 0.0383),
        (-0.0849, -0.1058, -0.0839),
        (-0.0296, -0.0293, -0.0186),
        (0.0582, 0.0875, 0.0962),
        (-0.0431, -0.0718, -0.0726),
        (0.0641, 0.0764, 0.0989),
        (0.0311, 0.0429, 0.0355),
        (-0.0269, 0.0008, 0.0127),
        (-0.1504, -0.0911, -0.1071),
        (0.0061, 0.0063, -0.015),
        (0.0261, 0.0104, 0.0533),
        (-0.0229, 0.0261, 0.035),
        (0.0155, 0.0574, 0.0116),
        (-0.0134, -0.0163, -0.0501),
        (0.0709, 0.0294, -0.0004),
    ),
    bias=(-0.1094, -0.0768, -0.0837),
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
