"""The example workflow through a real ComfyUI's queue: prompt in, mp4 out.

pytest tests/comfyui/test_text_to_video.py
"""

from __future__ import annotations

import copy
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from wan_core.tiny.measure import measure

from .comfy_server import ROOT, RUN_SECONDS, ComfyServer, Run, comfyui_python
from .conftest import BUILT_IN
from .videos import psnr, read_mp4

pytestmark = pytest.mark.comfy

GB = r"\d+\.\d [GM]B"
LOADING = rf"loading the {{}}-noise expert: {GB} of weights, {GB} of work; {GB} of RAM free"
WORKFLOWS = sorted((ROOT / "example_workflows" / "api").glob("*.json"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_workflow_runs(server: ComfyServer, path: Path) -> None:
    run = server.run(json.loads(path.read_text()))
    assert run.ok, run.entry["status"]


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The text-to-video graph with a seed of its own, so that nothing of it is cached."""
    graph = json.loads((ROOT / "example_workflows" / "api" / "text_to_video.json").read_text())
    graph["6"]["inputs"]["seed"] = 20
    return graph


@pytest.fixture(scope="module")
def run(server: ComfyServer, example: dict[str, Any]) -> Run:
    """That graph run once."""
    finished = server.run(example)
    assert finished.ok, finished.entry["status"]
    return finished


@pytest.fixture(scope="module")
def mp4(server: ComfyServer, run: Run) -> bytes:
    """Its video, fetched as a browser fetches it."""
    (shown,) = run.outputs["8"]["images"]
    assert shown["filename"].endswith(".mp4")
    assert run.outputs["8"]["animated"] == [True]
    return server.view(shown)


def test_the_mp4_is_what_was_asked_for(mp4: bytes, example: dict[str, Any]) -> None:
    size = example["5"]["inputs"]
    assert read_mp4(mp4).shape == (size["frames"], size["height"], size["width"], 3)
    with av.open(io.BytesIO(mp4)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].average_rate == 16


def test_the_mp4_carries_its_graph(server: ComfyServer, mp4: bytes, example: dict[str, Any]) -> None:
    with av.open(io.BytesIO(mp4)) as container:
        carried = json.loads(container.metadata["prompt"])
    assert {key: node["inputs"] for key, node in carried.items()} == {
        key: node["inputs"] for key, node in example.items()
    }
    assert str(server.base) not in json.dumps(carried), "a shared video must not tell the maker's folders"


@pytest.mark.skipif(not BUILT_IN.exists(), reason="the built-in model has not been trained yet")
def test_the_pixels_show_what_the_prompt_says(mp4: bytes) -> None:
    seen = measure(read_mp4(mp4))
    assert (seen.colour, seen.shape, seen.motion) == ("red", "circle", "right")


def test_progress_arrives_step_by_step(run: Run, example: dict[str, Any]) -> None:
    steps = example["6"]["inputs"]["steps"]
    of_sampler = [event for event in run.events("progress") if event["node"] == "6"]
    values = [event["value"] for event in of_sampler]
    # Core sends at most ten messages a second, the first and the last always.
    assert len(values) >= 2
    assert values == sorted(set(values))
    assert values[-1] == steps
    assert {event["max"] for event in of_sampler} == {steps}
    of_decode = [event["value"] for event in run.events("progress") if event["node"] == "7"]
    assert of_decode[-1] == (example["5"]["inputs"]["frames"] - 1) // 4 + 1


def test_the_node_says_who_works(run: Run) -> None:
    said = [text for node, text in run.texts if node == "6"]
    assert re.fullmatch(LOADING.format("high"), said[0])
    assert re.fullmatch(LOADING.format("low"), said[14])  # after thirteen steps
    assert re.fullmatch(r"high-noise expert, step 13 of 20, \d+\.\d s per step, \d+:\d\d left", said[13])
    assert re.fullmatch(r"low-noise expert, step 20 of 20, \d+\.\d s per step, \d+:\d\d in all", said[-1])
    assert [text for node, text in run.texts if node == "7"][-1].startswith("decoding 5 of 5")


def test_the_text_node_says_what_it_does(server: ComfyServer, example: dict[str, Any]) -> None:
    graph = {key: copy.deepcopy(example[key]) for key in ("2", "4")}
    graph["4"]["inputs"]["positive"] = "a text that was not encoded before"
    graph["9"] = {"class_type": "PreviewAny", "inputs": {"source": ["4", 0]}}
    said = [text for node, text in server.run(graph).texts if node == "4"]
    assert said[0].startswith("loading the text encoder: ")
    assert said[1] == "encoding the prompt"


def test_the_plan_says_where_the_switch_falls(run: Run) -> None:
    (text,) = run.outputs["9"]["text"]
    assert text.startswith("20 steps: 13 high_noise, then 7 low_noise")
    assert run.outputs["9"]["images"][0]["filename"].endswith(".png")


def test_the_command_line_makes_the_same_video(
    mp4: bytes, example: dict[str, Any], weights: Path, tmp_path: Path
) -> None:
    """The two may run on different versions of torch."""
    alike = from_command_line(sys.executable, example, weights, tmp_path / "alike.mp4")
    assert psnr(read_mp4(mp4), alike) >= 40


def test_on_one_torch_it_makes_the_very_same(
    comfyui: Path, mp4: bytes, example: dict[str, Any], weights: Path, tmp_path: Path
) -> None:
    same = from_command_line(comfyui_python(comfyui), example, weights, tmp_path / "same.mp4")
    assert (read_mp4(mp4) == same).all()


def from_command_line(python: str, graph: dict[str, Any], weights: Path, out: Path) -> np.ndarray:
    """The frames (F, H, W, 3) that the command line makes of a graph's prompt and numbers."""
    sampler, size = graph["6"]["inputs"], graph["5"]["inputs"]
    command = [python, "-m", "wan_core", "generate", graph["4"]["inputs"]["positive"], "--out", str(out)]
    command += ["--model", str(weights), "--seed", str(sampler["seed"]), "--steps", str(sampler["steps"])]
    for name in ("width", "height", "frames"):
        command += [f"--{name}", str(size[name])]
    subprocess.run(command, cwd=ROOT, check=True, timeout=RUN_SECONDS)
    return read_mp4(out.read_bytes())


def test_an_interrupt_stops_within_a_step_and_leaves_nothing_behind(
    server: ComfyServer, example: dict[str, Any], frames_of: Callable[[Run], Any]
) -> None:
    graph = json.loads(json.dumps(example))
    graph["6"]["inputs"]["seed"] = 21
    stopped_at: list[int] = []

    def stop_early(message: dict[str, Any]) -> None:
        if message["type"] == "progress" and message["data"]["node"] == "6":
            if not stopped_at:
                server.post("/interrupt", {})
            stopped_at.append(message["data"]["value"])

    stopped = server.run(graph, stop_early)
    assert stopped.interrupted
    assert stopped_at[-1] < graph["6"]["inputs"]["steps"]

    after = frames_of(server.run(graph))
    server.post("/free", {"unload_models": True, "free_memory": True})
    clean = frames_of(server.run(graph))
    assert (after == clean).all()
