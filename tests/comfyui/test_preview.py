"""What the Sampler shows while it works: a moving picture, and where in the plan it is.

pytest tests/comfyui/test_preview.py
"""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .comfy_server import ComfyServer, Run
from .conftest import BUILT_IN, workflow
from .videos import read_mp4

pytestmark = pytest.mark.comfy

STEPS = 6
FLAGS = {"supports_preview_metadata": True}
SAMPLER = "20:6"  # as inside a subgraph


def graph(seed: int, preview: str | None = None) -> dict[str, Any]:
    """Text to video in a few steps, its Sampler under an id as subgraphs give them."""
    nodes = workflow("text_to_video")
    sampler = nodes.pop("6")
    sampler["inputs"] |= {"seed": seed, "steps": STEPS}
    if preview is not None:
        sampler["inputs"]["preview"] = preview
    nodes["7"]["inputs"]["samples"] = [SAMPLER, 0]
    return {**nodes, SAMPLER: sampler}


@pytest.fixture(scope="module")
def run(server: ComfyServer) -> Run:
    """That graph run once, for a page that knows what a preview's message says."""
    finished = server.run(graph(70), flags=FLAGS)
    assert finished.ok, finished.entry["status"]
    return finished


def test_previews_move_and_say_where_they_belong(run: Run) -> None:
    assert run.previews
    for about, picture in run.previews:
        assert about["image_type"] == "image/webp"
        assert about["node_id"] == about["display_node_id"] == about["real_node_id"] == SAMPLER
        assert about["prompt_id"] == run.prompt_id
        with Image.open(io.BytesIO(picture)) as webp:
            assert (webp.format, webp.size, webp.n_frames) == ("WEBP", (384, 384), 5)


@pytest.mark.skipif(not BUILT_IN.exists(), reason="the built-in model has not been trained yet")
def test_a_red_circle_is_seen_to_go_right(run: Run) -> None:
    """The newest preview there is: it may begin anywhere in the clip, which goes round and round."""
    _, picture = run.previews[-1]
    with Image.open(io.BytesIO(picture)) as webp:
        places = []
        for number in range(webp.n_frames):
            webp.seek(number)
            pixels = np.asarray(webp.convert("RGB")).astype(float)
            red = (pixels[..., 0] - pixels[..., 1:].max(axis=-1)).clip(min=0)
            assert red.sum() > 0
            places.append(float((red.sum(axis=0) * np.arange(384)).sum() / red.sum()))
    start = int(np.argmin(places))
    assert np.ptp(places) > 60
    assert places[start:] + places[:start] == sorted(places)


def test_the_page_is_told_of_each_step(run: Run, server: ComfyServer) -> None:
    events = run.events("wancore.step")
    assert [event["index"] for event in events] == [-1, *range(STEPS)]
    assert {(event["node"], event["total"]) for event in events} == {(SAMPLER, STEPS)}
    numbers = graph(0)[SAMPLER]["inputs"]
    query = "&".join(f"{name}={numbers[name]}" for name in ("steps", "shift", "boundary", "scheduler"))
    planned = server.get(f"/wancore/plan?task=t2v&{query}")["steps"]
    said = [{key: event[key] for key in ("timestep", "sigma", "expert")} for event in events]
    assert said == [planned[0], *planned]


def test_without_a_preview_everything_else_is_as_ever(server: ComfyServer, run: Run) -> None:
    without = server.run(graph(70, "none"), flags=FLAGS)
    assert without.ok
    assert without.previews == []
    assert len(without.events("wancore.step")) == STEPS + 1
    videos = [server.view(one.outputs["8"]["images"][0]) for one in (run, without)]
    assert len(videos[0]) > 0
    assert frames(videos[0]) == frames(videos[1])


def test_an_older_listener_gets_pictures_that_stand_still(server: ComfyServer) -> None:
    old = server.run(graph(71))
    assert old.previews
    for about, picture in old.previews:
        assert about == {}
        with Image.open(io.BytesIO(picture)) as jpeg:
            assert (jpeg.format, jpeg.size) == ("JPEG", (384, 384))


def test_whoever_does_not_listen_is_sent_nothing_and_the_graph_runs(server: ComfyServer) -> None:
    answer = server.post("/prompt", {"prompt": graph(72)})
    deadline = time.monotonic() + 120
    while not server.get(f"/history/{answer['prompt_id']}"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert server.history(answer["prompt_id"])["status"]["status_str"] == "success"
    assert "preview:" not in server.log_text()


def frames(mp4: bytes) -> bytes:
    """All pixels of a video."""

    return read_mp4(mp4).tobytes()
