"""Step caching and steps without guidance, on fields whose velocity is known."""

from __future__ import annotations

import math

import pytest
import torch

from wan_core.errors import WanError
from wan_core.sampling import GuidanceSchedule, StepCache, denoise, make_noise, plan_experts, plan_summary
from wan_core.sampling.guidance_schedule import with_cfg_steps
from wan_core.sampling.plan import plan, saved_words, step_list
from wan_core.sampling.step_cache import Reuse
from wan_core.schedulers import make_schedule

NAN = math.nan
STEPS, SWITCH = 20, 13  # UniPC at shift 12, boundary 0.875
# The first four, the first two of each expert, the last.
ALWAYS = [0, 1, 2, 3, SWITCH, SWITCH + 1, STEPS - 1]
NOISE = make_noise((2, 3, 2, 2), 3)
CLEAN = torch.linspace(-2.0, 2.0, 24).reshape(1, 2, 3, 2, 2)


def straight(latent, sigma, context):
    """All data is one point: the path is straight and its velocity stays the same."""
    return NOISE - CLEAN


def curved(latent, sigma, context):
    """Data spread widely about CLEAN; against the prompt, about its mirror image: the exact velocity."""
    middle, variance, alpha = (CLEAN if context == "cat" else -CLEAN), 4.0, 1.0 - sigma
    away = (latent - alpha * middle) / (alpha**2 * variance + sigma**2)
    return sigma * away - (middle + alpha * variance * away)


class Run:
    """One run over a field: the latent, which step asked whom for what, and what each step said."""

    def __init__(self, field=curved, guidance=4.0, steps=STEPS, **shortcuts):
        schedule = make_schedule("unipc", steps, 12.0)
        self.asked, self.infos = [], []

        def expert(name):
            def predict(latent, timestep, context):
                self.asked.append((len(self.infos), name, context))
                return field(latent, schedule.sigmas[len(self.infos)].item(), context)

            return predict

        self.latent = denoise(
            NOISE,
            {name: expert(name) for name in ("high_noise", "low_noise")},
            *("cat", "dog", guidance, schedule),
            plan_experts(schedule.timesteps, 0.875),
            self.infos.append,
            **shortcuts,
        )

    @property
    def computed(self):
        return sorted({step for step, _, _ in self.asked})

    def off(self, other):
        return float((self.latent - other.latent).norm() / other.latent.norm())


# --- step cache ---------------------------------------------------------------------------------------------


def test_a_straight_path_needs_the_fixed_steps_only():
    plain, cached = Run(straight), Run(straight, step_cache=StepCache(0.01))
    assert plain.computed == list(range(STEPS))
    assert cached.computed == ALWAYS
    assert torch.equal(cached.latent, plain.latent)
    assert [info.index for info in cached.infos if info.skipped] == sorted({*range(STEPS)} - {*ALWAYS})
    assert not any(info.skipped for info in plain.infos)


def test_a_higher_threshold_reuses_more_and_is_further_off():
    plain = Run()
    runs = [Run(step_cache=StepCache(threshold)) for threshold in (1e-6, 0.05, 0.15, 0.3)]
    computed = [len(run.computed) for run in runs]
    assert computed[0] == STEPS
    assert computed == sorted(computed, reverse=True)
    assert computed[-1] < computed[1] < STEPS, computed
    assert torch.equal(runs[0].latent, plain.latent)
    errors = [run.off(plain) for run in runs[1:]]
    assert 0 < errors[0] < errors[1] < errors[2] < 0.01
    assert all({*ALWAYS} <= {*run.computed} for run in runs)


def test_with_and_against_the_prompt_are_of_one_age():
    run = Run(step_cache=StepCache(0.1))
    assert len(run.computed) < STEPS
    for step in run.computed:
        assert [context for at, _, context in run.asked if at == step] == ["cat", "dog"]
    reused = [info.index for info in run.infos if info.skipped]
    assert sorted([*run.computed, *reused]) == list(range(STEPS))


def test_no_expert_answers_for_another():
    """High noise answers 1, low noise 2: after the switch no 1 may come back."""
    velocities = []

    def field(latent, sigma, context):
        return torch.ones_like(latent) * (1.0 if len(velocities) < SWITCH else 2.0)

    schedule = make_schedule("euler", STEPS, 12.0)
    experts = plan_experts(make_schedule("unipc", STEPS, 12.0).timesteps, 0.875)
    before = [NOISE]

    def note(info):
        step = schedule.sigmas[info.index + 1] - schedule.sigmas[info.index]
        velocities.append(((info.latent - before[-1]) / step).mean().item())
        before.append(info.latent)

    predict = {name: lambda *asked: field(*asked) for name in ("high_noise", "low_noise")}
    denoise(NOISE, predict, "cat", None, 1.0, schedule, experts, note, step_cache=StepCache(0.5))
    assert velocities == pytest.approx([1.0] * SWITCH + [2.0] * (STEPS - SWITCH), abs=1e-3)


def test_each_run_starts_afresh_and_off_is_as_before():
    cache = StepCache(0.1)
    first, second, off = Run(step_cache=cache), Run(step_cache=cache), Run(step_cache=None)
    assert torch.equal(first.latent, second.latent)
    assert first.asked == second.asked
    assert torch.equal(off.latent, Run().latent)


def test_four_steps_are_all_computed():
    """As the 4-step LoRAs take them."""
    assert Run(straight, steps=4, guidance=1.0, step_cache=StepCache(1.0)).computed == [0, 1, 2, 3]


def test_windows_decide_each_for_itself():
    """One window's latent stands still, the other's moves: the first is reused, the second computed."""
    reuse, asked = Reuse(StepCache(0.1), ("dense",) * 10, [1.0] * 10), []

    def predict(latent, timestep, context):
        asked.append(float(latent.mean()))
        return 10 * latent

    def step(index, **latents):
        ask = reuse.at(index, predict)
        return [ask(torch.full((2,), value), None, "cat", window=name) for name, value in latents.items()]

    for index in range(4):
        step(index, still=1.0 + 0.001 * index, moving=2.0**index)
    before = len(asked)
    answers = step(4, still=1.004, moving=16.0)
    assert asked[before:] == [16.0]
    assert not reuse.skipped
    assert [answer[0].item() for answer in answers] == [pytest.approx(10.03), 160.0]
    step(5, still=1.005)
    assert reuse.skipped


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, NAN, math.inf, "0.1", True, None])
def test_impossible_thresholds_are_refused(threshold):
    with pytest.raises(WanError, match="step cache: the threshold") as error:
        StepCache(threshold)
    assert "\n" not in str(error.value)


# --- guidance schedule --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skip", "steps"),
    [
        ("60%-100%", range(12, 20)),
        ("0%-12.5%", range(3)),
        ("last 4", range(16, 20)),
        ("first 2", range(2)),
        ("First2, LAST 1", [0, 1, 19]),
        ("7", [7]),
        ("3-5, 5-6,19", [3, 4, 5, 6, 19]),
    ],
)
def test_steps_as_people_write_them(skip, steps):
    assert GuidanceSchedule(skip).steps(20) == frozenset(steps)


@pytest.mark.parametrize(
    "skip",
    ["", " ", "5-3", "60%", "60-100%", "100%-60%", "0%-101%", "-3", "last", "1,,2", "1;2", "nan", None, 7],
)
def test_what_names_no_steps_is_refused(skip):
    with pytest.raises(WanError, match=r"guidance schedule: .* names no steps") as error:
        GuidanceSchedule(skip)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("skip", ["20", "18-20", "last 21", "first 21"])
def test_steps_that_are_not_there_are_refused(skip):
    with pytest.raises(WanError, match="names steps that are not there; there are 20"):
        GuidanceSchedule(skip).steps(20)


def test_only_the_first_steps_have_guidance():
    schedule = GuidanceSchedule("first 1")
    assert with_cfg_steps(None, 2).steps(6) == GuidanceSchedule("after 2").steps(6) == {2, 3, 4, 5}
    assert with_cfg_steps(schedule, 4).steps(6) == {0, 4, 5}
    assert with_cfg_steps(None, 9).steps(6) == frozenset()
    assert (with_cfg_steps(None, 0), with_cfg_steps(schedule, 0)) == (None, schedule)
    for count in (-1, 1.5, True, None, 1001):
        with pytest.raises(WanError, match="cfg steps"):
            with_cfg_steps(None, count)


def test_steps_without_guidance_do_not_ask_against_the_prompt():
    run = Run(guidance_schedule=GuidanceSchedule("first 2, 18-19"))
    against = [step for step, _, context in run.asked if context == "dog"]
    assert against == list(range(2, 18))
    assert [step for step, _, context in run.asked if context == "cat"] == list(range(STEPS))
    assert [info.index for info in run.infos if info.unguided] == [0, 1, 18, 19]
    assert run.off(Run()) > 0
    everywhere = Run(guidance_schedule=GuidanceSchedule("0%-100%"))
    assert torch.equal(everywhere.latent, Run(guidance=1.0).latent)


def test_where_guidance_sets_in_nothing_is_reused():
    """The answer against the prompt would be older than the one with it, or missing."""
    run = Run(straight, step_cache=StepCache(0.5), guidance_schedule=GuidanceSchedule("0-8"))
    assert run.computed == sorted([*ALWAYS, 9])
    assert [context for step, _, context in run.asked if step == 9] == ["cat", "dog"]


# --- words --------------------------------------------------------------------------------------------------


def test_the_summary_names_what_was_saved():
    planned = plan("t2v", steps=8)
    assert "reused" not in plan_summary(planned)
    for index in (3, 5):
        planned["steps"][index]["reused"] = True
    planned["steps"][7]["unguided"] = True
    assert plan_summary(planned).endswith("; steps 3, 5 reused; step 7 without guidance")
    assert saved_words(plan("t2v")["steps"]) == []
    assert step_list([0, 1, 3, 5, 6, 7, 8, 11]) == "0, 1, 3, 5-8, 11"
