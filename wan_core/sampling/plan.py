"""The plan of a run before it runs: every step's timestep, sigma and expert, and where the experts switch.

It says exactly what the loop will do, since it asks the same schedule and the same expert rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from ..errors import WanError
from ..schedulers import make_schedule
from ..variants import variant_for_task
from ..variants.variant import HIGH_NOISE, LOW_NOISE
from .denoise import StepInfo
from .experts import plan_experts


class _Step(TypedDict):
    timestep: float
    sigma: float
    expert: str


class PlannedStep(_Step, total=False):
    """One row: the timestep the network is told (0..1000), the noise level (0..1), who works.

    Timesteps are ints, but for "flowmatch_euler", which tells the network fractions.

    Only steps that were run say, and only where it is so, that the step cache had the answer (`reused`) or
    that the guidance schedule left guidance out (`unguided`).
    """

    reused: bool
    unguided: bool


class Plan(TypedDict):
    """What `plan` answers, ready for JSON. switch: the first low-noise step counted from 0, or None."""

    steps: list[PlannedStep]
    switch: int | None


def plan(
    task: str,
    steps: int | None = None,
    shift: float | None = None,
    scheduler: str = "unipc",
    boundary: float | None = None,
) -> Plan:
    """The steps of a run of `task` ("t2v", "i2v", "ti2v"). None takes the released default of the task.

    Raises WanError for an unknown task or scheduler, numbers no schedule can be made of, or a boundary for a
    task whose model has one network.
    """
    variant = variant_for_task(task)
    if boundary is not None and variant.boundary is None:
        raise WanError(
            f"boundary: {variant.title} has a single network and never switches; leave boundary out"
        )
    schedule = make_schedule(
        scheduler,
        variant.steps if steps is None else steps,
        variant.shift if shift is None else shift,
    )
    experts = plan_experts(schedule.timesteps, variant.boundary if boundary is None else boundary).experts
    rows: list[PlannedStep] = [
        {"timestep": timestep, "sigma": sigma, "expert": expert}
        for timestep, sigma, expert in zip(
            schedule.timesteps.tolist(), schedule.sigmas[:-1].tolist(), experts, strict=True
        )
    ]
    return {"steps": rows, "switch": experts.index(LOW_NOISE) if LOW_NOISE in experts else None}


def plan_summary(planned: Plan) -> str:
    """One sentence: how many steps each expert takes, where the switch falls, and what was saved."""
    experts = [step["expert"] for step in planned["steps"]]
    counts = ", then ".join(f"{experts.count(name)} {name}" for name in dict.fromkeys(experts))
    total = f"{len(experts)} step{'s' if len(experts) != 1 else ''}: {counts}"
    return "; ".join([total, _switch_words(planned), *saved_words(planned["steps"])])


def taken_step(info: StepInfo) -> PlannedStep:
    """The row of a step that was run."""
    step: PlannedStep = {"timestep": info.timestep, "sigma": info.sigma, "expert": info.expert}
    if info.skipped:
        step["reused"] = True
    if info.unguided:
        step["unguided"] = True
    return step


def saved_words(steps: Sequence[PlannedStep]) -> list[str]:
    """Which steps of a run were not computed as usual: "steps 5, 7, 9 reused"; nothing when all were."""
    saved = []
    for key, words in (("reused", "reused"), ("unguided", "without guidance")):
        if numbers := [index for index, step in enumerate(steps) if step.get(key)]:
            saved.append(f"step{'s' if len(numbers) > 1 else ''} {step_list(numbers)} {words}")
    return saved


def step_list(numbers: Sequence[int]) -> str:
    """Rising numbers as people write them: 3, 5-8, 11."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def plan_table(planned: Plan, bar_width: int = 32) -> str:
    """The plan as text: the summary, then a row a step (counted from 0) with its sigma as a number and a bar.

    A bar is drawn with # by the high-noise expert and with = by the low-noise or only one. A line of dashes
    stands where the experts switch.
    """
    rows = [plan_summary(planned), "", "step  timestep    sigma  expert"]
    for index, step in enumerate(planned["steps"]):
        if index > 0 and index == planned["switch"]:
            rows.append("-" * (34 + bar_width))
        mark = "#" if step["expert"] == HIGH_NOISE else "="
        bar = mark * max(1, round(step["sigma"] * bar_width))
        rows.append(f"{index:4d}  {step['timestep']:8g}  {step['sigma']:.5f}  {step['expert']:10}  {bar}")
    return "\n".join(rows)


def _switch_words(planned: Plan) -> str:
    if planned["switch"] is None or planned["switch"] == 0:
        return "no switch"
    first = planned["steps"][planned["switch"]]
    return f"the switch falls at step {planned['switch']} (timestep {first['timestep']:g})"
