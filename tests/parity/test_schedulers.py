"""Schedules against what the released schedulers recorded, and the solvers against diffusers' own.

The recorded fields are analytic (a Gaussian and a two-peaked mixture, elementwise), so a difference is the
solver's alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wan_core.sampling.experts import plan_experts
from wan_core.schedulers import make_schedule
from wan_core.schedulers.schedule import Schedule
from wan_core.schedulers.sigmas import UNIPC_FIRST_U, SigmaGrid

GOLDEN = Path(__file__).parent / "golden"
RECORDED = load_file(GOLDEN / "samplers.safetensors")
SWITCHES = json.loads((GOLDEN / "samplers.json").read_text("utf-8"))["switch"]
TABLES = sorted(key.removesuffix(".t") for key in RECORDED if key.startswith("tab.") and key.endswith(".t"))
TRAJECTORIES = sorted(key for key in RECORDED if key.startswith(("traj.official.", "traj.plain.")))


def gauss_velocity(x, sigma, mean, deviation):
    """The exact velocity field of data N(mean, deviation^2), in float64, rounded once."""
    x, mean, variance = x.double(), mean.double(), deviation.double() ** 2
    alpha = 1.0 - sigma
    noise_part = (x - alpha * mean) / (alpha**2 * variance + sigma**2)
    return (sigma * noise_part - (mean + alpha * variance * noise_part)).float()


def mixture_velocity(x, sigma, peak, deviation):
    """The same for data in two equal peaks at +peak and -peak: not linear in x."""
    x, peak, variance = x.double(), peak.double(), deviation.double() ** 2
    alpha = 1.0 - sigma
    total = alpha**2 * variance + sigma**2
    upper = torch.sigmoid(2 * alpha * peak * x / total)
    gain = alpha * variance / total
    clean = upper * (peak + gain * (x - alpha * peak)) + (1 - upper) * (gain * (x + alpha * peak) - peak)
    return ((x - alpha * clean) / sigma - clean).float()


FIELDS = {"gauss": gauss_velocity, "mix": mixture_velocity}


def read_key(key):
    """`traj.official.unipc.shift12.n40.gauss` -> ("unipc", 40, 12.0)"""
    _, _, kind, shift, steps = key.split(".")[:5]
    return ("euler" if kind.startswith("euler") else kind), int(steps[1:]), float(shift.removeprefix("shift"))


def test_the_recordings_are_all_here():
    assert len(TABLES) == 140
    assert len(TRAJECTORIES) == 72
    assert len(SWITCHES) == 280


@pytest.mark.parametrize("key", TABLES)
def test_grid_equals_the_released_table(key):
    schedule = make_schedule(*read_key(key))
    assert torch.equal(schedule.timesteps, RECORDED[f"{key}.t"])
    assert schedule.timesteps.dtype == torch.int64
    torch.testing.assert_close(schedule.sigmas, RECORDED[f"{key}.sigma"], rtol=0, atol=1e-6)


def test_switch_equals_the_released_step():
    for key, high_steps in SWITCHES.items():
        kind, shift, steps, boundary = key.split(".", 3)
        schedule = make_schedule(kind, int(steps[1:]), float(shift.removeprefix("shift")))
        plan = plan_experts(schedule.timesteps, float(boundary[1:]))
        assert plan.switch == high_steps, key
        assert plan.experts == ("high_noise",) * high_steps + ("low_noise",) * (schedule.steps - high_steps)


def test_default_schedules_split_as_released():
    t2v = plan_experts(make_schedule("unipc", 40, 12.0).timesteps, 0.875)
    i2v = plan_experts(make_schedule("unipc", 40, 5.0).timesteps, 0.9)
    assert (t2v.switch, i2v.switch) == (26, 15)


@pytest.mark.parametrize(("name", "first_u"), [("unipc", UNIPC_FIRST_U), ("dpm++", 1.0), ("euler", 1.0)])
def test_grid_equals_numpy_arithmetic_for_any_step_count(name, first_u):
    """The released grids are numpy's: the same float64 steps, since the cut to an integer feels one ulp."""
    for shift in (0.5, 1.0, 3.0, 5.0, 8.0, 12.0):
        for steps in (*range(1, 130), 250, 500, 999, 1000):
            u = np.linspace(first_u, 0, steps + 1)[:-1]
            sigmas = shift * u / (1 + (shift - 1) * u)
            schedule = make_schedule(name, steps, shift)
            assert schedule.timesteps.tolist() == (sigmas * 1000).astype(np.int64).tolist(), (shift, steps)
            assert np.array_equal(schedule.sigmas.numpy(), np.append(sigmas, 0.0).astype(np.float32))


@pytest.mark.parametrize("key", TRAJECTORIES)
def test_solver_equals_the_recorded_trajectory(key):
    schedule = make_schedule(*read_key(key))
    name = key.rsplit(".", 1)[1]
    field, parameters = FIELDS[name], (RECORDED[f"traj.{name}.a"], RECORDED[f"traj.{name}.b"])
    latent = RECORDED["traj.x_init"]
    for index, expected in enumerate(RECORDED[key][1:].unsqueeze(1)):
        velocity = field(latent, schedule.sigmas[index].item(), *parameters)
        latent = schedule.step(velocity, latent, index)
        torch.testing.assert_close(latent, expected, rtol=0, atol=1e-5)
    assert index == schedule.steps - 1


def test_exact_timesteps_are_the_distilled_networks_own():
    """lightx2v's lists through shift 5, worked out by hand; elsewhere euler's levels with their fractions."""
    assert make_schedule("flowmatch_euler", 4, 5.0).timesteps.tolist() == [1000, 937.5, 833.333333333, 625]
    assert make_schedule("flowmatch_euler", 2, 5.0).timesteps.tolist() == [1000, 833.333333333]
    for shift in (0.5, 1.0, 3.0, 5.0, 8.0, 12.0):
        for steps in (1, 4, 6, 8, 20, 999):
            whole, exact = (make_schedule(name, steps, shift) for name in ("euler", "flowmatch_euler"))
            assert torch.equal(exact.sigmas, whole.sigmas)
            assert exact.timesteps.dtype == torch.float64
            torch.testing.assert_close(exact.timesteps, exact.sigmas[:-1].double() * 1000, rtol=1e-7, atol=0)


@pytest.mark.parametrize(("steps", "shift"), [(4, 5.0), (6, 5.0), (8, 3.0)])
def test_flowmatch_euler_equals_diffusers_class(steps, shift):
    """Given even levels, diffusers' FlowMatchEuler shifts them once, and tells the network fractions too."""
    diffusers = pytest.importorskip("diffusers", reason="pip install -r tests/requirements.txt")
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=[1 - index / steps for index in range(steps)])
    ours = make_schedule("flowmatch_euler", steps, shift)
    torch.testing.assert_close(ours.timesteps.float(), theirs.timesteps, rtol=1e-6, atol=0)
    a, b = RECORDED["traj.mix.a"], RECORDED["traj.mix.b"]
    latent = reference = RECORDED["traj.x_init"]
    for index, timestep in enumerate(theirs.timesteps):
        sigma = ours.sigmas[index].item()
        latent = ours.step(mixture_velocity(latent, sigma, a, b), latent, index)
        velocity = mixture_velocity(reference, theirs.sigmas[index].item(), a, b)
        reference = theirs.step(velocity, timestep, reference, return_dict=False)[0]
        torch.testing.assert_close(latent, reference, rtol=0, atol=1e-5)


def diffusers_schedulers(shift):
    """Ours and theirs by name. Loud where diffusers is missing: it is one of the test requirements."""
    diffusers = pytest.importorskip("diffusers", reason="pip install -r tests/requirements.txt")
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    return {
        "unipc": diffusers.UniPCMultistepScheduler(**flow),
        "dpm++": diffusers.DPMSolverMultistepScheduler(**flow),
    }


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20, 40])
@pytest.mark.parametrize("name", ["unipc", "dpm++"])
def test_solver_equals_diffusers_on_its_own_sigmas(name, steps):
    theirs = diffusers_schedulers(5.0)[name]
    theirs.set_timesteps(steps)
    ours = make_schedule(name, steps, 5.0)
    Schedule.__init__(ours, SigmaGrid(steps, 5.0, theirs.sigmas.clone(), theirs.timesteps.clone()))
    a, b = RECORDED["traj.mix.a"], RECORDED["traj.mix.b"]
    latent = reference = RECORDED["traj.x_init"]
    for index, timestep in enumerate(theirs.timesteps):
        sigma = theirs.sigmas[index].item()
        velocity, their_velocity = (
            mixture_velocity(latent, sigma, a, b),
            mixture_velocity(reference, sigma, a, b),
        )
        latent = ours.step(velocity, latent, index)
        reference = theirs.step(their_velocity, timestep, reference, return_dict=False)[0]
        torch.testing.assert_close(latent, reference, rtol=0, atol=1e-5)
