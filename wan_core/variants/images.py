"""A picture brought to a video's size, as the released models had theirs.

Pictures are (H, W, 3) float tensors in 0..1, on the CPU; what a VAE encodes is (1, 3, 1, H, W) in -1..1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import WanError

# How a size follows from a picture: with the released code's own float rounding, or computed in integers.
RELEASED, EXACT = "released", "exact"
ROUNDINGS = (RELEASED, EXACT)


def stretched(image: Tensor, width: int, height: int) -> Tensor:
    """(1, 3, 1, height, width): bicubic, straight to the size, nothing cut off (wan/image2video.py).

    No antialiasing and no clamp, as released: values may overshoot -1..1 a little.
    """
    pixels = to_signed(image).unsqueeze(0)
    return F.interpolate(pixels, size=(height, width), mode="bicubic").unsqueeze(2)


def covering(image: Tensor, width: int, height: int) -> Tensor:
    """(1, 3, 1, height, width): Lanczos to cover the size, then the centre of it (wan/textimage2video.py)."""
    picture = Image.fromarray((image * 255.0).round().clamp(0.0, 255.0).to(torch.uint8).numpy())
    scale = max(width / picture.width, height / picture.height)
    picture = picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
    )
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    picture = picture.crop((left, top, left + width, top + height))
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(height, width, 3)
    return to_signed(pixels.float() / 255.0).unsqueeze(0).unsqueeze(2)


def to_signed(image: Tensor) -> Tensor:
    """(H, W, 3) in 0..1 to (3, H, W) in -1..1, with the released order of operations."""
    return image.float().cpu().permute(2, 0, 1).sub(0.5).div(0.5)


def crop_to_aspect(image: Tensor, width: int, height: int) -> Tensor:
    """The largest centre part (h, w, 3) of a picture that has the aspect of width x height."""
    rows, columns, _ = image.shape
    new_rows = min(rows, max(1, round(columns * height / width)))
    new_columns = min(columns, max(1, round(rows * width / height)))
    top, left = (rows - new_rows) // 2, (columns - new_columns) // 2
    return image[top : top + new_rows, left : left + new_columns]


def check_size_rule(width: int, height: int, max_area: int, rounding: str) -> None:
    """Refuse what no size can follow from. Raises WanError."""
    check_rounding(rounding)
    if min(width, height, max_area) < 1:
        raise WanError(f"image: {width} x {height} pixels, {max_area} wanted; all must be at least 1")


def check_rounding(rounding: str) -> None:
    """Refuse a rule that is none. Raises WanError."""
    if rounding not in ROUNDINGS:
        raise WanError(f"rounding: {rounding!r} is not known; choose one of {', '.join(ROUNDINGS)}")


def check_not_too_thin(size: tuple[int, int], image: tuple[int, int], max_area: int) -> tuple[int, int]:
    """The size, unless a side was rounded down to nothing. Raises WanError."""
    if 0 in size:
        raise WanError(
            f"image: {image[0]} x {image[1]} is too long and thin for a video of {max_area} pixels; crop it, "
            "or give width and height"
        )
    return size
