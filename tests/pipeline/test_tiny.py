"""wan-tiny as it ships: small, plain files that keep what their card promises.

The full evaluation is `python -m wan_core.tiny.evaluate`; here a few of its cases are made and measured.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from wan_core.checkpoints import inspect, load_module, vae_config
from wan_core.models.latent_scale import normalize_latent
from wan_core.models.vae import make_vae
from wan_core.pipeline import load_pipeline, with_lora
from wan_core.sampling.experts import HIGH_NOISE, LOW_NOISE
from wan_core.tiny import weights_dir
from wan_core.tiny.evaluate import (
    direction_cases,
    make,
    picture_cases,
    reconstruction,
    repainted,
    score,
    text_cases,
)
from wan_core.tiny.looks import TONES
from wan_core.tiny.scenes import draw_clip
from wan_core.tiny.shortcuts import SHORTCUTS, words
from wan_core.variants.variant import DENSE

CARD = weights_dir().parent / "README.md"
PROMPTS = 12
LORA = weights_dir() / "loras" / "wan_tiny_purple_high_noise.safetensors"


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(weights_dir(), task="t2v")


@pytest.fixture(scope="module")
def i2v():
    return load_pipeline(weights_dir(), task="i2v")


@pytest.fixture(scope="module")
def ti2v():
    return load_pipeline(weights_dir(), task="ti2v")


@pytest.fixture(scope="module")
def prompts():
    return text_cases(PROMPTS, seed=0)


def test_the_files_are_safetensors_of_at_most_40_mb_and_sound():
    files = [path for path in weights_dir().rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors"}
    assert sum(path.stat().st_size for path in files) <= 40_000_000
    found = [inspect(path) for path in files]
    assert not [problem for one in found for problem in one.problems]
    networks = [(one.task, one.expert) for one in found if one.family == "wan-transformer"]
    pairs = [(task, expert) for task in ("i2v", "t2v") for expert in (HIGH_NOISE, LOW_NOISE)]
    assert sorted(networks) == [*pairs, ("ti2v", DENSE)]
    assert {"umt5", "wan-vae-2.1", "wan-vae-2.2"} <= {one.family for one in found}


# --- text to video ----------------------------------------------------------------------------------------


def test_unseen_prompts_come_out_right(pipeline, prompts):
    right, _ = score(pipeline, prompts, {})
    assert right["colour"] >= 0.9
    assert right["motion"] >= 0.9
    assert right["shape"] >= 0.75


@pytest.fixture(scope="module")
def both(pipeline, prompts):
    return score(pipeline, prompts[:6], {})[0]


@pytest.mark.parametrize("alone", [HIGH_NOISE, LOW_NOISE])
def test_one_expert_alone_does_clearly_worse(pipeline, prompts, both, alone):
    only = dict.fromkeys((HIGH_NOISE, LOW_NOISE), pipeline.experts[alone])
    worse, _ = score(dataclasses.replace(pipeline, experts=only), prompts[:6], {})
    assert worse["all three"] <= both["all three"] - 0.3


# --- image to video ---------------------------------------------------------------------------------------


def test_a_picture_is_kept_and_animated_as_the_words_say(i2v):
    right, _ = score(i2v, picture_cases(6, seed=0), {})
    assert right["first frame psnr"] >= 30.0
    assert right["motion"] >= 0.8
    assert right["colour"] >= 0.9


def test_one_picture_goes_all_four_ways(i2v):
    right, _ = score(i2v, direction_cases(1, seed=0), {})
    assert right["motion"] == 1.0
    assert right["first frame psnr"] >= 30.0


@pytest.mark.parametrize(("start", "count", "seed"), [(True, 4, 1), (False, 8, 0)])
def test_an_end_image_is_reached(i2v, start, count, seed):
    right, _ = score(i2v, picture_cases(count, seed=seed, start=start, end=True), {})
    assert right["last frame psnr"] >= 25.0
    assert not start or right["first frame psnr"] >= 30.0


# --- text and image to video ------------------------------------------------------------------------------


def test_one_network_makes_videos_of_text_and_of_pictures(ti2v):
    for cases in (text_cases(6, seed=0), picture_cases(6, seed=0)):
        right, _ = score(ti2v, cases, {})
        assert right["colour"] >= 0.8
        assert right["motion"] >= 0.8
    assert right["first frame psnr"] >= 30.0


# --- LoRA -------------------------------------------------------------------------------------------------


def test_the_lora_paints_purple_as_far_as_its_strength_says(pipeline, prompts):
    cases = [case for case in prompts if case.scene.colour != "purple"][:3]
    none, half, full = (
        repainted(with_lora(pipeline, LORA, strength), cases, "purple") for strength in (0.0, 0.5, 1.0)
    )
    assert none < 0.15
    assert none + 0.1 < half < full - 0.1
    assert full > 0.85


def test_of_the_lora_a_strength_of_nothing_changes_no_pixel_and_each_expert_counts(pipeline, prompts):
    case = [case for case in prompts if case.scene.colour != "purple"][:1]
    plain, (unworn,) = make(pipeline, case, {})[0], make(with_lora(pipeline, LORA, 0.0), case, {})
    assert np.array_equal(plain, unworn)
    for strengths in ((1.0, 0.0), (0.0, 1.0)):
        (worn,) = make(with_lora(pipeline, LORA, *strengths), case, {})
        assert not np.array_equal(plain, worn)


# --- VAEs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["t2v", "ti2v"])
def test_the_vaes_rebuild_unseen_clips_at_30_db(task, prompts):
    judged = load_pipeline(weights_dir(), task=task)
    assert reconstruction(judged, [case.scene for case in prompts]) >= 30.0


@pytest.mark.parametrize("task", ["t2v", "ti2v"])
def test_raw_latents_have_the_released_statistics(task, prompts):
    checkpoint = load_pipeline(weights_dir(), task=task).vae
    vae = load_module(make_vae(vae_config(checkpoint.header), device="meta"), checkpoint, torch.float32)
    clips = torch.stack([torch.from_numpy(draw_clip(case.scene)) for case in prompts[:6]])
    with torch.no_grad():
        latent = normalize_latent(vae.encode(clips.permute(0, 4, 1, 2, 3) * 2 - 1))
    assert latent.mean().abs() < 0.15
    assert 0.7 < latent.std() < 1.3


# --- the card ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["evaluation", "evaluation_i2v", "evaluation_ti2v", "evaluation_lora"])
def test_the_card_states_the_figures_of_the_evaluation(name):
    figures, card = json.loads((CARD.parent / f"{name}.json").read_text()), CARD.read_text()
    assert figures.pop("prompts") >= 24
    del figures["seed"]
    for asked, values in figures.items():
        for kind, value in (values if isinstance(values, dict) else {asked: values}).items():
            stated = f"{value:.2f}" if "psnr" in kind else f"{value:.1%}"
            assert stated in card, (asked, kind)


def test_the_card_states_what_leaving_work_out_saves_and_costs():
    figures, card = json.loads((CARD.parent / "evaluation_shortcuts.json").read_text()), CARD.read_text()
    assert figures["prompts"] >= 16
    for shortcut in SHORTCUTS:
        row = next(line for line in card.splitlines() if line.startswith(f"| `{words(shortcut)}` |"))
        found = figures[words(shortcut)]
        for stated in (f"{found['saved']:.1%}", f"{found['time']:.2f}", f"{found['psnr']:.2f} dB"):
            assert f"| {stated} |" in row
        assert row.endswith(f"| {found['all three']:.1%} |")


def test_the_card_states_what_becomes_of_looks():
    figures, card = json.loads((CARD.parent / "evaluation_looks.json").read_text()), CARD.read_text()
    assert figures["prompts"] >= 24
    columns = ("warm light", "cool light", "neutral light", "background", "all three")
    for tone in TONES:
        found = [f"{figures[tone][what]:.1%}" for what in columns]
        name = "none" if tone == "none" else f"`{tone}`"
        assert f"| {name} | {' | '.join(found)} |" in card
