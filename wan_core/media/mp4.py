"""Frames to an H.264 mp4, a chunk at a time."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

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
    path: str | Path,
    fps: float,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write chunks of frames, each (F, H, W, 3) RGB as float 0..1 or uint8, to `path` as they come.

    H.264, yuv420p, BT.709 in the pixels and in the tags, `moov` in front so that a browser can start at once.
    `metadata` becomes tags of the file, whatever the keys are called. The file appears under its name when it
    is whole: an error or an interrupt while chunks are still coming leaves nothing behind.

    Raises WanError for odd sizes, chunks that differ in size, no frames at all, values that are not finite, a
    frame rate that is not a positive number, and a place that cannot be written.
    """
    path = Path(path)
    rate = frame_rate(fps)
    count = 0
    with _whole_or_nothing(path) as partial, _mp4_container(partial, metadata or {}) as container:
        stream = None
        for frames in _checked(chunks):
            if stream is None:
                stream = _h264_stream(container, rate, height=frames.shape[1], width=frames.shape[2])
            for planes in rgb_to_yuv420(frames):
                container.mux(stream.encode(_video_frame(planes)))
                count += 1
        if stream is None:
            raise WanError(f"{path}: there are no frames to write; decode at least one first")
        container.mux(stream.encode(None))
    log.debug("wrote %d frames to %s", count, path)


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
def _mp4_container(path: Path, metadata: dict[str, str]) -> Iterator[av.container.OutputContainer]:
    # use_metadata_tags: without it mp4 keeps only the handful of keys that iTunes knows.
    options = {"movflags": "+faststart+use_metadata_tags"}
    with av.open(str(path), mode="w", format="mp4", options=options) as container:
        container.metadata.update(metadata)
        yield container


def _h264_stream(
    container: av.container.OutputContainer, rate: Fraction, height: int, width: int
) -> av.VideoStream:
    # Without mbtree: with it, x264 writes the same frames in one of several ways, and one seed is one video.
    options = {"crf": str(CRF), "preset": "medium", "mbtree": "0"}
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


def _checked(chunks: Iterable[torch.Tensor | np.ndarray]) -> Iterator[torch.Tensor]:
    """The chunks as float32 0..1, each of them fit for the encoder."""
    size = None
    for chunk in chunks:
        frames = torch.as_tensor(chunk)
        if frames.ndim != 4 or frames.shape[-1] != 3:
            raise WanError(f"frames: shape {tuple(frames.shape)} is not (frames, height, width, 3)")
        height, width = frames.shape[1:3]
        if height % 2 or width % 2 or not height or not width:
            even = f"{max(2, width - width % 2)} x {max(2, height - height % 2)}"
            raise WanError(f"frames: {width} x {height} pixels; H.264 takes even sizes only, such as {even}")
        if size not in (None, (height, width)):
            raise WanError(f"frames: {width} x {height} after {size[1]} x {size[0]}; one video has one size")
        size = (height, width)
        if frames.is_floating_point() and not frames.isfinite().all():
            raise WanError(
                "frames: some values are not finite (NaN or infinite); the model's answer is broken"
            )
        yield as_unit_floats(frames)
