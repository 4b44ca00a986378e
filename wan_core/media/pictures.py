"""Pictures from files, from Pillow or as tensors, made alike: (H, W, 3) float32 in 0..1."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import WanError, shown
from .frames import as_unit_floats

SHORTEST_SIDE, LONGEST_SIDE = 16, 16384
LONGEST_ASPECT = 10


@dataclass(frozen=True)
class Picture:
    """An opened picture. `name` is the file's, or says what it was; it goes into the video's metadata."""

    pixels: Tensor  # (H, W, 3) float32 in 0..1, on the CPU
    name: str

    @property
    def width(self) -> int:
        """In pixels."""
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        """In pixels."""
        return self.pixels.shape[0]


def open_picture(source: Any, field: str) -> Picture:
    """A path, a Pillow image or a tensor (H, W, 3) (uint8, or any float in 0..1) as a Picture.

    Turned as its EXIF orientation says. Transparent parts become white, as on a page: what a file keeps
    under them is nobody's picture. Raises WanError that begins with `field`.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, Tensor):
        return Picture(_from_tensor(source, field), f"tensor {source.shape[1]} x {source.shape[0]}")
    if isinstance(source, Image.Image):
        return Picture(_from_pillow(source, field, field), f"image {source.width} x {source.height}")
    if not isinstance(source, str | Path):
        raise WanError(
            f"{field}: {type(source).__name__} is no picture; give a file, Pillow image or (H, W, 3) tensor"
        )
    path = Path(source)
    return Picture(_from_file(path, field), path.name)


def _from_file(path: Path, field: str) -> Tensor:
    name = f"{field}: {shown(str(path))}"
    try:
        if not path.is_file():
            raise WanError(f"{name} is no file; give a picture such as a .png or .jpg")
        with warnings.catch_warnings():  # the size is checked below, by our own limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _from_pillow(image, name, field)
    except UnidentifiedImageError as error:
        raise WanError(f"{name} is no picture that can be read; give a .png or .jpg") from error
    except Image.DecompressionBombError as error:
        raise WanError(f"{name} says it has too many pixels to be a picture; scale it down") from error
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow's readers raise over damaged files
        raise WanError(f"{name} cannot be read ({error}); save or download it again") from error


def _from_pillow(image: Image.Image, name: str, field: str) -> Tensor:
    _check_size(image.width, image.height, name)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion turns all but the darkest to white
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _from_tensor(torch.from_numpy(np.array(image.convert("RGB"))), field)


def _from_tensor(pixels: Tensor, field: str) -> Tensor:
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise WanError(f"{field}: a tensor of shape {tuple(pixels.shape)}; give one picture as (H, W, 3)")
    _check_size(pixels.shape[1], pixels.shape[0], field)
    if not pixels.is_floating_point() and pixels.dtype != torch.uint8:
        raise WanError(f"{field}: a tensor of {pixels.dtype}; give uint8, or floats in 0..1")
    pixels = pixels.detach().cpu()
    if not torch.isfinite(pixels).all():
        raise WanError(f"{field}: it holds NaN or infinite values; give numbers in 0..1")
    if pixels.is_floating_point() and (pixels.min() < -0.01 or pixels.max() > 1.01):
        raise WanError(
            f"{field}: its values go from {pixels.min():g} to {pixels.max():g}; give floats in 0..1, or uint8"
        )
    return as_unit_floats(pixels)


def _check_size(width: int, height: int, name: str) -> None:
    shorter, longer = min(width, height), max(width, height)
    if shorter < SHORTEST_SIDE or longer > LONGEST_SIDE:
        raise WanError(
            f"{name}: {width} x {height} pixels; give one with {SHORTEST_SIDE} to {LONGEST_SIDE} pixels on "
            "each side"
        )
    if longer > LONGEST_ASPECT * shorter:
        raise WanError(
            f"{name}: {width} x {height} pixels, more than {LONGEST_ASPECT} times as long as wide; crop it"
        )
