"""What one released Wan model is: its numbers, and what it does with pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..errors import WanError
from .conditioning import Conditioning, Encode

# The experts, as state, options and JSON spell them; DENSE is the one of a single-network model.
HIGH_NOISE, LOW_NOISE, DENSE = "high_noise", "low_noise", "dense"
# The pictures a model may be given, as messages call them.
START_IMAGE, END_IMAGE = "start image", "end image"

# size_for_image(width, height, max_area, rounding) -> (width, height) of the video, in pixels
SizeForImage = Callable[[int, int, int, str], tuple[int, int]]
# prepare(start, end, frames, height, width, encode), with pictures (H, W, 3) in 0..1
Prepare = Callable[[Tensor | None, Tensor | None, int, int, int, Encode], Conditioning]


@dataclass(frozen=True)
class Variant:
    """One released model and its defaults (wan/configs of the Wan2.2 release).

    Sizes are (width, height) in pixels. `guidance_scale_low` and `guidance_scale_high` belong to the
    low-noise and the high-noise expert; a single network (`boundary` None) has the same number in both.
    """

    name: str
    title: str
    task: str  # "t2v", "i2v" or "ti2v"
    in_channels: int
    out_channels: int
    vae_family: str  # the checkpoint family of the VAE it was trained with
    vae_stride: tuple[int, int, int]  # frames, height, width per latent cell
    latent_channels: int
    boundary: float | None  # fraction of 1000 timesteps; from there up the high-noise expert works
    shift: float
    steps: int
    guidance_scale_low: float
    guidance_scale_high: float
    fps: int
    frames: int
    sizes: tuple[tuple[int, int], ...]
    negative_prompt: str
    images: tuple[str, ...] = ()  # the pictures it can be given
    needs_image: bool = False  # at least one of them
    # Whether it was given pictures stretched to the video's size; else they were cropped to it.
    stretches_image: bool = False
    size_for_image: SizeForImage | None = None  # None: it takes no pictures
    prepare: Prepare | None = None

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts in the order they work."""
        return (DENSE,) if self.boundary is None else (HIGH_NOISE, LOW_NOISE)

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this: a VAE cell times the 2 x 2 patch."""
        return self.vae_stride[1] * 2

    @property
    def smallest_size(self) -> tuple[int, int]:
        """The released (width, height) of the fewest pixels."""
        return min(self.sizes, key=math.prod)

    def check_images(self, start: bool, end: bool, frames: int) -> None:
        """Refuse pictures the model has no use for, and none where it needs one. Raises WanError."""
        for name, given in ((START_IMAGE, start), (END_IMAGE, end)):
            if given and name not in self.images:
                takes = " and ".join(self.images) or "text only"
                raise WanError(
                    f"{name}: {self.title} knows no {name} (it takes {takes}); leave it out, or choose the "
                    "I2V-A14B model, which takes start and end images"
                )
        if self.needs_image and not (start or end):
            raise WanError(
                f"image: {self.title} needs a start image, an end image or both; give one, or choose a "
                "text-to-video model"
            )
        if end and frames <= self.vae_stride[0]:
            raise WanError(
                f"{END_IMAGE}: a video of {frames} frame has no other end than its start; ask for "
                f"{self.vae_stride[0] + 1} frames or more"
            )
