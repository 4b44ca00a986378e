"""Each example workflow exists twice, for the canvas and for the API, and the two say the same.

pytest tests/comfyui/test_workflows.py
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .comfy_server import ROOT, ComfyServer

WORKFLOWS = ROOT / "example_workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))


def test_there_is_one_for_every_task() -> None:
    assert {
        *("text_to_video", "image_to_video", "first_last_frame"),
        *("ti2v_text_to_video", "ti2v_image_to_video", "lora", "lora_4_steps"),
        "aesthetic_sweep",
    } <= set(NAMES)
    assert sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_thumbnail(name: str) -> None:
    with Image.open(WORKFLOWS / f"{name}.jpg") as picture:  # only .jpg is asked for
        assert picture.format == "JPEG"
        assert min(picture.size) >= 96


@pytest.mark.parametrize("name", NAMES)
def test_no_node_covers_another(name: str) -> None:
    nodes = json.loads((WORKFLOWS / f"{name}.json").read_text())["nodes"]
    title = 30
    boxes = {  # left, top, right, bottom
        node["id"]: (x, y - title, x + width, y + height)
        for node in nodes
        for (x, y), (width, height) in [(node["pos"], node["size"])]
    }
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{one} and {other} overlap"


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_beside_the_sidebar_and_below_the_run_panel(name: str) -> None:
    """As the file says, which the template browser does by itself: on a screen of 1920 x 1080."""
    graph = json.loads((WORKFLOWS / f"{name}.json").read_text())
    scale, (x, y) = graph["extra"]["ds"]["scale"], graph["extra"]["ds"]["offset"]
    assert scale >= 8 / 14  # smaller letters are left out on the classic canvas
    nodes = [(node["pos"], node["size"]) for node in graph["nodes"]]
    assert min(left + x for (left, _), _ in nodes) * scale >= 70
    assert min(top - 30 + y for (_, top), _ in nodes) * scale >= 100
    assert max(left + width + x for (left, _), (width, _) in nodes) * scale <= 1900
    # the second look's lower half may be further down
    lowest = max(top + height + y for (_, top), (_, height) in nodes) * scale
    assert lowest <= 1070 or name == "aesthetic_sweep"


@pytest.mark.parametrize("name", NAMES)
def test_the_loaders_and_the_note_link_to_the_real_files(name: str) -> None:
    nodes = json.loads((WORKFLOWS / f"{name}.json").read_text())["nodes"]
    (note,) = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    folders = {
        "WanCoreLoadModel": "diffusion_models",
        "WanCoreLoadTextEncoder": "text_encoders",
        "WanCoreLoadVAE": "vae",
    }
    linked = 0
    for node in nodes:
        for file in node["properties"].get("models", []):
            assert set(file) == {"name", "url", "directory"}
            assert file["directory"] == folders.get(node["type"], "loras")
            assert file["url"].startswith("https://huggingface.co/Comfy-Org/Wan_2.")
            assert file["url"].endswith(f"/split_files/{file['directory']}/{file['name']}")
            assert file["url"] in note
            linked += 1
        assert node["type"] not in folders or node["properties"]["models"]
    assert linked >= len(folders)


@pytest.mark.comfy
@pytest.mark.parametrize("name", NAMES)
def test_the_twins_agree(server: ComfyServer, name: str) -> None:
    canvas = json.loads((WORKFLOWS / f"{name}.json").read_text())
    api = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())
    nodes = server.get("/object_info")
    assert prompt_of(canvas, nodes) == {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in api.items()
    }
    assert all(node["_meta"]["title"] for node in api.values())


def prompt_of(canvas: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What the front end would queue for a flat graph: widgets by position, links by their number."""
    links = {link[0]: [str(link[1]), link[2]] for link in canvas["links"]}
    prompt = {}
    for node in canvas["nodes"]:
        if node["type"] not in known:
            continue  # a note
        values = iter(node["widgets_values"])
        groups = known[node["type"]]["input"]
        spec = groups.get("required", {}) | groups.get("optional", {})
        inputs = {}
        for socket in node["inputs"]:
            name = socket["name"]
            if "widget" not in socket:
                inputs[name] = links.get(socket["link"])
                continue
            value = next(values)
            inputs[name] = links.get(socket["link"], value)  # a link hides the value, which stays
            if spec[name][1].get("control_after_generate"):
                next(values)
        assert list(inputs) == list(spec), f"{node['type']} misses an input or has one too many"
        assert list(values) == [], f"{node['type']} has a widget value too many"
        connected = {name: value for name, value in inputs.items() if value is not None}
        assert set(groups["required"]) <= set(connected), f"{node['type']} has a loose socket"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": connected}
    return prompt


def test_the_tree_holds_only_what_comfyui_lists() -> None:
    """ComfyUI offers every top-level .json as a template, so only canvas graphs may lie there."""
    for path in WORKFLOWS.glob("*.json"):
        assert "nodes" in json.loads(path.read_text()), f"{path.name} is no canvas graph"
    assert {path.suffix for path in Path(WORKFLOWS).iterdir() if path.is_file()} <= {".json", ".jpg"}
