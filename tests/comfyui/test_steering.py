"""What the nodes make of what they are given: any size becomes one that there is, a text is encoded once.

pytest tests/comfyui/test_steering.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .comfy_server import ComfyServer, Run

pytestmark = pytest.mark.comfy

BECAME = "105 x 90, 7 frames became 112 x 96, 9 frames: Wan2.2 {} takes multiples of 16 and 4n+1 frames"


def test_any_size_becomes_the_nearest_and_the_node_says_so(
    server: ComfyServer, text_to_video: dict[str, Any], frames_of: Callable[[Run], np.ndarray]
) -> None:
    text_to_video["5"]["inputs"] |= {"width": 105, "height": 90, "frames": 7}
    text_to_video["6"]["inputs"] |= {"steps": 1, "seed": 31}
    run = server.run(text_to_video)
    assert frames_of(run).shape == (9, 96, 112, 3)
    assert ("5", BECAME.format("T2V-A14B")) in run.texts
    assert BECAME.format("T2V-A14B") in server.log_text()


def test_a_picture_is_cut_to_the_nearest_size(
    server: ComfyServer, image_to_video: dict[str, Any], frames_of: Callable[[Run], np.ndarray]
) -> None:
    image_to_video["20"] = {"class_type": "PrimitiveInt", "inputs": {"value": 105}}
    image_to_video["5"]["inputs"] |= {
        "size": "exactly width x height",
        "width": ["20", 0],
        "height": 90,
        "frames": 7,
    }
    image_to_video["6"]["inputs"] |= {"steps": 1, "seed": 31}
    run = server.run(image_to_video)
    assert frames_of(run).shape == (9, 96, 112, 3)
    assert ("5", BECAME.format("I2V-A14B")) in run.texts


def test_two_nodes_and_two_seeds_ask_the_encoder_for_what_is_new(
    server: ComfyServer, text_to_video: dict[str, Any]
) -> None:
    """Each time the encoder runs, the node has said what that takes."""
    other = {"class_type": "WanCoreTextEncode", "inputs": dict(text_to_video["4"]["inputs"])}
    text_to_video["4"]["inputs"] |= {"positive": "a violet circle", "negative": "a violet square"}
    other["inputs"] |= {"positive": "a violet triangle", "negative": " a violet  square "}
    second = {"class_type": "WanCoreSampler", "inputs": dict(text_to_video["6"]["inputs"])}
    second["inputs"] |= {"positive": ["24", 0], "negative": ["24", 1]}
    sink = {"class_type": "WanCoreSaveVideo", "inputs": dict(text_to_video["8"]["inputs"])}
    decode = {"class_type": "WanCoreDecode", "inputs": dict(text_to_video["7"]["inputs"])}
    sink["inputs"]["images"], decode["inputs"]["samples"] = ["27", 0], ["26", 0]
    text_to_video |= {"24": other, "26": second, "27": decode, "28": sink}
    assert sorted(encodings(first := run_with_seed(server, text_to_video, 41))) in (
        ["24", "24", "4"],
        ["24", "4", "4"],
    )
    assert first.ok
    assert encodings(run_with_seed(server, text_to_video, 42)) == []
    text_to_video["4"]["inputs"]["positive"] = "a violet star"
    assert encodings(run_with_seed(server, text_to_video, 42)) == ["4"]


def run_with_seed(server: ComfyServer, graph: dict[str, Any], seed: int) -> Run:
    """One step by each Sampler."""
    for node in ("6", "26"):
        graph[node]["inputs"] |= {"steps": 1, "seed": seed}
    run = server.run(graph)
    assert run.ok, run.entry["status"]
    return run


def encodings(run: Run) -> list[str]:
    """The nodes that had the encoder work, once for each time."""
    return [node for node, text in run.texts if text.startswith("loading the text encoder")]
