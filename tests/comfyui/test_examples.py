"""What the example workflows promise: videos that start and end with the pictures, a LoRA that paints.

pytest tests/comfyui/test_examples.py
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wan_core.presets import DISTILLED_4, find_preset
from wan_core.tiny.measure import measure
from wan_core.tiny.scenes import Scene, draw_frame

from .comfy_server import ROOT, RUN_SECONDS, ComfyServer, Run
from .conftest import BUILT_IN, workflow
from .videos import psnr, read_mp4

pytestmark = pytest.mark.comfy

I2V = "wan_tiny_i2v_high_noise.safetensors"
TI2V = "wan_tiny_ti2v.safetensors"
LORA = "wan_tiny_purple_high_noise.safetensors"
NEEDS = {"image_to_video": I2V, "first_last_frame": I2V, "ti2v_image_to_video": TI2V}
FIRST, LAST = "9", "10"  # the nodes that draw the pictures


@pytest.fixture(scope="module")
def run_of(server: ComfyServer) -> Callable[[str], Run]:
    """Runs an example workflow with its pictures saved as files; what ran before comes from core's cache."""
    runs: dict[str, Run] = {}

    def run(name: str) -> Run:
        if name not in runs:
            graph = workflow(name)
            for node in {FIRST, LAST} & set(graph):
                graph[f"saved {node}"] = {
                    "class_type": "SaveImage",
                    "inputs": {"images": [node, 0], "filename_prefix": "picture"},
                }
            runs[name] = server.run(graph)
            assert runs[name].ok, runs[name].entry["status"]
        return runs[name]

    return run


@pytest.mark.parametrize("name", NEEDS)
def test_the_video_starts_with_the_picture(
    server: ComfyServer, run_of: Callable[[str], Run], frames_of: Callable[[Run], np.ndarray], name: str
) -> None:
    trained(NEEDS[name])
    run = run_of(name)
    assert psnr(frames_of(run)[0], picture(server, run, FIRST)) >= 25  # the mp4 takes its share


def test_the_video_ends_with_the_picture(
    server: ComfyServer, run_of: Callable[[str], Run], frames_of: Callable[[Run], np.ndarray]
) -> None:
    trained(I2V)
    run = run_of("first_last_frame")
    assert psnr(frames_of(run)[-1], picture(server, run, LAST)) >= 22


def test_the_picture_moves_as_the_prompt_says(
    run_of: Callable[[str], Run], frames_of: Callable[[Run], np.ndarray]
) -> None:
    trained(I2V)
    seen = measure(frames_of(run_of("image_to_video")))
    assert (seen.colour, seen.shape, seen.motion) == ("red", "circle", "right")


@pytest.mark.parametrize(("strength", "colour"), [(1.0, "purple"), (0.0, "red")])
def test_the_lora_paints(
    server: ComfyServer, frames_of: Callable[[Run], np.ndarray], strength: float, colour: str
) -> None:
    trained(LORA)
    graph = workflow("lora")
    graph["9"]["inputs"] |= {"strength_high": strength, "strength_low": strength}
    seen = measure(frames_of(server.run(graph)))
    assert (seen.colour, seen.shape, seen.motion) == (colour, "circle", "right")


def test_four_steps_of_a_lora_give_its_colour_and_the_motion(
    server: ComfyServer, frames_of: Callable[[Run], np.ndarray]
) -> None:
    trained(LORA)
    graph = workflow("lora_4_steps")
    preset = find_preset("t2v", DISTILLED_4)
    sampler = graph["6"]["inputs"]
    assert (sampler["steps"], sampler["shift"], sampler["boundary"], sampler["scheduler"]) == (
        *(preset.steps, preset.shift, preset.boundary),
        preset.scheduler,
    )
    assert (sampler["cfg_high"], sampler["cfg_low"]) == (
        preset.guidance_scale_high,
        preset.guidance_scale_low,
    )
    seen = measure(frames_of(server.run(graph)))  # its outline is rough: the built-in model was not distilled
    assert (seen.colour, seen.motion) == ("purple", "right")


@pytest.mark.parametrize(("name", "task"), [("image_to_video", "i2v"), ("ti2v_image_to_video", "ti2v")])
def test_the_command_line_makes_the_same_video(
    server: ComfyServer,
    frames_of: Callable[[Run], np.ndarray],
    weights: Path,
    tmp_path: Path,
    name: str,
    task: str,
) -> None:
    """From a file, with ComfyUI's Load Image in the place of Example Image."""
    graph = workflow(name)
    start = server.base / "input" / "start.png"
    start.parent.mkdir(exist_ok=True)
    scene = Scene("blue", "star", "up", "graded light", "warm")
    Image.fromarray((draw_frame(scene, 0.0) * 255).round().astype(np.uint8)).save(start)
    graph[FIRST] = {"class_type": "LoadImage", "inputs": {"image": start.name}}
    graph["6"]["inputs"]["steps"] = 6
    size, sampler = graph["5"]["inputs"], graph["6"]["inputs"]
    command = [sys.executable, "-m", "wan_core", "generate", graph["4"]["inputs"]["positive"]]
    command += ["--model", str(weights), "--task", task, "--image", str(start)]
    command += ["--seed", str(sampler["seed"]), "--steps", str(sampler["steps"])]
    for field in ("width", "height", "frames"):
        command += [f"--{field}", str(size[field])]
    command += ["--out", str(tmp_path / "out.mp4")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=RUN_SECONDS)
    # The two may run on different versions of torch.
    assert psnr(frames_of(server.run(graph)), read_mp4((tmp_path / "out.mp4").read_bytes())) >= 40


def test_the_loader_reports_what_it_found(server: ComfyServer) -> None:
    for name, lines in {
        "image_to_video": ("Wan2.2 I2V-A14B", f"{I2V} (chosen)", "(found by its name)", "Wan2.1 VAE"),
        "ti2v_text_to_video": ("Wan2.2 TI2V-5B", f"{TI2V} (chosen)", "one network", "Wan2.2 VAE", "32"),
    }.items():
        loader = workflow(name)["1"]
        shown = {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}}
        run = server.run({"1": loader, "50": shown})
        (report,) = run.outputs["50"]["text"]
        assert all(line in report for line in lines), report
        assert str(server.base) not in report


def trained(name: str) -> None:
    if not list(BUILT_IN.glob(f"*/{name}")):
        pytest.skip(f"{name} has not been trained yet")


def picture(server: ComfyServer, run: Run, node: str) -> np.ndarray:
    """A picture (H, W, 3), uint8, of a run."""
    (shown,) = run.outputs[f"saved {node}"]["images"]
    return np.asarray(Image.open(io.BytesIO(server.view(shown))).convert("RGB"))
