"""What one video is asked to be, checked before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .errors import WanError
from .media.mp4 import frame_rate
from .sampling.experts import check_boundary
from .sampling.guidance import guidance_by_expert
from .sampling.noise import make_noise
from .schedulers import make_schedule
from .text.cleaning import clean_prompt
from .variants import Variant
from .variants.variant import DENSE, HIGH_NOISE, LOW_NOISE

# The rotary tables know 1024 positions per axis; these stay well inside and still catch a slipped digit.
MAX_FRAMES = 1025
MAX_SIDE = 4096


@dataclass(frozen=True)
class Request:
    """A prompt and everything that shapes the video. Sizes in pixels, `fps` in frames per second.

    `guidance_scale_high` and `guidance_scale_low` belong to the high-noise and the low-noise expert, and
    `boundary` is None for a model with one network.
    """

    prompt: str
    negative_prompt: str
    width: int
    height: int
    frames: int
    fps: float
    steps: int
    shift: float
    boundary: float | None
    guidance_scale_high: float
    guidance_scale_low: float
    scheduler: str = "unipc"
    seed: int = 0

    @classmethod
    def for_variant(cls, variant: Variant, prompt: str, **changes: Any) -> Request:
        """The released settings of a variant, at its smallest released size, with `changes` by field name."""
        width, height = min(variant.sizes, key=math.prod)
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

    def latent_shape(self, variant: Variant) -> tuple[int, int, int, int]:
        """(C, F, h, w) of the latent."""
        stride_t, stride_h, stride_w = variant.vae_stride
        frames = (self.frames - 1) // stride_t + 1
        return variant.latent_channels, frames, self.height // stride_h, self.width // stride_w

    def validate(self, variant: Variant) -> Request:
        """The request itself if `variant` can make it; a WanError names the first field that is wrong."""
        check_text("prompt", self.prompt, may_be_empty=False)
        check_text("negative prompt", self.negative_prompt, may_be_empty=True)
        check_side("width", self.width, variant.size_multiple)
        check_side("height", self.height, variant.size_multiple)
        check_frames(self.frames, variant.vae_stride[0])
        frame_rate(self.fps)
        make_schedule(self.scheduler, self.steps, self.shift)
        if variant.boundary is None and self.boundary is not None:
            raise WanError(f"boundary: {variant.title} has one network; leave the boundary out")
        if variant.boundary is not None:
            check_boundary(self.boundary)
        guidance_by_expert(self.guidance_scale, variant.experts)
        make_noise((1, 1, 1, 1), self.seed)
        return self


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
