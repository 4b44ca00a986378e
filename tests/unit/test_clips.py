"""What is said of two videos that are compared."""

from __future__ import annotations

from wan_core.media.clips import ClipFacts, compare_clips

CLIP = ClipFacts(width=832, height=480, frames=81, fps=16.0)


def test_equal_videos_take_one_line():
    assert compare_clips(CLIP, CLIP) == ["both: 81 frames, 832 x 480, 16 fps, 5.1 s"]


def test_the_shorter_one_waits():
    shorter = ClipFacts(832, 480, 1, 16.0)
    words = "one waits on its last frame"
    assert compare_clips(CLIP, shorter)[1:] == [
        "right: 1 frame, 832 x 480, 16 fps, 0.1 s",
        f"the right {words}",
    ]
    assert compare_clips(shorter, CLIP)[2] == f"the left {words}"


def test_one_length_at_two_rates_is_no_difference_in_length():
    assert len(compare_clips(CLIP, ClipFacts(832, 480, 122, 24.0))) == 2


def test_sizes_and_shapes():
    assert compare_clips(CLIP, ClipFacts(416, 240, 81, 16.0))[2] == "the right one is enlarged"
    other_shape = compare_clips(CLIP, ClipFacts(480, 832, 81, 16.0))[2]
    assert other_shape == "each is shown whole, in the shape of the left one"
