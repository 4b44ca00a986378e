"""Wan2.2 TI2V-5B: text, or text and image, to video; one network (wan/configs/wan_ti2v_5B.py)."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from .conditioning import Conditioning, Encode
from .images import EXACT, RELEASED, check_not_too_thin, check_size_rule, covering
from .negative_prompt import RELEASED_NEGATIVE_PROMPT
from .variant import START_IMAGE, Variant


def ti2v_size(width: int, height: int, max_area: int, rounding: str = RELEASED) -> tuple[int, int]:
    """(width, height) of the video for a picture: at most max_area, both multiples of 32.

    Of two sizes, one with the width rounded down first and one with the height, that with the nearer aspect;
    the second in a tie (`best_output_size` in wan/utils/utils.py). "released" computes in floats as that
    does, "exact" without rounding errors. Raises WanError for a picture too thin.
    """
    check_size_rule(width, height, max_area, rounding)
    if rounding == EXACT:
        wide = math.isqrt(max_area * width // (height * 1024)) * 32
        high = math.isqrt(max_area * height // (width * 1024)) * 32
        aspect: Fraction | float = Fraction(width, height)
    else:
        aspect = width / height
        ideal = (max_area * aspect) ** 0.5
        wide, high = int(ideal // 32 * 32), int(max_area / ideal // 32 * 32)
    check_not_too_thin((wide, high), (width, height), max_area)
    width_first = (wide, max_area // wide // 32 * 32)
    height_first = (max_area // high // 32 * 32, high)
    return min(height_first, width_first, key=lambda size: _stretch(aspect, size))


def _stretch(aspect: Fraction | float, size: tuple[int, int]) -> Fraction | float:
    """How far from the wanted aspect a size is: 1 for the same."""
    own = Fraction(*size) if isinstance(aspect, Fraction) else size[0] / size[1]
    return max(aspect / own, own / aspect)


def prepare_ti2v(
    start: Tensor | None, end: Tensor | None, frames: int, height: int, width: int, encode: Encode
) -> Conditioning:
    """The first latent frame held clean: start (H, W, 3) in 0..1, cropped to the size and encoded alone.

    Without it the conditioning is empty: text alone. Raises WanError for an end image.
    """
    TI2V_5B.check_images(start is not None, end is not None, frames)
    if start is None:
        return Conditioning()
    mask = torch.ones(1, 1, (frames - 1) // 4 + 1, 1, 1)
    mask[:, :, 0] = 0.0
    return Conditioning(clean_latent=encode([covering(start, width, height)]), denoise_mask=mask)


TI2V_5B = Variant(
    name="ti2v-5b",
    title="Wan2.2 TI2V-5B",
    task="ti2v",
    in_channels=48,
    out_channels=48,
    vae_family="wan-vae-2.2",
    vae_stride=(4, 16, 16),
    latent_channels=48,
    boundary=None,
    shift=5.0,
    steps=50,
    guidance_scale_low=5.0,
    guidance_scale_high=5.0,
    fps=24,
    frames=121,
    sizes=((1280, 704), (704, 1280)),
    negative_prompt=RELEASED_NEGATIVE_PROMPT,
    images=(START_IMAGE,),
    size_for_image=ti2v_size,
    prepare=prepare_ti2v,
)
