"""Step Cache and Guidance Schedule in ComfyUI do what the command line's options do.

pytest tests/comfyui/test_shortcuts.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .comfy_server import ROOT, comfyui_python, last_answer

pytestmark = pytest.mark.comfy

SCRIPT = Path(__file__).parent / "inside_shortcuts.py"


@pytest.fixture(scope="module")
def answers(comfyui: Path, weights: Path) -> dict[str, Any]:
    """What inside_shortcuts.py found."""
    command = [comfyui_python(comfyui), str(SCRIPT), str(comfyui), str(ROOT), str(weights)]
    return last_answer(command, comfyui)["as_on_the_command_line"]


@pytest.mark.parametrize("name", ["whole", "cached", "unguided", "both", "first 3"])
def test_the_nodes_are_the_command_line_s_options(answers: dict[str, Any], name: str) -> None:
    found = answers[name]
    assert found["apart"] < 1e-5
    assert (found["from whole"] > 1e-3) == (name != "whole")
    assert answers["same experts"]


@pytest.mark.parametrize("name", ["cached", "unguided", "both"])
def test_the_node_says_which_steps_it_saved(answers: dict[str, Any], name: str) -> None:
    found = answers[name]
    assert found["said"][-1] == found["summary"]
    reused = [line for line in found["said"] if line.endswith(", reused")]
    assert bool(reused) == (name != "unguided")
    assert (" reused" in found["summary"]) == (name != "unguided")
    assert ("steps 0, 1, 13 without guidance" in found["summary"]) == (name != "cached")


def test_the_sampler_s_cfg_steps_join_the_guidance_schedule(answers: dict[str, Any]) -> None:
    found = answers["first 3"]
    assert found["said"][-1] == found["summary"] == "steps 0, 1, 3-13 without guidance"


def test_nothing_is_kept_from_run_to_run_and_off_is_as_without(answers: dict[str, Any]) -> None:
    assert answers["again"]
    assert answers["off"]
    assert answers["whole"]["summary"] == ""
    assert "reused" not in answers["whole"]["said"][-1]
