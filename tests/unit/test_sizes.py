"""Sizes that no video has become the nearest that one can have, by one rule, and in words."""

from __future__ import annotations

import pytest

from wan_core.errors import WanError
from wan_core.request import MAX_FRAMES, MAX_SIDE, ClipSize, nearest_frames, nearest_side
from wan_core.variants import I2V_A14B, T2V_A14B, TI2V_5B


@pytest.mark.parametrize(
    ("variant", "asked", "used"),
    [
        (T2V_A14B, (850, 480, 80), (848, 480, 81)),
        (T2V_A14B, (856, 855, 83), (864, 848, 85)),  # halves go up
        (T2V_A14B, (847, 16, 2), (848, 16, 1)),
        (I2V_A14B, (832, 480, 81), (832, 480, 81)),
        (TI2V_5B, (1280, 720, 120), (1280, 736, 121)),
        (TI2V_5B, (16, 4096, 1025), (32, 4096, 1025)),
    ],
)
def test_the_nearest_size(variant, asked, used):
    fitted = ClipSize(*asked).fitted(variant)
    assert fitted == ClipSize(*used)
    assert fitted.fitted(variant) == fitted


def test_it_is_the_nearest_and_the_larger_of_two():
    for multiple in (16, 32):
        grid = range(multiple, MAX_SIDE + 1, multiple)
        for pixels in (16, 24, 47, 48, 49, 100, 1000, MAX_SIDE - 1):
            nearest = min(grid, key=lambda side, pixels=pixels: (abs(side - pixels), -side))
            assert nearest_side("width", pixels, multiple) == nearest
    for frames in (*range(1, 20), MAX_FRAMES - 1, MAX_FRAMES):
        counts = range(1, MAX_FRAMES + 1, 4)
        nearest = min(counts, key=lambda count, frames=frames: (abs(count - frames), -count))
        assert nearest_frames(frames, 4) == nearest


def test_what_became_of_a_size_in_words():
    asked = ClipSize(850, 480, 80)
    assert asked.fitted(T2V_A14B).made_of(asked, T2V_A14B) == (
        "850 x 480, 80 frames became 848 x 480, 81 frames: Wan2.2 T2V-A14B takes multiples of 16 and 4n+1 "
        "frames"
    )
    same = ClipSize(832, 480, 81)
    assert same.made_of(same, I2V_A14B) == "832 x 480, 81 frames, for Wan2.2 I2V-A14B"


@pytest.mark.parametrize(
    ("size", "field"),
    [
        ((15, 480, 81), "width"),
        ((832, 4097, 81), "height"),
        ((832, 480, 0), "frames"),
        ((832, 480, 1026), "frames"),
    ],
)
def test_out_of_range_stays_an_error(size, field):
    with pytest.raises(
        WanError, match=rf"^{field}: \d+ is out of range; give a whole number from \d+ to \d+$"
    ):
        ClipSize(*size).fitted(T2V_A14B)
    with pytest.raises(WanError, match="not a whole number"):
        ClipSize(832.0, 480, 81).fitted(T2V_A14B)
