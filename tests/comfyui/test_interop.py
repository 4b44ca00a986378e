"""Core's nodes in the places of ours, and ours in theirs.

pytest tests/comfyui/test_interop.py
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .comfy_server import ROOT, ComfyServer, Run, comfyui_python, last_answer
from .toy_weights import write_wide_weights

pytestmark = pytest.mark.comfy

SCRIPT = Path(__file__).parent / "inside_images.py"


def test_core_decodes_our_latent_as_we_do(server: ComfyServer, text_to_video: dict[str, Any]) -> None:
    graph = text_to_video
    graph["30"] = node("VAELoader", vae_name="wan_tiny_vae.safetensors")
    graph["31"] = node("VAEDecode", samples=["6", 0], vae=["30", 0])
    graph["32"] = node("WanCoreDecode", samples=["6", 0], vae=["30", 0])
    graph |= {"40": saved("7"), "41": saved("31"), "42": saved("32")}
    run = server.run(graph)
    ours, core, ours_with_core_vae = (pictures(server, run, key) for key in ("40", "41", "42"))
    assert ours.shape == (17, 96, 96, 3)
    assert largest_step(ours, core) <= 1
    assert largest_step(ours, ours_with_core_vae) <= 1


def test_core_samples_from_our_conditioning_and_we_decode_it(
    server: ComfyServer, text_to_video: dict[str, Any]
) -> None:
    write_wide_weights(server.base / "models")
    graph = text_to_video
    graph["2"]["inputs"]["text_encoder_name"] = "wide_umt5.safetensors"
    graph["30"] = node("UNETLoader", unet_name="wide_t2v_high_noise.safetensors", weight_dtype="default")
    graph["31"] = node("ModelSamplingSD3", model=["30", 0], shift=8.0)
    graph["32"] = node(
        "KSampler",
        model=["31", 0],
        positive=["4", 0],
        negative=["4", 1],
        latent_image=["5", 0],
        seed=3,
        steps=2,
        cfg=2.0,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )
    graph["33"] = node("VAELoader", vae_name="wan_tiny_vae.safetensors")
    graph["34"] = node("VAEDecode", samples=["32", 0], vae=["33", 0])
    graph["7"]["inputs"]["samples"] = ["32", 0]
    del graph["8"]
    graph |= {"40": saved("7"), "41": saved("34")}
    run = server.run(graph)
    assert largest_step(pictures(server, run, "40"), pictures(server, run, "41")) <= 1


def test_core_says_the_size(server: ComfyServer, text_to_video: dict[str, Any]) -> None:
    graph = text_to_video
    graph["30"] = node("EmptyHunyuanLatentVideo", width=96, height=96, length=17, batch_size=1)
    graph["31"] = {**graph["6"], "inputs": {**graph["6"]["inputs"], "latent": ["30", 0]}}
    graph["32"] = node("WanCoreDecode", samples=["31", 0], vae=["3", 0])
    graph |= {"40": saved("7"), "41": saved("32")}
    run = server.run(graph)
    assert largest_step(pictures(server, run, "40"), pictures(server, run, "41")) == 0


def test_core_takes_our_video_and_our_frames(server: ComfyServer, text_to_video: dict[str, Any]) -> None:
    graph = text_to_video
    graph["30"] = node("GetVideoComponents", video=["8", 0])
    graph["31"] = node("CreateVideo", images=["7", 0], fps=16.0)
    graph["32"] = {
        "class_type": "SaveVideo",
        "inputs": {"video": ["31", 0], "filename_prefix": "core", "format": "mp4", "format.codec": "h264"},
    }
    graph |= {"40": saved("7"), "41": saved("30")}
    run = server.run(graph)
    ours, read_back = pictures(server, run, "40"), pictures(server, run, "41")
    assert ours.shape == read_back.shape
    assert run.outputs["32"]["images"][0]["filename"].startswith("core")


@pytest.fixture(scope="module")
def pictures_apart(comfyui: Path, weights: Path) -> dict[str, Any]:
    """What inside_images.py found, by question."""
    command = [comfyui_python(comfyui), str(SCRIPT), str(comfyui), str(ROOT), str(weights)]
    return last_answer(command, comfyui)


@pytest.mark.parametrize("given", ["start", "start and end"])
def test_image_to_video_is_as_core_has_it(pictures_apart: dict[str, Any], given: str) -> None:
    """WanImageToVideo, WanFirstLastFrameToVideo and core's sampler, for Image to Video and our Sampler."""
    found = pictures_apart["image_to_video"][given]
    assert found["mask"] == 0
    assert found["latent"] < 1e-5
    assert found["with core's VAE"] < 1e-5
    assert found["what core's model reads"] < 1e-6
    assert found["our sampler"] < 1e-4
    # Core tells the network the exact timestep, the released code and ours a whole number.
    assert found["core's sampler"] < 0.05


def test_ti2v_is_as_core_has_it(pictures_apart: dict[str, Any]) -> None:
    """Wan22ImageToVideoLatent and core's sampler, for Image to Video and our Sampler."""
    found = pictures_apart["text_and_image_to_video"]
    assert found["mask"] == 0
    assert found["latent"] < 1e-5
    assert found["our sampler"] < 1e-4
    assert found["core's sampler"] < 0.05
    assert found["first latent frame"] < 1e-6, "the picture was not kept"


def node(class_type: str, **inputs: object) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": class_type}}


def saved(source: str) -> dict[str, Any]:
    """Core's node that writes each frame as a PNG."""
    return node("SaveImage", images=[source, 0], filename_prefix="frame")


def pictures(server: ComfyServer, run: Run, key: str) -> np.ndarray:
    """The frames (F, H, W, 3), uint8, that a `saved` node wrote."""
    assert run.ok, run.entry["status"]
    files = (server.view(shown) for shown in run.outputs[key]["images"])
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files])


def largest_step(ours: np.ndarray, theirs: np.ndarray) -> int:
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())
