"""A video at a glance: its first, middle and last frame side by side, each with its time under it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

from ..errors import WanError
from .sigma_plot import BACKGROUND, INK

TILE = 320  # the longer side of each frame
GAP, STRIP = 6, 24
JPEG_QUALITY = 88  # about 60 KB for three frames

Moment = tuple[str, Image.Image]  # caption and frame


def write_contact_sheet(video: str | Path, target: str | Path) -> None:
    """Write the first, middle and last frame of the file `video` as a JPEG, each at most 320 pixels long.

    Reads the finished file, so that a video that was made while it was saved is not made again, and holds
    three frames. Raises WanError for a file that holds no video and a place that cannot be written.
    """
    sheet = draw_contact_sheet(read_moments(video))
    try:
        sheet.save(target, "JPEG", quality=JPEG_QUALITY)
    except OSError as error:
        reason = error.strerror or error
        raise WanError(
            f"{target}: the contact sheet cannot be written ({reason}); choose another place"
        ) from error


def read_moments(video: str | Path) -> list[Moment]:
    """The first, middle and last frame of a video file; fewer where it has fewer."""
    kept: dict[int, av.VideoFrame] = {}
    try:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            middle, last = (stream.frames - 1) // 2, None
            for last in enumerate(container.decode(stream)):
                if last[0] in (0, middle):
                    kept.update([last])
            kept.update([last] if last else [])  # however many frames the header promised
    except (av.FFmpegError, OSError, IndexError) as error:
        raise _no_video(video) from error
    if not kept:
        raise _no_video(video)
    words = {max(kept): "last", 0: "first"}
    return [
        (f"{words.get(index, 'middle')}, {frame.time or 0.0:.1f} s", frame.to_image())
        for index, frame in kept.items()
    ]


def _no_video(video: str | Path) -> WanError:
    return WanError(f"{video}: holds no video that can be read; save it once more")


def draw_contact_sheet(moments: Sequence[Moment]) -> Image.Image:
    """RGB picture of frames of one size in a row, each with its caption in a strip below."""
    width, height = _tile(moments[0][1])
    columns = len(moments)
    sheet = Image.new("RGB", (columns * width + (columns - 1) * GAP, height + STRIP), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, (caption, frame) in enumerate(moments):
        left = column * (width + GAP)
        enlarged = width > frame.width
        how = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
        sheet.paste(frame.resize((width, height), how), (left, 0))
        draw.text((left + width / 2, height + STRIP / 2), caption, INK, font, "mm")
    return sheet


def _tile(frame: Image.Image) -> tuple[int, int]:
    """The (width, height) of a frame on the sheet; small ones are enlarged by a whole number."""
    longer = max(frame.size)
    scale = TILE // longer if longer <= TILE else TILE / longer
    return max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
