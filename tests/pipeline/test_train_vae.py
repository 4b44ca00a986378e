"""wan-tiny's VAE training at toy size: what resuming and the last stage promise."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import VAE22Config
from wan_core.tiny.train_vae import RECIPES, ConvMuon, Recipe, Stage, train

STAGES = (
    Stage(steps=2, batch=1, frames=1, crop=32, learning_rate=1e-3, last_rate=5e-4),
    Stage(steps=2, batch=1, frames=5, crop=32, learning_rate=1e-3, last_rate=5e-4),
    Stage(steps=2, batch=1, frames=5, crop=32, learning_rate=1e-3, last_rate=5e-4, decoder_only=True),
)
TOYS = {
    "2.1": Recipe(VAEConfig(dim=4), STAGES),
    "2.2": Recipe(VAE22Config(dim=4, decoder_dim=4), STAGES, muon=True),
}


def trained(recipe, folder):
    train(recipe, folder)
    return load_file(folder / "vae.safetensors")


@pytest.mark.parametrize("kind", RECIPES)
def test_a_stopped_training_goes_on_as_if_it_had_not_been_stopped(kind, tmp_path):
    recipe = TOYS[kind]
    whole = trained(recipe, tmp_path / "whole")
    for stages in (STAGES[:1], STAGES[:2], STAGES):
        stopped = trained(dataclasses.replace(recipe, stages=stages), tmp_path / "stopped")
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


@pytest.mark.parametrize("kind", RECIPES)
def test_the_last_stage_leaves_the_latents_as_they_are(kind, tmp_path):
    recipe = TOYS[kind]
    before = trained(dataclasses.replace(recipe, stages=STAGES[:2]), tmp_path)
    after = trained(recipe, tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("decoder.", "conv2.")) for name in changed)


@pytest.mark.parametrize("shape", [(16, 8, 3, 3, 3), (8, 16, 1, 1, 1), (4, 64, 3, 3)])
def test_muon_steps_are_about_as_long_in_every_direction(shape):
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ConvMuon([weight], lr=1.0).step()
    lengths = torch.linalg.svdvals(weight.detach().flatten(1))
    assert lengths.max() < 2 * lengths.min()
