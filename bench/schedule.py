"""What a run costs outside its networks: schedule, guidance, solver and loop, around a free network."""

from __future__ import annotations

import argparse

import torch

from wan_core.schedulers import make_schedule

from . import contest
from .contest import Case
from .work import SHIFT

STEPS = 20
SIZES = {"480p": (16, 21, 60, 104), "720p": (16, 21, 90, 160)}  # latents of 81 frames
SOLVERS = {
    "euler": "Euler",
    "unipc": "UniPC (ComfyUI's is another one: its answer differs)",
}


def describe(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    contest.describe(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, print, write."""
    return contest.run_cases("schedule", cases(), options)


def cases() -> list[Case]:
    """Both solvers at both sizes."""
    return [_case(solver, size) for solver in SOLVERS for size in SIZES]


def _case(solver: str, size: str) -> Case:
    grid = make_schedule(solver, STEPS, SHIFT)
    generator = torch.Generator().manual_seed(0)
    noise, velocity, negative = (torch.randn(1, *SIZES[size], generator=generator) for _ in range(3))
    inputs = {
        "noise": noise,
        "velocity": velocity,
        "negative": negative,
        "sigmas": grid.sigmas,
        "timesteps": grid.timesteps,
        "guidance": torch.tensor(4.0),
    }
    words = f"{STEPS} steps with guidance on a latent of {size}, {SOLVERS[solver]}"
    return Case(f"{solver}_{size}", words, solver, None, inputs, 0.0)
