"""What one video is asked to be, checked before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from .errors import WanError
from .media.mp4 import frame_rate
from .media.pictures import Picture, open_picture
from .sampling.experts import check_boundary
from .sampling.guidance import guidance_by_expert
from .sampling.guidance_schedule import GuidanceSchedule, with_cfg_steps
from .sampling.noise import make_noise
from .sampling.step_cache import StepCache
from .schedulers import make_schedule
from .text.cleaning import clean_prompt
from .variants import Variant
from .variants.images import RELEASED, check_rounding, crop_to_aspect
from .variants.variant import DENSE, END_IMAGE, HIGH_NOISE, LOW_NOISE, START_IMAGE

# The rotary tables know 1024 positions per axis; these stay well inside and still catch a slipped digit.
MAX_FRAMES = 1025
MIN_SIDE, MAX_SIDE = 16, 4096

PictureSource = Picture | Image | Tensor | str | Path


@dataclass(frozen=True)
class Request:
    """A prompt and everything that shapes the video. Sizes in pixels, `fps` in frames per second.

    `guidance_scale_high` and `guidance_scale_low` belong to the high-noise and the low-noise expert, and
    `boundary` is None for a model with one network.

    Without width and height the size follows from the picture (the start image, else the end image), as
    released: its aspect, and at most `max_area` pixels (None: the model's smallest released size). `rounding`
    "exact" does so without the float rounding that makes 832 x 464 of a picture of 832 x 480. With width and
    height the pictures are cropped to that aspect, about their middle, so that nothing is squashed.
    """

    prompt: str
    negative_prompt: str
    width: int | None
    height: int | None
    frames: int
    fps: float
    steps: int
    shift: float
    boundary: float | None
    guidance_scale_high: float
    guidance_scale_low: float
    scheduler: str = "unipc"
    seed: int = 0
    image: PictureSource | None = None  # file, Pillow image, or tensor (H, W, 3) of floats in 0..1 or uint8
    end_image: PictureSource | None = None
    max_area: int | None = None
    rounding: str = RELEASED
    step_cache: float | None = None  # threshold of `StepCache`; None computes every step
    cfg_skip: str | None = None  # steps without guidance, as `GuidanceSchedule` reads them; None: all have it
    cfg_steps: int = 0  # only this many first steps have guidance; 0: all

    @classmethod
    def for_variant(cls, variant: Variant, prompt: str, **changes: Any) -> Request:
        """The released settings of a variant, with `changes` by field name.

        Left out, the size is the picture's as `Request` says, or without one the smallest released.
        """
        has_picture = any(changes.get(name) is not None for name in ("image", "end_image"))
        width, height = (None, None) if has_picture else variant.smallest_size
        released = {
            "negative_prompt": variant.negative_prompt,
            "width": width,
            "height": height,
            "frames": variant.frames,
            "fps": variant.fps,
            "steps": variant.steps,
            "shift": variant.shift,
            "boundary": variant.boundary,
            "guidance_scale_high": variant.guidance_scale_high,
            "guidance_scale_low": variant.guidance_scale_low,
        }
        return cls(prompt=prompt, **released | changes)

    @property
    def guidance_scale(self) -> dict[str, float]:
        """The guidance by expert; a single network takes the high one."""
        high, low = self.guidance_scale_high, self.guidance_scale_low
        return {HIGH_NOISE: high, LOW_NOISE: low, DENSE: high}

    @property
    def shortcuts(self) -> tuple[StepCache | None, GuidanceSchedule | None]:
        """What the loop may leave out. Raises WanError for a threshold or steps that mean nothing."""
        schedule = None if self.cfg_skip is None else GuidanceSchedule(self.cfg_skip)
        return (
            None if self.step_cache is None else StepCache(self.step_cache),
            with_cfg_steps(schedule, self.cfg_steps),
        )

    def latent_shape(self, variant: Variant) -> tuple[int, int, int, int]:
        """(C, F, h, w) of the latent."""
        width, height = self.size(variant)
        stride_t, stride_h, stride_w = variant.vae_stride
        frames = (self.frames - 1) // stride_t + 1
        return variant.latent_channels, frames, height // stride_h, width // stride_w

    def size(self, variant: Variant) -> tuple[int, int]:
        """(width, height) of the video: as given, or from the picture, or the smallest released."""
        if self.width is not None and self.height is not None:
            return self.width, self.height
        picture = next(iter(self._pictures().values()), None)
        if picture is None or variant.size_for_image is None:
            return variant.smallest_size
        area = math.prod(variant.smallest_size) if self.max_area is None else self.max_area
        return variant.size_for_image(picture.width, picture.height, area, self.rounding)

    def images(self, variant: Variant) -> tuple[Tensor | None, Tensor | None]:
        """Start and end image (H, W, 3) as `prepare` takes them, cropped to a given width and height."""
        pictures = {name: picture.pixels for name, picture in self._pictures().items()}
        if self.width is not None and self.height is not None and variant.stretches_image:
            pictures = {
                name: crop_to_aspect(pixels, self.width, self.height) for name, pixels in pictures.items()
            }
        return pictures.get(START_IMAGE), pictures.get(END_IMAGE)

    def _pictures(self) -> dict[str, Picture]:
        given = {START_IMAGE: self.image, END_IMAGE: self.end_image}
        return {name: open_picture(source, name) for name, source in given.items() if source is not None}

    def validate(self, variant: Variant) -> Request:
        """The request with its pictures opened, if `variant` can make it.

        A WanError names the first field that is wrong.
        """
        check_text("prompt", self.prompt, may_be_empty=False)
        check_text("negative prompt", self.negative_prompt, may_be_empty=True)
        check_frames(self.frames, variant.vae_stride[0])
        variant.check_images(self.image is not None, self.end_image is not None, self.frames)
        pictures = self._pictures()
        opened = replace(self, image=pictures.get(START_IMAGE), end_image=pictures.get(END_IMAGE))
        opened._check_size(variant)
        frame_rate(self.fps)
        make_schedule(self.scheduler, self.steps, self.shift)
        if variant.boundary is None and self.boundary is not None:
            raise WanError(f"boundary: {variant.title} has one network; leave the boundary out")
        if variant.boundary is not None:
            check_boundary(self.boundary)
        guidance_by_expert(self.guidance_scale, variant.experts)
        _, unguided = self.shortcuts
        if unguided is not None:
            unguided.steps(self.steps)
        make_noise((1, 1, 1, 1), self.seed)
        return opened

    def _check_size(self, variant: Variant) -> None:
        if (self.width is None) != (self.height is None):
            missing, given = ("width", "height") if self.width is None else ("height", "width")
            raise WanError(
                f"{missing}: missing, though {given} is there; give both, or neither for the picture's aspect"
            )
        check_rounding(self.rounding)
        if self.max_area is not None:
            if self.width is not None:
                raise WanError(
                    "max area: it is for sizes that follow from a picture; leave it out, or width and height"
                )
            _check_whole("max area", self.max_area, variant.size_multiple**2, MAX_SIDE**2)
        width, height = self.size(variant)
        check_side("width", width, variant.size_multiple)
        check_side("height", height, variant.size_multiple)


@dataclass(frozen=True)
class ClipSize:
    """How large, in pixels, and how long a video is."""

    width: int
    height: int
    frames: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height}, {self.frames} frames"

    def fitted(self, variant: Variant) -> ClipSize:
        """The nearest that a variant can make: sides on its grid, frames 4n+1; halves go up.

        Raises WanError for a number out of range.
        """
        return ClipSize(
            nearest_side("width", self.width, variant.size_multiple),
            nearest_side("height", self.height, variant.size_multiple),
            nearest_frames(self.frames, variant.vae_stride[0]),
        )

    def made_of(self, asked: ClipSize, variant: Variant) -> str:
        """What came of a size that was asked for: "850 x 480, 80 frames became 848 x 480, 81 frames: ..."."""
        if self == asked:
            return f"{self}, for {variant.title}"
        grid, every = variant.size_multiple, variant.vae_stride[0]
        return f"{asked} became {self}: {variant.title} takes multiples of {grid} and {every}n+1 frames"


def nearest_side(field: str, pixels: int, multiple: int) -> int:
    """The multiple nearest to a width or height, the larger of two. Raises WanError out of range."""
    _check_whole(field, pixels, MIN_SIDE, MAX_SIDE)
    return (pixels + multiple // 2) // multiple * multiple


def nearest_frames(frames: int, stride: int) -> int:
    """The nearest stride * n + 1, the larger of two. Raises WanError out of range."""
    _check_whole("frames", frames, 1, MAX_FRAMES)
    return (frames - 1 + stride // 2) // stride * stride + 1


def check_text(field: str, text: str, may_be_empty: bool) -> None:
    """Refuse what is no text, and an empty prompt. Raises WanError."""
    if not isinstance(text, str):
        raise WanError(f"{field}: {text!r} is not text")
    if not text.isascii() and text.encode("utf-8", "replace").decode() != text:
        raise WanError(f"{field}: {text!r} holds bytes that are no UTF-8 text; type it again")
    if not may_be_empty and not clean_prompt(text):
        raise WanError(f"{field}: it is empty; say what the video should show")


def check_frames(frames: int, stride: int) -> None:
    """Refuse a frame count that is not stride * n + 1. Raises WanError with the nearest that are."""
    _check_whole("frames", frames, 1, MAX_FRAMES)
    if extra := (frames - 1) % stride:
        below, above = frames - extra, frames - extra + stride
        raise WanError(f"frames: {frames} is not {stride}n+1; the nearest are {below} and {above}")


def check_side(field: str, pixels: int, multiple: int) -> None:
    """Refuse a width or height off the grid of `multiple`. Raises WanError with the nearest on it."""
    _check_whole(field, pixels, multiple, MAX_SIDE)
    if extra := pixels % multiple:
        below, above = pixels - extra, pixels - extra + multiple
        raise WanError(
            f"{field}: {pixels} is not a multiple of {multiple}; the nearest are {below} and {above}"
        )


def _check_whole(field: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise WanError(f"{field}: {value!r} is not a whole number; give one from {least} to {most}")
    if not least <= value <= most:
        raise WanError(f"{field}: {value} is out of range; give a whole number from {least} to {most}")
