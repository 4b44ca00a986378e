"""Frames to an H.264 mp4, a chunk at a time."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
import torch

from ..errors import WanError
from .frames import as_unit_floats, rgb_to_yuv420

log = logging.getLogger("wancore")

# Visually lossless for generated video; a step of 6 halves or doubles the bit rate.
CRF = 16
# Index 1 of the primaries, transfer and matrix tables of ITU-T H.273, and "studio range" in FFmpeg.
BT709 = 1
STUDIO_RANGE = 1


def write_mp4(
    chunks: Iterable[torch.Tensor | np.ndarray],
    target: str | Path | IO[bytes],
    fps: float,
    metadata: dict[str, str] | None = None,
    crf: float = CRF,
) -> None:
    """Write chunks of frames, each (F, H, W, 3) RGB as float 0..1 or uint8, to `target` as they come.

    H.264 at rate factor `crf`, yuv420p, BT.709 in the pixels and in the tags. `metadata` becomes tags of the
    file, whatever the keys are called. A path gets its file, `moov` in front so that a browser can start at
    once, when that is whole: an error or an interrupt while chunks are still coming leaves nothing behind. A
    stream of bytes is written as it stands, and `moov` comes last.

    Raises WanError for odd sizes, chunks that differ in size, no frames at all, values that are not finite, a
    frame rate that is not a positive number, and a place that cannot be written.
    """
    rate = frame_rate(fps)
    count = 0
    place = _whole_or_nothing(Path(target)) if isinstance(target, str | Path) else nullcontext(target)
    with place as opened, _mp4_container(opened, metadata or {}) as container:
        stream = None
        for frame in _frames(chunks):
            if stream is None:
                stream = _h264_stream(container, rate, height=frame.shape[1], width=frame.shape[2], crf=crf)
            # one frame at a time: the float copies that the conversion makes are of one frame only
            for planes in rgb_to_yuv420(as_unit_floats(frame)):
                container.mux(stream.encode(_video_frame(planes)))
                count += 1
        if stream is None:
            name = target if isinstance(target, str | Path) else "video"
            raise WanError(f"{name}: there are no frames to write; decode at least one first")
        container.mux(stream.encode(None))
    log.debug("wrote %d frames to %s", count, target)


def frame_rate(fps: float) -> Fraction:
    """`fps` as a container holds it; 23.976 becomes 24000/1001. WanError unless 0.01 <= fps <= 1000."""
    is_number = isinstance(fps, int | float) and not isinstance(fps, bool)
    if not is_number or not 0.01 <= fps <= 1000:  # false for NaN, too
        raise WanError(f"fps: {fps!r} is not a frame rate; give a number from 0.01 to 1000, such as 16")
    for exact in (Fraction(fps).limit_denominator(1), Fraction(round(fps * 1.001) * 1000, 1001)):
        if abs(float(exact) - fps) < 1e-3:
            return exact
    return Fraction(fps).limit_denominator(1000)


@contextmanager
def _whole_or_nothing(path: Path) -> Iterator[Path]:
    """A name in the folder of `path` to write to; it takes the name `path` only if all goes well."""
    # Not made from the name: one of 250 letters is allowed, and would leave no room for more.
    partial = path.with_name(f".{uuid.uuid4().hex[:16]}.part")
    with _one_line_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        with _one_line_errors(path):
            partial.replace(path)
    except av.FFmpegError as error:
        raise WanError(_cannot_write(path, error)) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WanError(_cannot_write(path, error)) from error


def _cannot_write(path: Path, error: OSError) -> str:
    return f"{path}: the video cannot be written ({error.strerror}); choose another place"


@contextmanager
def _mp4_container(
    target: Path | IO[bytes], metadata: dict[str, str]
) -> Iterator[av.container.OutputContainer]:
    # use_metadata_tags: without it mp4 keeps only the handful of keys that iTunes knows. faststart: FFmpeg
    # opens the file a second time, by its name.
    named = isinstance(target, Path)
    options = {"movflags": "+use_metadata_tags" + "+faststart" * named}
    with av.open(str(target) if named else target, mode="w", format="mp4", options=options) as container:
        container.metadata.update(metadata)
        yield container


def _h264_stream(
    container: av.container.OutputContainer, rate: Fraction, height: int, width: int, crf: float
) -> av.VideoStream:
    # Without mbtree: with it, x264 writes the same frames in one of several ways, and one seed is one video.
    options = {"crf": str(crf), "preset": "medium", "mbtree": "0"}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height = width, height
    stream.pix_fmt = "yuv420p"
    codec = stream.codec_context
    codec.color_primaries = codec.color_trc = codec.colorspace = BT709
    codec.color_range = STUDIO_RANGE
    return stream


def _video_frame(planes: np.ndarray) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame.colorspace = BT709
    frame.color_range = STUDIO_RANGE
    return frame


def _frames(chunks: Iterable[torch.Tensor | np.ndarray]) -> Iterator[torch.Tensor]:
    """The frames of the chunks, (1, H, W, 3) each, fit for the encoder."""
    size = None
    for chunk in chunks:
        frames = torch.as_tensor(chunk)
        _check(frames, size)
        size = frames.shape[1:3]
        yield from frames.split(1)


def _check(frames: torch.Tensor, size: torch.Size | None) -> None:
    """Refuse a chunk that cannot be written after others of a size (height, width). Raises WanError."""
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise WanError(f"frames: shape {tuple(frames.shape)} is not (frames, height, width, 3)")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2 or not height or not width:
        even = f"{max(2, width - width % 2)} x {max(2, height - height % 2)}"
        raise WanError(f"frames: {width} x {height} pixels; H.264 takes even sizes only, such as {even}")
    if size not in (None, (height, width)):
        raise WanError(f"frames: {width} x {height} after {size[1]} x {size[0]}; one video has one size")
    if frames.is_floating_point() and not _is_finite(frames):
        raise WanError("frames: some values are not finite (NaN or infinite); the model's answer is broken")


def _is_finite(frames: torch.Tensor) -> bool:
    """By the least and the greatest value, which NaN takes over: `isfinite` would copy all frames twice."""
    return not frames.numel() or all(math.isfinite(value) for value in frames.aminmax())
