"""Bad input is refused before any sampling, with one line that says what to do.

pytest tests/comfyui/test_bad_input.py
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from .comfy_server import ComfyServer, RejectedError

pytestmark = pytest.mark.comfy

HIGH, LOW = "wan_tiny_t2v_high_noise.safetensors", "wan_tiny_t2v_low_noise.safetensors"
AUTO = "auto (partner of the high-noise file)"
LONG = "a red circle moves left " * 200


@pytest.fixture(scope="module")
def models(server: ComfyServer, weights: Path) -> Path:
    """ComfyUI's models folder, with some files in it that nobody should load."""
    models = server.base / "models"
    experts = models / "diffusion_models"
    high = (weights / "diffusion_models" / HIGH).read_bytes()
    (experts / "cut_high_noise.safetensors").write_bytes(high[: len(high) // 2])
    (experts / "page_high_noise.safetensors").write_bytes(b"<!DOCTYPE html><html>log in first</html>")
    (experts / "lonely_high_noise.safetensors").write_bytes(high)
    (experts / "copy_of_the_same.safetensors").write_bytes(high)
    shutil.copy(weights / "vae" / "wan_tiny_vae.safetensors", experts / "really_a_vae.safetensors")
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(4, 4)}, experts / "flux.safetensors")
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(4, 4)}, models / "vae" / "flux.safetensors")
    return models


# (node, its input, the bad value, what the line must say)
CASES = [
    ("5", "frames", 0, "Value 0 smaller than min of 1: frames"),
    ("5", "frames", math.nan, "frames"),
    ("5", "height", 8, "8 smaller than min of 16: height"),
    ("5", "height", 100_000, "100000 bigger than max of 4096: height"),
    ("6", "shift", math.nan, "Value nan smaller than min of 0.001: shift"),
    ("6", "shift", math.inf, "Value inf bigger than max of 1000.0: shift"),
    ("6", "shift", -3.0, "Value -3.0 smaller than min of 0.001: shift"),
    ("6", "boundary", math.nan, "Value nan smaller than min of 0.0: boundary"),
    ("6", "boundary", 875.0, "Value 875.0 bigger than max of 1.0: boundary"),
    ("6", "cfg_high", math.nan, "Value nan smaller than min of 0.0: cfg_high"),
    ("6", "cfg_low", 1e9, "Value 1000000000.0 bigger than max of 100.0: cfg_low"),
    ("6", "steps", 0, "Value 0 smaller than min of 1: steps"),
    ("6", "steps", math.inf, "steps"),
    ("6", "seed", -1, "Value -1 smaller than min of 0: seed"),
    ("6", "scheduler", "magic", "scheduler: 'magic' not in"),
    ("8", "fps", math.nan, "Value nan smaller than min of 0.01: fps"),
    ("4", "positive", "", "positive: it is empty; say what the video should show"),
    ("4", "positive", " \n ", "positive: it is empty; say what the video should show"),
    ("4", "positive", LONG, "tokens, and 512 fit; shorten it"),
    ("4", "negative", LONG, "negative: the prompt has"),
    ("1", "high_noise_model", "gone.safetensors", "'gone.safetensors' not in"),
    ("1", "high_noise_model", "cut_high_noise.safetensors", "the download was cut short; download it again"),
    ("1", "high_noise_model", "page_high_noise.safetensors", "is a web page"),
    ("1", "high_noise_model", "flux.safetensors", "flux.safetensors"),
    ("1", "high_noise_model", "really_a_vae.safetensors", "is a Wan2.1 VAE, but the high-noise slot needs"),
    ("1", "low_noise_model", HIGH, "hold the same weights"),
    ("1", "low_noise_model", "copy_of_the_same.safetensors", "hold the same weights"),
    ("3", "vae_name", "flux.safetensors", "flux.safetensors"),
]


@pytest.mark.parametrize(("node", "field", "value", "says"), CASES, ids=lambda value: str(value)[:40])
def test_it_is_refused_in_one_line(
    server: ComfyServer,
    models: Path,
    text_to_video: dict[str, Any],
    node: str,
    field: str,
    value: object,
    says: str,
) -> None:
    text_to_video[node]["inputs"][field] = value
    if field == "high_noise_model":
        text_to_video["1"]["inputs"]["low_noise_model"] = LOW
    assert says in complaint(server, text_to_video)


EXACTLY = "exactly width x height"
TI2V, VAE_2_2 = "wan_tiny_ti2v.safetensors", "wan_tiny_vae_2_2.safetensors"
# (what is changed in the graph of image_to_video, by node and input; what the line must say)
PICTURES = [
    ({"6": {"positive": ["4", 0]}}, "positive: carries no picture, and Wan2.2 I2V-A14B animates one"),
    ({"6": {"negative": ["4", 1]}}, "negative: carries no picture"),
    (
        {"1": {"high_noise_model": HIGH}},
        "positive: carries a picture for I2V-A14B, and the model is Wan2.2 T2V",
    ),
    ({"1": {"high_noise_model": TI2V}}, "latent: shape (1, 16, 5, 12, 12) is not (1, 48, frames"),
    ({"1": {"low_noise_model": LOW}}, "is a Wan transformer for text to video, but the low-noise slot needs"),
    ({"1": {"high_noise_model": TI2V, "low_noise_model": LOW}}, "is a whole model and has no partner"),
    ({"3": {"vae_name": VAE_2_2}}, "latent: shape (1, 48, 5, 6, 6) is not (1, 16, frames"),
    (
        {"3": {"vae_name": VAE_2_2}, "5": {"end_image": ["9", 0]}},
        "end image: Wan2.2 TI2V-5B knows no end image",
    ),
    ({"5": {"start_image": None}}, "image: Wan2.2 I2V-A14B needs a start image, an end image or both"),
    ({"5": {"start_image": ["20", 0]}}, "start_image: 2 pictures; choose one"),
    ({"5": {"end_image": ["9", 0], "frames": 1}}, "end image: a video of 1 frame has no other end"),
    ({"6": {"latent": ["21", 0]}}, "positive: its picture was prepared for a latent of 5 x 12 x 12"),
    ({"7": {"vae": ["22", 0]}}, "samples: 16 channels, and this VAE decodes 48"),
]


@pytest.mark.parametrize(("changes", "says"), PICTURES, ids=lambda value: str(value)[:60])
def test_pictures_are_refused_in_one_line(
    server: ComfyServer, image_to_video: dict[str, Any], changes: dict[str, dict[str, Any]], says: str
) -> None:
    graph = image_to_video
    graph["20"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["9", 0], "amount": 2}}
    graph["21"] = {
        "class_type": "WanCoreEmptyVideoLatent",
        "inputs": {"width": 96, "height": 96, "frames": 5},  # without `model`, as in graphs saved before it
    }
    graph["22"] = {"class_type": "WanCoreLoadVAE", "inputs": {"vae_name": VAE_2_2}}
    for node, inputs in changes.items():
        graph[node]["inputs"] |= inputs
    graph["5"]["inputs"] = {name: value for name, value in graph["5"]["inputs"].items() if value is not None}
    graph["6"]["inputs"]["steps"] = 1
    assert says in complaint(server, graph, sampled_first="7" in changes)


def test_a_file_without_a_partner(server: ComfyServer, models: Path, text_to_video: dict[str, Any]) -> None:
    text_to_video["1"]["inputs"]["high_noise_model"] = "lonely_high_noise.safetensors"
    assert "no file is named like lonely_high_noise" in complaint(server, text_to_video)


def test_the_low_noise_file_in_the_high_noise_slot(
    server: ComfyServer, text_to_video: dict[str, Any]
) -> None:
    text_to_video["1"]["inputs"]["high_noise_model"] = LOW
    assert "is the low-noise expert by its name" in complaint(server, text_to_video)


def test_swapped_experts(server: ComfyServer, text_to_video: dict[str, Any]) -> None:
    text_to_video["1"]["inputs"] |= {"high_noise_model": LOW, "low_noise_model": HIGH}
    assert "look swapped by their names; exchange the two files" in complaint(server, text_to_video)


def test_a_part_of_a_video_is_refused(server: ComfyServer, text_to_video: dict[str, Any]) -> None:
    mask = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 96, "height": 96}}
    masked = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["5", 0], "mask": ["22", 0]}}
    text_to_video |= {"22": mask, "23": masked}
    text_to_video["6"]["inputs"]["latent"] = ["23", 0]
    assert "latent: it has a mask" in complaint(server, text_to_video)


def test_numbers_through_links_are_checked_too(server: ComfyServer, text_to_video: dict[str, Any]) -> None:
    """Core knows a linked value only when the node runs, after its own checks."""
    text_to_video["20"] = {"class_type": "PrimitiveInt", "inputs": {"value": 1026}}
    text_to_video["5"]["inputs"]["frames"] = ["20", 0]
    assert "frames: 1026 is out of range; give a whole number" in complaint(server, text_to_video)


def test_a_video_is_no_empty_latent(server: ComfyServer, text_to_video: dict[str, Any]) -> None:
    again = {**text_to_video["6"], "inputs": {**text_to_video["6"]["inputs"], "latent": ["6", 0], "seed": 1}}
    text_to_video["21"] = again
    text_to_video["7"]["inputs"]["samples"] = ["21", 0]
    assert "latent: it holds a video already" in complaint(server, text_to_video, sampled_first=True)


def complaint(server: ComfyServer, graph: dict[str, Any], sampled_first: bool = False) -> str:
    """The one line with which a graph is refused, when it is queued or when it runs."""
    sampled: list[Any] = []
    try:
        run = server.run(graph, watch(sampled))
    except RejectedError as rejected:
        (line,) = rejected.lines
    else:
        assert not run.ok, "it was not refused"
        line = run.error
        assert sampled_first or not sampled, "it was refused only after sampling had begun"
    assert "\n" not in line
    assert len(line) < 400 or "not in [" in line  # core names every file of the list
    return line


def watch(sampled: list[Any]) -> Callable[[dict[str, Any]], None]:
    """Notes the Sampler's progress."""

    def on_message(message: dict[str, Any]) -> None:
        if message["type"] == "progress" and message["data"]["node"] == "6":
            sampled.append(message)

    return on_message
