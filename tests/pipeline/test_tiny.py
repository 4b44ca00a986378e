"""wan-tiny as it ships: small, plain files that keep what their card promises.

The full evaluation is `python -m wan_core.tiny.evaluate`; here a few of its prompts are made and measured.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from wan_core.checkpoints import inspect
from wan_core.models.latent_scale import normalize_latent
from wan_core.models.vae_2_1 import VAEConfig, WanVAE
from wan_core.pipeline import load_pipeline
from wan_core.sampling.experts import HIGH_NOISE, LOW_NOISE
from wan_core.tiny import weights_dir
from wan_core.tiny.evaluate import reconstruction, score, text_cases
from wan_core.tiny.scenes import draw_clip

CARD = weights_dir().parent / "README.md"
FIGURES = weights_dir().parent / "evaluation.json"
PROMPTS = 12


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(weights_dir(), task="t2v")


@pytest.fixture(scope="module")
def prompts():
    return text_cases(PROMPTS, seed=0)


def test_the_files_are_safetensors_of_at_most_16_mb_and_sound():
    files = [path for path in weights_dir().rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors"}
    assert sum(path.stat().st_size for path in files) <= 16_000_000
    found = {inspect(path).family: inspect(path) for path in files}
    assert set(found) == {"wan-transformer", "umt5", "wan-vae-2.1"}
    assert not [problem for one in found.values() for problem in one.problems]


def test_unseen_prompts_come_out_right(pipeline, prompts):
    right, _ = score(pipeline, prompts, {})
    assert right["colour"] >= 0.9
    assert right["motion"] >= 0.9
    assert right["shape"] >= 0.75


@pytest.mark.parametrize("alone", [HIGH_NOISE, LOW_NOISE])
def test_one_expert_alone_does_clearly_worse(pipeline, prompts, alone):
    both, _ = score(pipeline, prompts[:6], {})
    only = dict.fromkeys((HIGH_NOISE, LOW_NOISE), pipeline.experts[alone])
    worse, _ = score(dataclasses.replace(pipeline, experts=only), prompts[:6], {})
    assert worse["all three"] <= both["all three"] - 0.3


def test_the_vae_rebuilds_unseen_clips_at_30_db(pipeline, prompts):
    assert reconstruction(pipeline, [case.scene for case in prompts]) >= 30.0


def test_raw_latents_have_the_released_statistics(prompts):
    vae = WanVAE(VAEConfig(dim=12))
    weights = load_file(weights_dir() / "vae" / "wan_tiny_vae.safetensors")
    vae.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    clips = torch.stack([torch.from_numpy(draw_clip(case.scene)) for case in prompts[:6]])
    with torch.no_grad():
        latent = normalize_latent(vae.encode(clips.permute(0, 4, 1, 2, 3) * 2 - 1))
    assert latent.mean().abs() < 0.15
    assert 0.7 < latent.std() < 1.3


def test_the_card_states_the_figures_of_the_evaluation():
    figures, card = json.loads(FIGURES.read_text()), CARD.read_text()
    both = figures["both experts"]
    assert figures["prompts"] >= 100
    for value in (*both.values(), figures["only the high-noise expert"]["all three"]):
        assert f"{value:.1%}" in card
    assert f"{figures['vae psnr']:.2f} dB" in card
