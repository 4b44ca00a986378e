"""The time a run will still take.

pytest tests/unit/test_time_left.py
"""

from __future__ import annotations

import pytest

from wan_core.sampling.time_left import TimeLeft, clock_words

HIGH, LOW = "high_noise", "low_noise"


def test_steps_to_come_take_as_long_as_the_last_ones():
    time = TimeLeft(["dense"] * 10, [5.0] * 10, now=0.0)
    time.ready(4.0)
    for now in (30.0, 32.0, 34.0):  # the first step warms up
        time.step(now)
    assert time.pace == 2.0
    assert time.seconds == 7 * 2.0


def test_the_first_step_is_all_there_is_to_go_by_at_first():
    time = TimeLeft(["dense"] * 3, [5.0] * 3, now=0.0)
    time.ready(1.0)
    time.step(4.0)
    assert (time.pace, time.seconds) == (3.0, 6.0)


def test_a_step_without_guidance_counts_half():
    time = TimeLeft(["dense"] * 6, [5.0] * 3 + [1.0] * 3, now=0.0)
    time.ready(0.0)
    for now in (4.0, 8.0, 12.0):
        time.step(now)
    assert time.seconds == 3 * 2.0
    time.step(14.0)
    assert time.pace == pytest.approx((4.0 + 4.0 + 2.0) / 3)
    assert time.seconds == pytest.approx(2 * 2.0)


def test_the_other_expert_is_taken_to_be_like_this_one():
    time = TimeLeft([HIGH] * 3 + [LOW] * 2, [4.0] * 3 + [1.0] * 2, now=0.0)
    time.ready(60.0)
    time.step(63.0)
    time.step(66.0)
    assert time.seconds == 3.0 + 60.0 + 2 * 1.5
    time.step(69.0)
    assert time.seconds == 60.0 + 2 * 1.5
    time.ready(79.0)  # it came sooner, and is slower
    time.step(89.0)
    assert (time.pace, time.seconds) == (10.0, 10.0)
    time.step(99.0)
    assert time.seconds == 0.0


def test_the_pace_is_that_of_the_last_few_steps():
    time = TimeLeft(["dense"] * 30, [1.0] * 30, now=0.0)
    time.ready(0.0)
    now = 0.0
    for seconds in [1.0] * 10 + [2.0] * 5:
        now += seconds
        time.step(now)
    assert time.pace == 2.0
    assert time.seconds == 15 * 2.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0:00"), (43, "0:43"), (59.6, "1:00"), (725, "12:05"), (3750, "1:02:30")],
)
def test_times_are_said_as_people_read_them(seconds: float, words: str):
    assert clock_words(seconds) == words
