"""ComfyUI's VIDEO as a promise: a latent that is decoded while it is saved, a latent frame at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import torch
from comfy_api.latest import Input, InputImpl, Types
from torch import Tensor

from ..wan_core.errors import WanError
from ..wan_core.media.mp4 import CRF, write_mp4
from .handles import VAEHandle


@dataclass(frozen=True, eq=False)
class DecodedVideo(Input.Video):
    """A raw latent (1, C, F, h, w) and the VAE that decodes it each time somebody asks for its frames.

    Saved as an H.264 mp4 of 8 bits, it never exists whole. Everything else that core may ask for, other
    containers and codecs among them, it gets from all frames at once, as from a video made of images.
    """

    latent: Tensor
    vae: VAEHandle
    frame_rate: Fraction

    def get_components(self) -> Types.VideoComponents:
        """All frames, (F, H, W, 3) in one tensor."""
        with torch.inference_mode():
            return Types.VideoComponents(all_frames(self.latent, self.vae), self.frame_rate)

    def save_to(
        self,
        path: str | IO[bytes],
        format: Types.VideoContainer = Types.VideoContainer.AUTO,  # noqa: A002 (core's name)
        codec: Types.VideoCodec = Types.VideoCodec.AUTO,
        metadata: dict[str, Any] | None = None,
        bit_depth: int | None = None,
        crf: float | None = None,
        color_space: str | None = None,
    ) -> None:
        """Decode and encode side by side; the arguments are core's. An interrupt leaves no file."""
        is_mp4 = format == Types.VideoContainer.MP4 or (
            format == Types.VideoContainer.AUTO
            and not (isinstance(path, str | Path) and Path(path).suffix.lower() in (".mkv", ".webm"))
        )
        is_plain = bit_depth in (None, 8) and color_space in (None, self.get_color_space())
        if not (is_mp4 and is_plain and codec in (Types.VideoCodec.AUTO, Types.VideoCodec.H264)):
            whole = InputImpl.VideoFromComponents(self.get_components())
            whole.save_to(path, format, codec, metadata, bit_depth, crf, color_space)
            return
        with torch.inference_mode():
            chunks = self.vae.decode(self.latent)
            write_mp4(chunks, path, float(self.frame_rate), tags(metadata), CRF if crf is None else crf)

    def as_trimmed(
        self, start_time: float | None = None, duration: float | None = None, strict_duration: bool = False
    ) -> Input.Video | None:
        """A part of the encoded video: decoding starts with the first frame anyway."""
        whole = InputImpl.VideoFromFile(self.get_stream_source())
        return whole.as_trimmed(start_time or 0.0, duration or 0.0, strict_duration)

    def get_dimensions(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        _, rows, columns = self.vae.module.stride
        return self.latent.shape[4] * columns, self.latent.shape[3] * rows

    def get_frame_count(self) -> int:
        return frame_count(self.latent, self.vae)

    def get_frame_rate(self) -> Fraction:
        return self.frame_rate

    def get_duration(self) -> float:
        """In seconds."""
        return float(self.get_frame_count() / self.frame_rate)

    def get_color_space(self) -> str:
        """Core's word for the BT.709 that is written."""
        return "sRGB"

    def get_container_format(self) -> str:
        return Types.VideoContainer.MP4.value


def check_one_video(latent: Tensor) -> Tensor:
    """The samples of a LATENT if they are one Wan video. Raises WanError."""
    if latent.ndim != 5 or latent.shape[0] != 1:
        raise WanError(
            f"samples: shape {tuple(latent.shape)} is not one video (1, channels, frames, height, "
            "width); decode the latent of one Wan video at a time"
        )
    return latent


def all_frames(latent: Tensor, vae: VAEHandle) -> Tensor:
    """The frames (F, H, W, 3) of a raw latent; joined at the end they would be there twice."""
    frames: Tensor | None = None
    done = 0
    for chunk in vae.decode(latent):
        if frames is None:
            frames = chunk.new_empty(frame_count(latent, vae), *chunk.shape[1:])
        frames[done : done + len(chunk)] = chunk
        done += len(chunk)
    return frames


def frame_count(latent: Tensor, vae: VAEHandle) -> int:
    """How many frames of video a latent holds."""
    return (latent.shape[2] - 1) * vae.module.stride[0] + 1


def save_mp4(
    images: Tensor | Input.Video, path: Path, fps: float, metadata: dict[str, Any] | None = None
) -> None:
    """Frames (F, H, W, 3 or more), at `fps`, or a video, at its own rate, to an H.264 mp4.

    The graph in it is that of `metadata`, or none.
    """
    if isinstance(images, InputImpl.VideoFromFile):
        # Core would keep the file's own: a graph that made something else, or that nobody wants to give away.
        metadata = {"workflow": None, "prompt": None, **(metadata or {})}
    if isinstance(images, Input.Video):
        images.save_to(str(path), Types.VideoContainer.MP4, Types.VideoCodec.H264, metadata)
    else:
        write_mp4([images[..., :3]], path, fps, tags(metadata))


def tags(metadata: dict[str, Any] | None) -> dict[str, str]:
    """Metadata, such as the graph, as text for the file."""
    return {key: json.dumps(value) for key, value in (metadata or {}).items()}
