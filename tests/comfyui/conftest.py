"""Fixtures for the tests against a real ComfyUI; they skip, with the reason, where there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .canvas import CLASSIC, NODES_2, Canvas, find_chromium, open_browser
from .comfy_server import ROOT, ComfyServer, Run, comfyui_python, find_comfyui
from .toy_weights import write_toy_weights
from .videos import read_mp4

BUILT_IN = ROOT / "wan_core" / "tiny" / "weights"
WORKFLOWS = ROOT / "example_workflows"


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The ComfyUI folder."""
    found = find_comfyui()
    if found is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH to its folder, or install it in ~/comfy/ComfyUI")
    python = comfyui_python(found)
    if subprocess.run(
        [python, "-c", "import ftfy, sentencepiece"], check=False, capture_output=True
    ).returncode:
        pytest.skip(f"ComfyUI lacks this pack's packages: {python} -m pip install -r requirements.txt")
    return found


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built-in models, with random ones of their layout for those not trained yet."""
    folder = tmp_path_factory.mktemp("weights")
    toys = write_toy_weights(folder)
    if all((BUILT_IN / toy).is_file() for toy in toys):
        return BUILT_IN
    shutil.copytree(BUILT_IN, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def server(comfyui: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running ComfyUI with the pack installed."""
    running = ComfyServer(comfyui, tmp_path_factory.mktemp("comfyui"))
    if weights != BUILT_IN:
        shutil.copytree(weights, running.base / "models", dirs_exist_ok=True)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with open_browser(playwright, chromium) as opened:
        yield opened


@pytest.fixture(scope="session", params=[CLASSIC, NODES_2])
def canvas(request: pytest.FixtureRequest, browser: Any, server: ComfyServer) -> Iterator[Canvas]:
    """A page of the front end, in each of its two renderers."""
    page = browser.new_page(viewport={"width": 1920, "height": 1080})
    opened = Canvas(page, request.param)
    opened.open(server)
    yield opened
    page.close()


@pytest.fixture
def text_to_video() -> dict[str, Any]:
    """A fresh copy of the example workflow, API format."""
    return workflow("text_to_video")


@pytest.fixture
def image_to_video() -> dict[str, Any]:
    """The same for a start image."""
    return workflow("image_to_video")


def workflow(name: str) -> dict[str, Any]:
    """A fresh copy of an example workflow, API format."""
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def frames_of(server: ComfyServer) -> Callable[[Run], np.ndarray]:
    """Fetches the video of a run's Save Video node: frames (F, H, W, 3), uint8."""

    def fetch(run: Run) -> np.ndarray:
        assert run.ok, run.entry["status"]
        return read_mp4(server.view(run.outputs["8"]["images"][0]))

    return fetch
