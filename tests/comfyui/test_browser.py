"""The example workflows in the real front end: they open without a missing node, run, and show the video.

pytest tests/comfyui/test_browser.py --basetemp=out/browser     (keeps the screenshot)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .comfy_server import ROOT, ComfyServer
from .conftest import workflow

pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]

WORKFLOWS = ROOT / "example_workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
# So that no dialog covers the canvas.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "1.49.6"}
# A node without widgets saves none; one that shows a line of text saves an empty list, which is the same.
WIDGET_VALUES = "app.graph.serialize().nodes.map(n => [n.id, n.widgets_values ?? []])"
TOLERATED = ("404", "ERR_NAME_NOT_RESOLVED", "Failed to load resource")


@pytest.fixture(scope="module")
def page(server: ComfyServer) -> Iterator[Any]:
    """A page of the front end with the app ready."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    for name, value in SETTINGS.items():
        server.post(f"/api/settings/{name}", value)
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        page.errors = []
        page.on("console", lambda message: _note(page.errors, message))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(server.url)
        ready = "!!window.app?.extensionManager && 'WanCoreSampler' in LiteGraph.registered_node_types"
        page.wait_for_function(ready, timeout=120_000)
        page.wait_for_timeout(1500)
        page.errors.clear()  # the front end has some of its own while it starts
        yield page
        browser.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_workflow_opens_and_says_what_its_twin_says(
    page: Any, server: ComfyServer, name: str, tmp_path: Path
) -> None:
    open_workflow(page, name)
    page.wait_for_timeout(1500)
    page.screenshot(path=str(tmp_path / "opened.png"))
    known = "n.type in LiteGraph.registered_node_types && !n.has_errors"
    missing = page.evaluate(f"app.graph.nodes.filter(n => !({known})).map(n => n.type)")
    assert missing == []
    exported = page.evaluate("app.graphToPrompt().then(p => p.output)")
    assert {key: _plain(node) for key, node in exported.items()} == {
        key: _plain(node) for key, node in workflow(name).items()
    }


@pytest.mark.parametrize("name", ["text_to_video", "first_last_frame"])
def test_it_runs_and_shows_the_video(page: Any, name: str, tmp_path: Path) -> None:
    open_workflow(page, name)
    before = page.evaluate(WIDGET_VALUES)
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function("Object.keys(app.nodeOutputs).includes('8')", timeout=300_000)
    page.wait_for_timeout(3000)
    page.screenshot(path=str(tmp_path / "ran.png"))
    shown = page.evaluate("app.nodeOutputs['8']")
    assert shown["images"][0]["filename"].endswith(".mp4")
    assert page.errors == []
    # Pictures and lines of text on the nodes are no widgets to save.
    assert page.evaluate(WIDGET_VALUES) == before


def open_workflow(page: Any, name: str) -> None:
    canvas = json.loads((WORKFLOWS / f"{name}.json").read_text())
    page.evaluate("([canvas, name]) => app.loadGraphData(canvas, true, true, name)", [canvas, name])


def _plain(node: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return node["class_type"], node["inputs"]


def _note(errors: list[str], message: Any) -> None:
    if message.type == "error" and not any(word in message.text for word in TOLERATED):
        errors.append(message.text)
