"""The contact sheet: the right three frames of a file, in their colours, at a size one can look at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from wan_core.errors import WanError
from wan_core.media.contact_sheet import GAP, STRIP, read_moments, write_contact_sheet
from wan_core.media.mp4 import write_mp4

RED, GREEN, BLUE, GREY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.5, 0.5)


def clip(path, colours, height=32, width=48):
    """A file with one flat frame per colour."""
    frames = torch.tensor(colours).reshape(-1, 1, 1, 3).expand(-1, height, width, 3)
    write_mp4([frames], path, fps=16)
    return path


def test_first_middle_and_last_frame_in_their_colours(tmp_path):
    """Flat frames tell the matrix apart, too: green by BT.601 would be off by 30."""
    colours = [GREY] * 17
    colours[0], colours[8], colours[16] = RED, GREEN, BLUE
    moments = read_moments(clip(tmp_path / "clip.mp4", colours))
    assert [caption for caption, _ in moments] == ["first, 0.0 s", "middle, 0.5 s", "last, 1.0 s"]
    for (_, frame), colour in zip(moments, (RED, GREEN, BLUE), strict=True):
        # the encoder smooths what lasts a single frame
        assert np.abs(np.asarray(frame).mean((0, 1)) - 255 * np.array(colour)).max() < 12


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, ["first, 0.0 s"]), (2, ["first, 0.0 s", "last, 0.1 s"])],
)
def test_short_clips_have_fewer_frames(tmp_path, count, expected):
    moments = read_moments(clip(tmp_path / "clip.mp4", [RED] * count))
    assert [caption for caption, _ in moments] == expected


@pytest.mark.parametrize(
    ("height", "width", "tile"), [(32, 48, (288, 192)), (480, 832, (320, 185)), (640, 320, (160, 320))]
)
def test_frames_are_enlarged_whole_or_reduced(tmp_path, height, width, tile):
    video = clip(tmp_path / "clip.mp4", [RED, GREEN, BLUE], height, width)
    write_contact_sheet(video, tmp_path / "clip.jpg")
    with Image.open(tmp_path / "clip.jpg") as sheet:
        assert sheet.format == "JPEG"
        assert sheet.size == (3 * tile[0] + 2 * GAP, tile[1] + STRIP)
        strip = np.asarray(sheet.convert("L").crop((0, tile[1], *sheet.size)))
    assert strip.max() > 150, "there is no caption"


def test_what_is_no_video_is_said(tmp_path):
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    with pytest.raises(WanError, match=r"notes\.mp4: holds no video that can be read"):
        write_contact_sheet(text, tmp_path / "sheet.jpg")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    video = clip(tmp_path / "clip.mp4", [RED])
    with pytest.raises(WanError, match=r"sheet\.jpg: the contact sheet cannot be written"):
        write_contact_sheet(video, tmp_path / "missing" / "sheet.jpg")
