"""Schedules, expert plan, guidance, noise, the loop and its plan, on fields a reader can check by hand."""

from __future__ import annotations

import json
import math
import weakref

import pytest
import torch

from wan_core.errors import WanError
from wan_core.sampling.denoise import denoise
from wan_core.sampling.experts import plan_experts
from wan_core.sampling.guidance import guidance_by_expert, guided_velocity
from wan_core.sampling.noise import make_noise
from wan_core.sampling.plan import plan, plan_summary, plan_table
from wan_core.schedulers import SCHEDULERS, make_schedule
from wan_core.variants import Conditioning

NAN, INF = math.nan, math.inf
CLEAN = torch.linspace(-2.0, 2.0, 24).reshape(1, 2, 3, 2, 2)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


class Experts:
    """Two experts that know the answer CLEAN, and write down who was asked what."""

    def __init__(self, schedule):
        self.schedule, self.switches, self.calls = schedule, [], []

    def at(self, name):
        self.switches.append(name)

        def predict(latent, timestep, context):
            assert latent.dtype == torch.float32
            self.calls.append((name, timestep, context))
            sigma = self.schedule.sigmas[self.schedule.timesteps.tolist().index(timestep[0].item())]
            return (latent - CLEAN) / sigma

        return predict


def run(schedule, experts=None, boundary=0.875, guidance=1.0, noise=None, **options):
    plan = plan_experts(schedule.timesteps, boundary)
    noise = make_noise(tuple(CLEAN.shape[1:]), 3) if noise is None else noise
    return denoise(noise, experts or Experts(schedule), "cat", "dog", guidance, schedule, plan, **options)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
def test_every_solver_reaches_a_known_clean_latent(name, steps):
    torch.testing.assert_close(run(make_schedule(name, steps, 5.0)), CLEAN, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("shift", [0.001, 1.0, 12.0, 1000.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 120, 1000])
def test_extreme_schedules_stay_finite(name, shift, steps):
    """Among them UniPC at shift 12 with 120 steps, whose equal first timesteps stop the released one."""
    schedule = make_schedule(name, steps, shift)
    assert (schedule.sigmas.diff() < 0).all()
    latent = torch.randn(1, 2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for index in range(steps):
        latent = schedule.step(torch.sin(3 * latent), latent, index)
    assert latent.isfinite().all()
    assert latent.abs().max() < 10


def test_schedule_names():
    assert SCHEDULERS == ("unipc", "dpm++", "euler", "flowmatch_euler")
    for alias in ("dpmpp_2m", "dpm++_2m", "dpmpp", "DPM++"):
        assert make_schedule(alias, 4, 5.0).name == "dpm++"
    schedule = make_schedule("euler", 4, 5)
    assert (schedule.name, schedule.steps, schedule.shift) == ("euler", 4, 5.0)
    assert schedule.timesteps.tolist() == [1000, 937, 833, 625]
    assert schedule.sigmas.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("heun", 20, 5.0), "unipc, dpm++, euler, flowmatch_euler"),
        ((None, 20, 5.0), "scheduler"),
        ((["unipc"], 20, 5.0), "scheduler"),
        (("unipc", 0, 5.0), "steps"),
        (("unipc", -3, 5.0), "steps"),
        (("unipc", 1001, 5.0), "steps"),
        (("unipc", 20.0, 5.0), "steps"),
        (("unipc", NAN, 5.0), "steps"),
        (("unipc", True, 5.0), "steps"),
        (("unipc", "20", 5.0), "steps"),
        (("dpm++", 20, 0.0), "shift"),
        (("dpm++", 20, -1.0), "shift"),
        (("dpm++", 20, NAN), "shift"),
        (("euler", 20, INF), "shift"),
        (("euler", 20, 1e9), "shift"),
        (("euler", 20, None), "shift"),
        (("euler", 20, "5"), "shift"),
    ],
)
def test_impossible_schedules_are_refused(arguments, word):
    with pytest.raises(WanError) as error:
        make_schedule(*arguments)
    assert word in one_line(error)


def test_steps_come_in_order_and_once():
    schedule = make_schedule("unipc", 4, 5.0)
    latent = torch.ones(1, 1)
    schedule.step(latent, latent, 0)
    for index in (0, 2, 4, -1):
        with pytest.raises(WanError, match="step 1 of 4 is next"):
            schedule.step(latent, latent, index)
    schedule.step(latent, latent, 1)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_a_step_is_given_and_gives_is_never_changed(name):
    """The solvers compute in place, on tensors of their own only: a preview may take its time."""
    schedule, seen = make_schedule(name, 6, 5.0), []
    latent = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    for index in range(6):
        velocity = torch.sin(3 * latent)
        seen += [(velocity, velocity.clone()), (latent, latent.clone())]
        latent = schedule.step(velocity, latent, index)
    assert len({tensor.data_ptr() for tensor, _ in seen}) == len(seen)
    assert all(torch.equal(tensor, copy) for tensor, copy in seen)


def test_the_boundary_belongs_to_the_high_noise_expert():
    plan = plan_experts(torch.tensor([1000, 900, 875, 874, 100]), 0.875)
    assert plan.experts == ("high_noise",) * 3 + ("low_noise",) * 2
    assert plan.switch == 3
    assert plan_experts([900, 899], 0.9).switch == 1
    assert plan_experts([500, 400], 0.875).switch == 0
    assert plan_experts([999, 0], 0.0).switch == 2
    assert plan_experts([999, 500], None).experts == ("dense", "dense")
    assert plan_experts([999, 500], None).switch is None


@pytest.mark.parametrize("boundary", [-0.1, 1.01, 875, NAN, INF, "0.9", True])
def test_impossible_boundaries_are_refused(boundary):
    with pytest.raises(WanError) as error:
        plan_experts([999, 500], boundary)
    assert "boundary" in one_line(error)


def test_guidance_is_linear_between_two_predictions():
    asked = []

    def predict(latent, timestep, context):
        asked.append(context)
        return torch.full_like(latent, context)

    latent, timestep = torch.zeros(1, 2, dtype=torch.bfloat16), torch.tensor([999])
    velocity = guided_velocity(predict, latent, timestep, 3.0, 1.0, 4.0)
    assert velocity.dtype == torch.float32
    assert velocity.tolist() == [[9.0, 9.0]]
    assert asked == [3.0, 1.0]
    assert guided_velocity(predict, latent, timestep, 3.0, None, 1.0).tolist() == [[3.0, 3.0]]
    assert asked == [3.0, 1.0, 3.0]
    with pytest.raises(WanError, match="negative prompt"):
        guided_velocity(predict, latent, timestep, 3.0, None, 4.0)


def test_guidance_by_expert():
    assert guidance_by_expert(3, ("high_noise", "high_noise", "low_noise")) == {
        "high_noise": 3.0,
        "low_noise": 3.0,
    }
    assert guidance_by_expert({"high_noise": 4.0, "low_noise": NAN}, ("high_noise",)) == {"high_noise": 4.0}
    for bad in (NAN, INF, "4", None, True, {"low_noise": 3.0}):
        with pytest.raises(WanError) as error:
            guidance_by_expert(bad, ("high_noise",))
        assert "guidance of the high_noise expert" in one_line(error)


def test_noise_is_the_cpu_stream_of_its_seed():
    noise = make_noise((16, 3, 4, 6), 42)
    assert noise.shape == (1, 16, 3, 4, 6)
    assert noise.dtype == torch.float32
    state = torch.random.get_rng_state()
    expected = torch.randn(16, 3, 4, 6, generator=torch.Generator().manual_seed(42))
    assert torch.equal(noise[0], expected)
    assert torch.equal(make_noise((16, 3, 4, 6), 42), noise)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(make_noise((16, 3, 4, 6), 43), noise)
    make_noise((1, 1, 1, 1), 2**64 - 1)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, NAN, None, "7", True])
def test_impossible_seeds_are_refused(seed):
    with pytest.raises(WanError) as error:
        make_noise((1, 1, 1, 1), seed)
    assert "seed" in one_line(error)


def test_the_loop_asks_each_expert_for_its_steps():
    schedule = make_schedule("unipc", 8, 12.0)
    experts, seen = Experts(schedule), []
    latent = run(schedule, experts, guidance={"high_noise": 4.0, "low_noise": 1.0}, on_step=seen.append)
    assert experts.switches == ["high_noise", "low_noise"]
    # Six steps with two predictions each, then two with one: guidance 1 needs no negative prompt.
    assert [(name, context) for name, _, context in experts.calls] == [
        *[("high_noise", "cat"), ("high_noise", "dog")] * 6,
        *[("low_noise", "cat")] * 2,
    ]
    assert all(timestep.dtype == torch.int64 for _, timestep, _ in experts.calls)
    assert [info.index for info in seen] == list(range(8))
    assert {info.total for info in seen} == {8}
    assert [info.timestep for info in seen] == schedule.timesteps.tolist()
    assert [info.sigma for info in seen] == schedule.sigmas[:-1].tolist()
    assert torch.equal(seen[-1].latent, latent)
    for info in seen:
        torch.testing.assert_close(info.denoised, CLEAN, rtol=0, atol=1e-5)


def test_exact_timesteps_reach_network_and_callback_as_fractions():
    schedule = make_schedule("flowmatch_euler", 4, 5.0)
    experts, seen = Experts(schedule), []
    latent = run(schedule, experts, on_step=seen.append)
    told = [1000.0, 937.5, 2500 / 3, 625.0]
    assert [(name, timestep.item()) for name, timestep, _ in experts.calls] == [
        (name, pytest.approx(timestep, abs=1e-9))
        for name, timestep in zip(["high_noise"] * 2 + ["low_noise"] * 2, told, strict=True)
    ]
    assert {timestep.dtype for _, timestep, _ in experts.calls} == {torch.float64}
    assert [info.timestep for info in seen] == pytest.approx(told, abs=1e-9)
    torch.testing.assert_close(latent, CLEAN, rtol=0, atol=1e-5)


def test_the_loop_works_in_float32_on_batches():
    schedule = make_schedule("dpm++", 4, 5.0)
    noise = make_noise(tuple(CLEAN.shape[1:]), 0).bfloat16().repeat(3, 1, 1, 1, 1)
    experts = Experts(schedule)
    latent = run(schedule, experts, noise=noise)
    assert latent.dtype == torch.float32
    assert latent.shape == (3, *CLEAN.shape[1:])
    assert experts.calls[0][1].tolist() == [1000, 1000, 1000]


def test_the_clean_estimate_is_made_when_asked_for_and_stays_right():
    schedule = make_schedule("unipc", 4, 5.0)
    kept = torch.full((1, 2, 3, 2, 2), 0.25)  # the network's own, which the loop must not write into
    infos, before = [], []

    def predict(latent, timestep, context):
        before.append(latent.clone())
        return kept

    experts = {"high_noise": predict, "low_noise": predict}
    run(schedule, experts, on_step=infos.append)
    for info, latent in zip(infos, before, strict=True):
        assert "denoised" not in vars(info)
        torch.testing.assert_close(info.denoised, latent - info.sigma * 0.25, rtol=0, atol=1e-6)
        assert info.denoised is info.denoised
    assert (kept == 0.25).all()
    for info, following in zip(infos, before[1:], strict=False):
        assert torch.equal(info.latent, following)


def test_the_last_expert_goes_before_the_next_one_comes():
    class Network:
        def __call__(self, latent, timestep, context):
            return torch.zeros_like(latent)

    class OnlyOne:
        alive = None

        def at(self, name):
            assert self.alive is None or self.alive() is None
            network = Network()
            self.alive = weakref.ref(network)
            return network

    experts = OnlyOne()
    run(make_schedule("euler", 8, 12.0), experts)
    assert experts.alive is not None


def test_experts_may_be_a_plain_mapping():
    schedule = make_schedule("euler", 4, 5.0)
    experts = Experts(schedule)
    mapping = {name: experts.at(name) for name in ("high_noise", "low_noise")}
    torch.testing.assert_close(run(schedule, mapping), CLEAN, rtol=0, atol=1e-5)


def test_what_is_clean_stays_clean_and_is_told_so():
    """CLEAN's first frame is given: it stands in every input and answer, and its tokens are at timestep 0."""
    schedule = make_schedule("unipc", 4, 5.0)
    mask = torch.ones(1, 1, 3, 1, 1)
    mask[:, :, 0] = 0.0
    given = Conditioning(clean_latent=torch.full((1, 2, 1, 2, 2), 7.0), denoise_mask=mask)
    told, infos = [], []

    def predict(latent, timestep, context):
        assert (latent[:, :, 0] == 7.0).all()
        told.append(timestep.tolist())
        sigma = schedule.sigmas[len(told) - 1]
        return (latent - CLEAN) / sigma

    experts = {"high_noise": predict, "low_noise": predict}
    latent = run(schedule, experts, on_step=infos.append, conditioning=given)
    assert told == [[[0, t, t]] for t in schedule.timesteps.tolist()]
    assert all((tensor[:, :, 0] == 7.0).all() for info in infos for tensor in (info.latent, info.denoised))
    torch.testing.assert_close(latent[:, :, 1:], CLEAN[:, :, 1:], rtol=0, atol=1e-5)


def test_image_channels_go_into_the_network_only():
    schedule, seen = make_schedule("euler", 2, 5.0), []
    noise = make_noise(tuple(CLEAN.shape[1:]), 3).expand(2, -1, -1, -1, -1)
    channels = torch.rand(1, 20, 3, 2, 2)

    def predict(latent, timestep, context):
        seen.append(latent)
        assert timestep.dtype == torch.int64
        assert timestep.shape == (2,)
        return torch.zeros_like(latent[:, :2])

    experts = {"high_noise": predict, "low_noise": predict}
    latent = run(schedule, experts, noise=noise, conditioning=Conditioning(channels=channels))
    assert torch.equal(latent, noise)
    assert torch.equal(seen[0], torch.cat([noise, channels.expand(2, -1, -1, -1, -1)], dim=1))


def test_a_mask_with_an_area_is_read_at_each_tokens_first_cell():
    """As ComfyUI may hand it over: (1, 1, F, h, w), here the left half clean and a quarter half so."""
    mask = torch.ones(1, 1, 2, 2, 8)
    mask[..., :4], mask[..., 4:6] = 0.0, 0.5
    given = Conditioning(clean_latent=torch.zeros(1, 3, 2, 2, 8), denoise_mask=mask)
    latent = torch.ones(2, 3, 2, 2, 8)
    assert given.timesteps(800, latent).tolist() == [[0, 0, 400, 800] * 2] * 2
    assert given.timesteps(2500 / 3, latent).tolist() == [[0, 0, 1250 / 3, 2500 / 3] * 2] * 2
    assert given.keep_clean(latent)[1, 2, 1, 0].tolist() == [0, 0, 0, 0, 0.5, 0.5, 1, 1]
    assert given.model_input(latent) is latent


def test_conditioning_of_another_size_is_refused():
    schedule = make_schedule("euler", 2, 5.0)
    for given, word in (
        (Conditioning(channels=torch.zeros(1, 20, 3, 2, 4)), "image: prepared for a latent of 3 x 2 x 4"),
        (Conditioning(clean_latent=CLEAN, denoise_mask=torch.ones(1, 1, 5, 1, 1)), "denoise mask"),
        (Conditioning(clean_latent=CLEAN[..., :1, :3], denoise_mask=torch.ones(1, 1, 3, 1, 4)), "mask"),
        (
            Conditioning(clean_latent=torch.ones(1, 2, 1, 4, 4), denoise_mask=torch.ones(1, 1, 3, 1, 1)),
            "image",
        ),
    ):
        with pytest.raises(WanError) as error:
            run(schedule, conditioning=given)
        assert word in one_line(error)


def test_what_on_step_raises_ends_the_run():
    class InterruptedRunError(Exception):
        pass

    schedule, seen = make_schedule("unipc", 8, 12.0), []

    def stop_at_the_third(info):
        seen.append(info.index)
        if info.index == 2:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        run(schedule, on_step=stop_at_the_third)
    assert seen == [0, 1, 2]
    clean_run, again = run(make_schedule("unipc", 8, 12.0)), run(make_schedule("unipc", 8, 12.0))
    assert torch.equal(clean_run, again)


def test_a_broken_expert_is_named_at_its_first_step():
    schedule = make_schedule("unipc", 8, 12.0)
    good = Experts(schedule).at("high_noise")
    experts = {"high_noise": good, "low_noise": lambda latent, timestep, context: latent * NAN}
    with pytest.raises(WanError) as error:
        run(schedule, experts)
    message = one_line(error)
    assert "step 7 of 8" in message
    assert "low_noise" in message


def test_plan_has_the_released_defaults():
    assert [len(plan(task)["steps"]) for task in ("t2v", "i2v", "ti2v")] == [40, 40, 50]
    assert [plan(task)["switch"] for task in ("t2v", "i2v", "ti2v")] == [26, 15, None]
    assert {step["expert"] for step in plan("ti2v")["steps"]} == {"dense"}
    first = json.loads(json.dumps(plan("t2v")))["steps"][0]
    assert first == {"timestep": 999, "sigma": pytest.approx(0.99992, abs=1e-5), "expert": "high_noise"}


def test_plan_follows_its_arguments():
    planned = plan("t2v", steps=8, shift=5.0, scheduler="dpm++", boundary=0.9)
    assert [step["timestep"] for step in planned["steps"]] == [1000, 972, 937, 892, 833, 750, 625, 416]
    assert planned["switch"] == 3
    assert plan("t2v", steps=4, boundary=1.0)["switch"] == 0
    assert plan("t2v", steps=1)["switch"] is None


def test_plan_says_the_fractions_the_network_is_told():
    planned = plan("t2v", steps=4, shift=5.0, scheduler="flowmatch_euler")
    assert json.loads(json.dumps(planned))["steps"][2]["timestep"] == 833.333333333
    assert plan_summary(planned).endswith("the switch falls at step 2 (timestep 833.333)")
    assert [line.split()[1] for line in plan_table(planned).splitlines()[3:] if "noise" in line] == [
        *("1000", "937.5", "833.333", "625")
    ]
    # 7 * 0.5 / 4 and 3 * 0.7 / 2.4 are 0.875, the latter not so in floats: the boundary is high noise.
    for shift, steps in ((7.0, 2), (3.0, 10)):
        exact = plan("t2v", steps=steps, shift=shift, scheduler="flowmatch_euler")["steps"]
        assert {"high_noise"} == {step["expert"] for step in exact if step["timestep"] == 875}


def test_plan_refuses_what_cannot_run():
    for arguments in (
        ("s2v",),
        ("t2v", 0),
        ("t2v", 8, NAN),
        ("t2v", 8, 5.0, "heun"),
        ("i2v", 8, 5.0, "unipc", 2),
    ):
        with pytest.raises(WanError) as error:
            plan(*arguments)
        one_line(error)
    with pytest.raises(WanError, match="single network"):
        plan("ti2v", boundary=0.9)


def test_plan_as_text():
    planned = plan("i2v", steps=12)
    lines = plan_table(planned).splitlines()
    expected = "12 steps: 5 high_noise, then 7 low_noise; the switch falls at step 5 (timestep 874)"
    assert lines[0] == plan_summary(planned) == expected
    assert len(lines) == 3 + 12 + 1
    assert lines[8].startswith("-----")
    assert lines[9].split()[:4] == ["5", "874", "0.87474", "low_noise"]
    assert plan_summary(plan("ti2v", 3)) == "3 steps: 3 dense; no switch"
    assert plan_summary(plan("t2v", 1)) == "1 step: 1 high_noise; no switch"
