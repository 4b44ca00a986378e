"""What the widgets in the browser ask of the server.

pytest tests/comfyui/test_routes.py
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
from typing import Any

import pytest

from wan_core.presets import presets_for
from wan_core.sampling.plan import plan, plan_summary
from wan_core.variants import I2V_A14B, T2V_A14B, TASKS, TI2V_5B

from .comfy_server import ComfyServer

pytestmark = pytest.mark.comfy


@pytest.mark.parametrize(
    ("task", "query", "boundary"),
    [
        ("t2v", {}, 0.875),
        ("i2v", {"steps": 7, "shift": 5.5, "boundary": 0.9, "scheduler": "euler"}, 0.9),
        ("ti2v", {"steps": 3, "boundary": 0.9}, None),  # one network: the Sampler passes the boundary over
    ],
)
def test_the_plan_is_the_one_of_python(
    server: ComfyServer, task: str, query: dict[str, Any], boundary: float | None
) -> None:
    numbers = {name: value for name, value in query.items() if name != "boundary"}
    expected = plan(task, **numbers, boundary=boundary)
    assert asked(server, "plan", task=task, **query) == {
        **expected,
        "summary": plan_summary(expected),
        "boundary": boundary,
    }


def test_a_file_is_described_by_its_header(server: ComfyServer) -> None:
    released = {
        "wan_tiny_t2v_low_noise": T2V_A14B,
        "wan_tiny_i2v_high_noise": I2V_A14B,
        "wan_tiny_ti2v": TI2V_5B,
    }
    for name, variant in released.items():
        told = asked(server, "model", name=f"elsewhere\\{name}.safetensors")
        assert told["name"] == f"{name}.safetensors"
        assert told["task"] == variant.task
        assert (told["steps"], told["shift"], told["boundary"]) == (
            variant.steps,
            variant.shift,
            variant.boundary,
        )
        assert (told["cfg_high"], told["cfg_low"]) == (
            variant.guidance_scale_high,
            variant.guidance_scale_low,
        )


def test_a_known_model_offers_what_it_was_taught_with(server: ComfyServer) -> None:
    for name in ("t2v_high_noise", "i2v_low_noise", "ti2v"):
        told = asked(server, "model", name=f"wan_tiny_{name}.safetensors")
        assert (told["sizes"], told["frames"]) == ([[96, 96]], 17)
    released = asked(server, "model", task="ti2v")
    assert released["sizes"] == [[1280, 704], [704, 1280]]
    assert (released["frames"], released["title"]) == (121, TI2V_5B.title)


def test_a_size_comes_to_the_latent_that_the_node_makes(server: ComfyServer) -> None:
    told = asked(server, "size", task="t2v", width=832, height=480, frames=81)
    assert told["latent"] == [16, 21, 60, 104]
    assert told["line"] == "81 frames, 5.1 s at 16 fps, latent 16 x 21 x 60 x 104"
    told = asked(server, "size", task="t2v", width=850, height=480, frames=80)
    assert told["line"] == "becomes 848 x 480, 81 frames, 5.1 s at 16 fps, latent 16 x 21 x 60 x 106"
    told = asked(server, "size", task="ti2v", width=1280, height=704, frames=121, follows=1)
    assert told["line"] == "121 frames, 5.0 s at 24 fps, in the picture's aspect"


def test_presets_are_told_by_the_names_of_the_samplers_widgets(server: ComfyServer) -> None:
    told = asked(server, "presets")
    node = server.get("/object_info/WanCoreSampler")["WanCoreSampler"]["input"]
    widgets = {*node["required"], *node["optional"], "cfg_steps"}
    for task in TASKS:
        assert [preset["name"] for preset in told[task]] == [preset.name for preset in presets_for(task)]
        assert all(preset["values"].keys() <= widgets for preset in told[task])
    released = told["i2v"][0]["values"]
    assert (released["boundary"], released["cfg_high"], released["cfg_low"]) == (0.9, 3.5, 3.5)
    assert "boundary" not in told["ti2v"][0]["values"]  # one network has none


def test_a_vae_says_for_which_model_it_makes_pictures_ready(server: ComfyServer) -> None:
    told = {name: asked(server, "vae", name=f"wan_tiny_{name}.safetensors") for name in ("vae", "vae_2_2")}
    assert told["vae"]["task"] == "i2v"
    assert told["vae_2_2"]["task"] == "ti2v"
    assert (told["vae_2_2"]["latent_channels"], told["vae_2_2"]["vae_stride"]) == (48, [4, 16, 16])


@pytest.mark.parametrize(
    ("path", "query", "line"),
    [
        ("plan", {"steps": "many"}, "steps: 'many' is not a number"),
        ("plan", {"steps": 100_000_000}, "steps must be from 1 to 1000"),
        ("plan", {"shift": "nan"}, "shift"),
        ("plan", {"boundary": "nan"}, "boundary must be a noise level from 0 to 1"),
        ("plan", {"scheduler": "ddim"}, "scheduler 'ddim' is unknown"),
        ("plan", {"task": "s2v"}, "task: 's2v' is not known"),
        ("size", {"width": "wide"}, "width: 'wide' is not a number"),
        ("model", {}, ": no file in the list is called ;"),
        ("model", {"name": "../../requirements.txt"}, "no file in the list is called requirements.txt"),
        ("vae", {"name": "wan_tiny_ti2v.safetensors"}, "no file in the list is called wan_tiny_ti2v"),
    ],
)
def test_a_bad_question_is_answered_in_one_line(
    server: ComfyServer, path: str, query: dict[str, Any], line: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        asked(server, path, **query)
    assert refused.value.code == 400
    told = json.loads(refused.value.read())["error"]
    assert line in told
    assert "\n" not in told


def asked(server: ComfyServer, path: str, **query: Any) -> dict[str, Any]:
    """The answer of a route."""
    return server.get(f"/wancore/{path}?{urllib.parse.urlencode(query)}")
