"""Decode to Video: decoded while it is saved, by WanCore's and by ComfyUI's Save Video.

pytest tests/comfyui/test_video.py
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from .comfy_server import ROOT, ComfyServer, comfyui_python, last_answer
from .videos import read_mp4

pytestmark = pytest.mark.comfy

SCRIPT = Path(__file__).parent / "inside_video.py"
LATENT_BYTES = {"2.1": 21 * 16 * 4 * 4 * 4, "2.2": 21 * 48 * 2 * 2 * 4}  # of 81 frames at 32 x 32


@pytest.fixture(scope="module")
def answers(comfyui: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What inside_video.py found, by question."""
    paths = (SCRIPT, comfyui, ROOT, weights, tmp_path_factory.mktemp("videos"))
    command = [comfyui_python(comfyui), *map(str, paths)]
    return last_answer(command, comfyui)


@pytest.mark.parametrize("vae", LATENT_BYTES)
def test_a_video_tells_of_itself_without_being_decoded(answers: dict[str, Any], vae: str) -> None:
    found = answers["facts"][vae]
    assert found["decoded"] == 0
    assert (found["size"], found["frames"], found["rate"]) == ([32, 32], 17, 16.0)
    assert found["duration"] == 17 / 16
    assert (found["format"], found["depth"]) == ("mp4", 8)
    assert found["in full"] == [17, 32, 32, 3]


@pytest.mark.parametrize("vae", LATENT_BYTES)
def test_a_long_video_takes_the_memory_of_a_short_one(answers: dict[str, Any], vae: str) -> None:
    found = answers["memory"][vae]
    clip = 81 * 32 * 32 * 3 * 4
    assert found["17"] > clip / 10, "nothing was counted"
    # The latent and what is computed from it beforehand.
    assert abs(found["81"] - found["17"]) <= 3 * LATENT_BYTES[vae]
    assert 3 * LATENT_BYTES[vae] < clip / 4


def test_decode_holds_its_frames_once(answers: dict[str, Any]) -> None:
    found = answers["memory_in_full"]
    assert abs(found["81"] - found["17"]) <= 3 * LATENT_BYTES["2.1"]


def test_every_way_to_save_it(answers: dict[str, Any]) -> None:
    found = answers["files"]
    assert found["same"], "Decode and Save Video write another file than Decode to Video and Save Video"
    assert all(distance < 0.08 for distance in found["distance"].values())
    assert found["sizes"]["small.mp4"] < 0.7 * found["sizes"]["stream.mp4"]
    assert found["trimmed"] == [8, 32, 32, 3]
    assert json.loads(found["metadata"]["workflow"]) == {"a": 1}
    assert json.loads(found["metadata"]["prompt"]) == {"b": 2}


@pytest.mark.parametrize("what", ["frames", "stream", "file"])
def test_a_file_carries_the_graph_that_made_it_or_none(answers: dict[str, Any], what: str) -> None:
    """`file` is a loaded one with a graph of its own, which must not come through."""
    found = answers["graphs"]
    assert found[f"graph, {what}"] == {"workflow": {"new": 1}, "prompt": {"new": 2}}
    assert found[f"headless, {what}"] == {"prompt": {"new": 2}}
    assert found[f"no metadata, {what}"] == {}


def test_a_contact_sheet_does_not_decode_the_video_again(answers: dict[str, Any]) -> None:
    found = answers["contact_sheet"]
    assert found["decoded"] == 1
    assert found["there"]
    files = {key: found["shown"][key][0]["filename"] for key in ("images", "contact_sheet")}
    assert files == {"images": "sheet_00001_.mp4", "contact_sheet": "sheet_00001_.jpg"}


def test_what_compare_shows(answers: dict[str, Any]) -> None:
    found = answers["compare"]
    assert found["decoded"] == 1
    assert found["sizes"] == [[48, 32, 3], [32, 32, 17]]
    left, right = found["shown"]["compare"]
    assert (left["type"], left["label"], left["frames"], left["fps"]) == ("temp", "a", 3, 8.0)
    assert (right["label"], right["frames"], right["fps"]) == ("b", 17, 16.0)
    assert "the left one waits on its last frame" in found["shown"]["note"][-1]


def test_an_interrupt_leaves_no_file(answers: dict[str, Any]) -> None:
    found = answers["interrupted"]
    assert found == {"raised": "InterruptProcessingException", "steps": [1, 2], "left": []}


def test_core_s_vae_decodes_at_once(answers: dict[str, Any]) -> None:
    found = answers["core_s_vae"]
    assert found["type"] == "VideoFromComponents"
    assert found["distance"] < 1e-4


def test_a_small_card_decodes_the_same_frames(answers: dict[str, Any]) -> None:
    """Whole, then with the causal caches in RAM, then in tiles; and as core can where nothing fits."""
    found = {name: value for name, value in answers["small_card"].items() if name != "encode"}
    counts = {name: count for name, (count, _) in found.items()}
    assert counts == {"plenty": None, "caches": 1, "tiles": 2, "nothing": None}
    assert all(distance < 1e-5 for _, distance in found.values())


def test_a_small_card_encodes_with_caches_in_ram_to_the_same_latent(answers: dict[str, Any]) -> None:
    assert answers["small_card"]["encode"] == {"plenty": [None, 0.0], "caches": ["cpu", 0.0]}


def test_a_wrong_latent_is_refused_before_it_is_decoded(answers: dict[str, Any]) -> None:
    other_model, two_videos = answers["refused"]
    assert other_model.startswith("samples: 48 channels, and this VAE decodes 16")
    assert two_videos.startswith("samples: shape (2, 16, 2, 4, 4) is not one video")


def test_both_save_nodes_write_the_frames_of_decode(
    server: ComfyServer, text_to_video: dict[str, Any]
) -> None:
    """In a graph: our Save Video with frames and with the video, and core's with the video."""
    graph = text_to_video
    graph["5"]["inputs"]["frames"] = 5
    graph["6"]["inputs"]["steps"] = 2
    graph["30"] = {
        "class_type": "WanCoreDecodeToVideo",
        "inputs": {"samples": ["6", 0], "vae": ["3", 0], "fps": 16.0},
    }
    graph["31"] = {**graph["8"], "inputs": {**graph["8"]["inputs"], "images": ["30", 0], "fps": 1.0}}
    graph["31"]["inputs"]["contact_sheet"] = "beside the video"
    graph["32"] = {
        "class_type": "SaveVideo",
        "inputs": {"video": ["30", 0], "filename_prefix": "core", "format": "auto", "format.codec": "auto"},
    }
    run = server.run(graph)
    assert run.ok, run.entry["status"]
    files = [server.view(run.outputs[key]["images"][0]) for key in ("8", "31", "32")]
    ours, streamed, core = map(read_mp4, files)
    assert ours.shape == (5, 96, 96, 3)
    assert np.array_equal(ours, streamed)
    assert np.array_equal(ours, core)
    assert "contact_sheet" not in run.outputs["8"]
    with Image.open(io.BytesIO(server.view(run.outputs["31"]["contact_sheet"][0]))) as sheet:
        assert sheet.format == "JPEG"
        assert sheet.width > 3 * 96
    with av.open(io.BytesIO(files[1])) as container:
        assert container.streams.video[0].average_rate == 16, "the video's own rate was not kept"
    progress = run.events("progress_state")
    assert any(
        node["value"] == 2 for event in progress for key, node in event["nodes"].items() if key == "32"
    )
