"""The world wan-tiny was trained on: drawn, described, held out, and measured back."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from wan_core.tiny.captions import action_caption, caption, said
from wan_core.tiny.evaluate import direction_cases, held_out_prompts, picture_cases
from wan_core.tiny.latents import captions, scene_for
from wan_core.tiny.measure import measure, psnr
from wan_core.tiny.scenes import (
    COLOURS,
    MOTIONS,
    SHAPES,
    Scene,
    draw_clip,
    held_out,
    place,
    place_anywhere,
    pose,
    random_scene,
)

PLAIN = Scene("red", "square", "right", "plain dark", "neutral")


@pytest.mark.parametrize("number", range(24))
def test_measuring_reads_back_what_was_drawn(number):
    rng = np.random.default_rng(number)
    scene = replace(random_scene(rng), shape=SHAPES[number % 4], colour=list(COLOURS)[number % 8])
    if (scene.shape, scene.motion) == ("circle", "turn"):
        scene = replace(scene, motion="grow")
    clip = draw_clip(scene) + rng.normal(0, 0.02, (17, 96, 96, 3))
    seen = measure((clip.clip(0, 1) * 255).astype(np.uint8))
    assert (seen.colour, seen.shape, seen.motion) == (scene.colour, scene.shape, scene.motion)
    assert (seen.background, seen.light) == (scene.background, scene.light)


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_scene_begun_anywhere_still_shows_its_motion(motion):
    rng = np.random.default_rng(len(motion))
    for colour in COLOURS:
        scene = place_anywhere(Scene(colour, "triangle", motion, "graded light", "cool"), rng)
        assert measure(draw_clip(scene)).motion == motion


def test_where_a_scene_begins_does_not_tell_where_it_goes():
    rng = np.random.default_rng(3)
    begins = {
        m: [place_anywhere(Scene("red", "star", m, "plain dark", "warm"), rng) for _ in range(200)]
        for m in MOTIONS
    }
    for motion in ("left", "right", "up", "down", "turn", "bounce"):
        x, y = np.array([pose(scene, 0.0)[:2] for scene in begins[motion]]).T
        assert np.mean((x > 0.4) & (x < 0.6)) > 0.1
        assert np.mean((y > 0.4) & (y < 0.6)) > 0.1


def test_measuring_sees_no_shape_in_noise_and_no_motion_in_a_still():
    noise = np.random.default_rng(0).random((17, 96, 96, 3))
    assert measure(noise).motion is None
    still = np.repeat(draw_clip(PLAIN, frames=1), 17, axis=0)
    assert measure(still).shape == "square"
    assert measure(still).motion is None


def test_measuring_tells_a_backward_clip_from_a_forward_one():
    assert measure(draw_clip(PLAIN)[::-1]).motion == "left"


def test_held_out_combinations_are_some_and_leave_every_pair_to_training():
    combinations = [s for s in product(COLOURS, SHAPES, MOTIONS) if s[1:] != ("circle", "turn")]
    unseen = [s for s in combinations if held_out(Scene(*s, "plain dark", "neutral"))]
    seen = set(combinations) - set(unseen)
    assert 0.15 < len(unseen) / len(combinations) < 0.25
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pairs = {(s[first], s[second]) for s in combinations}
        assert pairs == {(s[first], s[second]) for s in seen}


def test_the_evaluation_asks_only_for_held_out_scenes():
    pairs = held_out_prompts(100, seed=0)
    assert len(pairs) == 100
    assert all(held_out(scene) for scene, _ in pairs)


def test_pictures_to_animate_are_of_held_out_scenes_and_those_that_move_every_way_are_one_picture():
    for case in picture_cases(20, seed=0, end=True):
        assert held_out(case.scene)
        assert psnr(case.start, draw_clip(case.scene)[0]) > 100
        assert psnr(case.end, draw_clip(case.scene)[-1]) > 100
    four = direction_cases(1, seed=0)
    assert [case.scene.motion for case in four] == ["left", "right", "up", "down"]
    assert all(np.array_equal(case.start, four[0].start) for case in four)


@pytest.mark.parametrize(("task", "paint"), [("t2v", None), ("i2v", None), ("ti2v", None), ("t2v", "purple")])
def test_training_sees_no_held_out_scene(task, paint):
    rng = np.random.default_rng(2)
    for _ in range(200):
        scene = scene_for(task, paint, rng)
        assert not held_out(scene)
        assert scene.colour == (paint or scene.colour)
        assert len(captions(task, paint, scene, rng)) == 4


def test_a_caption_may_say_only_what_happens():
    said_only = action_caption(PLAIN, np.random.default_rng(0))
    assert "right" in said_only
    assert "red" not in said_only


def test_captions_say_everything_or_leave_it_open():
    rng = np.random.default_rng(1)
    opened = 0
    for _ in range(300):
        scene = place(random_scene(rng), rng)
        facts = said(scene, caption(scene, rng))
        opened += facts["light"] is None or facts["background"] is None
        assert None not in said(scene, caption(scene, rng, complete=True)).values()
    assert 50 < opened < 250


def test_drawing_is_deterministic_and_of_any_size():
    assert psnr(draw_clip(PLAIN), draw_clip(PLAIN)) > 100
    assert draw_clip(PLAIN, frames=5, height=48, width=80).shape == (5, 48, 80, 3)
