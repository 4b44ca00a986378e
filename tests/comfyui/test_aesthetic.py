"""The Aesthetic node in a real ComfyUI: what it says, what it refuses, and that any prompt node takes it.

pytest tests/comfyui/test_aesthetic.py
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
from typing import Any

import pytest

from wan_core.tiny.measure import measure

from .comfy_server import ComfyServer, RejectedError
from .conftest import workflow
from .videos import read_mp4

pytestmark = pytest.mark.comfy

PROMPT = "a red circle moves left"
FIVE = {
    "time_of_day": "night time",
    "light_source": "moonlight",
    "shot_size": "wide shot",
    "lens": "fisheye lens",
    "camera_movement": "arc shot",
}


def test_it_says_and_gives_the_finished_prompt(server: ComfyServer) -> None:
    run = server.run(graph(style="felt style", color_tone="warm colors"))
    finished = f"Felt style. {PROMPT}, warm colors"
    assert run.outputs["1"]["text"] == [finished]  # what the card shows
    assert run.outputs["2"]["text"] == [finished]


def test_text_from_another_node_is_taken(server: ComfyServer) -> None:
    linked = graph(prompt=["3", 0], color_tone="warm colors")
    linked["3"] = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "A cat."}}
    assert server.run(linked).outputs["2"]["text"] == ["A cat. Warm colors."]


def test_core_s_text_input_takes_it(server: ComfyServer) -> None:
    """What core makes of it is in test_inside.py, for its loader knows encoders of the released size only."""
    nodes = server.get("/object_info")
    assert nodes["WanCoreAesthetic"]["output"] == ["STRING"]
    assert nodes["CLIPTextEncode"]["input"]["required"]["text"][0] == "STRING"


def test_the_card_is_told_what_the_node_says(server: ComfyServer) -> None:
    told = asked(server, prompt="A cat.", style="felt style", color_tone="warm colors", lens="none")
    assert told == {
        "style": "felt style",
        "terms": ["warm colors"],
        "over": [],
        "fault": None,
        "prompt": "Felt style. A cat. Warm colors.",
    }
    told = asked(server, prompt="A cat.", **FIVE)
    assert (told["prompt"], told["over"]) == (None, ["arc shot"])
    assert told["fault"].startswith("aesthetic: 5 terms")
    with pytest.raises(urllib.error.HTTPError) as refused:
        asked(server, prompt="A cat.", lens="magic")
    assert json.loads(refused.value.read())["error"].startswith("lens: 'magic' is not on its list")


def test_the_sweep_makes_one_shot_in_two_lights(server: ComfyServer) -> None:
    run = server.run(workflow("aesthetic_sweep"))
    warm, cool = (measure(read_mp4(server.view(run.outputs[saved]["images"][0]))) for saved in ("15", "25"))
    assert (warm.light, cool.light) == ("warm", "cool")
    for name in ("colour", "shape", "motion", "background"):
        assert getattr(warm, name) == getattr(cool, name)
    assert run.outputs["11"]["text"][0].endswith(", warm colors")


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        (FIVE, "aesthetic: 5 terms, and at most 4 work together beside the style; set 1 of night time"),
        (
            {"style": "pixel art style", "lens": "fisheye lens"},
            "style: pixel art style is flat and takes no light or camera terms; set fisheye lens to none",
        ),
        ({"lens": "magic"}, "lens: 'magic' is not on its list; choose none, fisheye lens"),
        ({"prompt": " \n"}, "prompt: it is empty; say what the video should show"),
    ],
)
def test_it_is_refused_in_one_line_when_queued(
    server: ComfyServer, choices: dict[str, str], says: str
) -> None:
    with pytest.raises(RejectedError) as refused:
        server.run(graph(**choices))
    (line,) = refused.value.lines
    assert says in line


def graph(**choices: Any) -> dict[str, Any]:
    """The node, and one of core's that shows its text."""
    return {
        "1": {"class_type": "WanCoreAesthetic", "inputs": {"prompt": PROMPT, **choices}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }


def asked(server: ComfyServer, **query: str) -> dict[str, Any]:
    return server.get(f"/wancore/aesthetic?{urllib.parse.urlencode(query)}")
