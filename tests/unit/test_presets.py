"""Presets: settings that belong together, by task and name."""

from __future__ import annotations

import pytest

from wan_core.errors import WanError
from wan_core.presets import PRESETS, find_preset, presets_for
from wan_core.sampling.plan import plan
from wan_core.variants import TASKS, variant_for_task

NAMES = {
    "t2v": ["released", "distilled-4", "three-phase", "draft"],
    "i2v": ["released", "distilled-4", "three-phase", "draft"],
    "ti2v": ["released", "draft"],
}


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_its_presets_the_released_first(task):
    assert [preset.name for preset in presets_for(task)] == NAMES[task]
    variant, released = variant_for_task(task), find_preset(task, "released").settings
    same = ("steps", "shift", "boundary", "guidance_scale_high", "guidance_scale_low")
    assert {name: released[name] for name in same} == {name: getattr(variant, name) for name in same}
    assert (released["scheduler"], released["cfg_steps"]) == ("unipc", 0)


def test_no_two_presets_of_a_task_are_the_same_settings():
    """A sampler's numbers name their preset."""
    for task in TASKS:
        settings = [tuple(preset.settings.items()) for preset in presets_for(task)]
        assert len(set(settings)) == len(settings)
    assert all(preset.title and preset.note.endswith(".") and "\n" not in preset.note for preset in PRESETS)


@pytest.mark.parametrize("task", ["t2v", "i2v"])
def test_distilled_visits_the_four_timesteps_and_switches_after_two(task):
    preset = find_preset(task, "distilled-4")
    planned = planned_by(preset)
    assert [step["timestep"] for step in planned["steps"]] == pytest.approx(
        [1000, 937.5, 2500 / 3, 625], abs=1e-9
    )
    assert planned["switch"] == 2
    assert (preset.guidance_scale_high, preset.guidance_scale_low) == (1, 1)


@pytest.mark.parametrize(("task", "switch"), [("t2v", 4), ("i2v", 3)])
def test_three_phases_are_guided_high_then_high_then_low(task, switch):
    preset = find_preset(task, "three-phase")
    assert planned_by(preset)["switch"] == switch
    assert 0 < preset.cfg_steps < switch
    assert preset.guidance_scale_high > 1 == preset.guidance_scale_low


@pytest.mark.parametrize("task", TASKS)
def test_a_draft_is_the_released_run_in_fewer_steps(task):
    draft, released = (find_preset(task, name) for name in ("draft", "released"))
    assert draft.steps < released.steps / 2
    assert {**draft.settings, "steps": released.steps} == released.settings
    experts = {step["expert"] for step in planned_by(draft)["steps"]}
    assert experts == {step["expert"] for step in planned_by(released)["steps"]}


def test_a_preset_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(WanError) as error:
        find_preset("ti2v", "distilled-4")
    assert str(error.value) == "preset: ti2v has no 'distilled-4'; choose one of released, draft"
    with pytest.raises(WanError, match="task"):
        presets_for("s2v")


def planned_by(preset):
    return plan(preset.task, preset.steps, preset.shift, preset.scheduler, preset.boundary)
