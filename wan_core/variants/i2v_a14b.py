"""Wan2.2 I2V-A14B: image to video, two experts (wan/configs/wan_i2v_A14B.py, wan/image2video.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .conditioning import Conditioning, Encode
from .images import EXACT, RELEASED, check_not_too_thin, check_size_rule, crop_to_aspect, stretched
from .negative_prompt import RELEASED_NEGATIVE_PROMPT
from .variant import END_IMAGE, START_IMAGE, Variant


def i2v_size(width: int, height: int, max_area: int, rounding: str = RELEASED) -> tuple[int, int]:
    """(width, height) of the video for a picture: its aspect, at most max_area, both multiples of 16.

    The released code takes the roots in floats, and where one should come out whole it may fall just short:
    832 x 480 at its own area becomes 832 x 464. "released" keeps that, so that a seed means the same video;
    "exact" computes in integers and leaves 832 x 480 as it is. Raises WanError for a picture too thin.
    """
    check_size_rule(width, height, max_area, rounding)
    if rounding == EXACT:
        size = (
            math.isqrt(max_area * width // (height * 256)) * 16,
            math.isqrt(max_area * height // (width * 256)) * 16,
        )
    else:
        aspect = height / width
        size = (int(math.sqrt(max_area / aspect) // 16) * 16, int(math.sqrt(max_area * aspect) // 16) * 16)
    return check_not_too_thin(size, (width, height), max_area)


def prepare_i2v(
    start: Tensor | None, end: Tensor | None, frames: int, height: int, width: int, encode: Encode
) -> Conditioning:
    """The channels of a start image, an end image, or both: (1, 20, F, h, w).

    start, end: (H, W, 3) in 0..1, stretched to the size as released; of the end image first the centre with
    the start image's aspect is taken, so that both fit each other. The frames between are mid grey, as
    released. An end image is the last pixel frame (no released code has one; the networks know the first and
    last frame from their training, and ComfyUI's WanFirstLastFrameToVideo asks them this way).
    Raises WanError without an image, and for an end image in a video of one frame.
    """
    I2V_A14B.check_images(start is not None, end is not None, frames)
    if end is not None and start is not None:
        end = crop_to_aspect(end, start.shape[1], start.shape[0])
    first, last = (None if image is None else stretched(image, width, height) for image in (start, end))
    video = _grey_between(first, last, frames, height, width)
    return Conditioning(channels=i2v_channels(encode(video), start is not None, end is not None))


def _grey_between(
    first: Tensor | None, last: Tensor | None, frames: int, height: int, width: int
) -> Iterator[Tensor]:
    """A video of 4n + 1 frames in chunks of 1, 4, 4, ...: (1, 3, 1, H, W) at its ends if given, else grey.

    81 frames of 1280 x 720 at once are 0.9 GB.
    """
    grey = torch.zeros(1, 3, 4, height, width)
    yield grey[:, :, :1] if first is None else first
    for done in range(5, frames + 1, 4):
        yield grey if last is None or done < frames else torch.cat((grey[:, :, 1:], last), dim=2)


def i2v_channels(image_latent: Tensor, start: bool, end: bool) -> Tensor:
    """(B, 20, F, h, w) from the latent (B, 16, F, h, w) of the known frames: the mask's 4 channels, then it.

    A mask channel is a pixel frame of the latent frame's four, 1 where it is given. The first latent frame is
    one pixel frame only, and counts in all four.
    """
    batch, _, frames, height, width = image_latent.shape
    mask = image_latent.new_zeros(batch, 4, frames, height, width)
    if start:
        mask[:, :, 0] = 1.0
    if end:
        mask[:, 3, -1] = 1.0
    return torch.cat([mask, image_latent], dim=1)


I2V_A14B = Variant(
    name="i2v-a14b",
    title="Wan2.2 I2V-A14B",
    task="i2v",
    in_channels=36,  # noise 16, mask 4, image latent 16
    out_channels=16,
    vae_family="wan-vae-2.1",
    vae_stride=(4, 8, 8),
    latent_channels=16,
    boundary=0.900,
    shift=5.0,
    steps=40,
    guidance_scale_low=3.5,
    guidance_scale_high=3.5,
    fps=16,
    frames=81,
    sizes=((1280, 720), (720, 1280), (832, 480), (480, 832)),
    negative_prompt=RELEASED_NEGATIVE_PROMPT,
    images=(START_IMAGE, END_IMAGE),
    needs_image=True,
    stretches_image=True,
    size_for_image=i2v_size,
    prepare=prepare_i2v,
)
