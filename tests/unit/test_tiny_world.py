"""The world wan-tiny was trained on: drawn, described, held out, and measured back."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from wan_core.tiny.captions import caption, said
from wan_core.tiny.evaluate import held_out_prompts
from wan_core.tiny.measure import measure, psnr
from wan_core.tiny.scenes import COLOURS, MOTIONS, SHAPES, Scene, draw_clip, held_out, place, random_scene

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
