"""The pack in a real ComfyUI: it loads, and its nodes look as they always did.

pytest tests/comfyui/test_server.py
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from .comfy_server import ROOT, ComfyServer

pytestmark = pytest.mark.comfy

SURFACE = Path(__file__).parent / "surface.json"
# Their lists are the files that happen to be there.
FILE_INPUTS = (
    *("high_noise_model", "low_noise_model", "text_encoder_name", "vae_name"),
    *("lora_name", "partner"),
)

ADVANCED = {
    ("WanCoreExpertPlan", "boundary"),
    ("WanCoreExpertPlan", "scheduler"),
    ("WanCoreLoadLora", "partner"),
    ("WanCoreLoadModel", "weight_dtype"),
    ("WanCoreLoadVAE", "precision"),
    ("WanCoreSampler", "boundary"),
    ("WanCoreSampler", "cfg_steps"),
    ("WanCoreSampler", "preview"),
    ("WanCoreSampler", "scheduler"),
    ("WanCoreSaveVideo", "contact_sheet"),
    ("WanCoreSpeed", "fp8_matmul"),
    ("WanCoreSpeed", "residual"),
}


def test_the_pack_is_imported_without_complaint(server: ComfyServer) -> None:
    # ComfyUI goes on without a pack that fails and exits with 0, so its log is the only witness.
    log = server.log_text()
    assert "IMPORT FAILED" not in log
    assert "Error while calling comfy_entrypoint" not in log
    assert "wancore" in log


def test_the_surface_is_as_recorded(server: ComfyServer, tmp_path: Path) -> None:
    """Saved graphs hold widget values by position: inputs may be appended, never moved or renamed."""
    surface = {name: surface_of(node) for name, node in our_nodes(server).items()}
    found = tmp_path / "surface.json"
    found.write_text(json.dumps(surface, indent=2) + "\n")
    assert surface == json.loads(SURFACE.read_text()), f"if this is meant, copy {found} over {SURFACE}"


def test_every_node_explains_itself(server: ComfyServer) -> None:
    for name, node in our_nodes(server).items():
        assert name.startswith("WanCore")
        assert node["category"] == "WanCore"
        assert node["display_name"].endswith("(WanCore)")
        assert node["description"]
        inputs = node["input"].get("required", {}) | node["input"].get("optional", {})
        for field, spec in inputs.items():
            assert spec[1].get("tooltip"), f"{name}.{field} has no tooltip"
        assert all(node["output_tooltips"]), f"{name} has an output without a tooltip"
        help_page = server.get_bytes(f"/extensions/wancore/docs/{name}.md").decode()
        for field in inputs:
            assert field in help_page, f"the help page of {name} does not mention {field}"


def test_what_a_first_user_need_not_see_is_folded_away(server: ComfyServer) -> None:
    """Nodes 2.0 shows these on demand. The numbers everybody sets are never among them."""
    found = {
        (name, field)
        for name, node in our_nodes(server).items()
        for field, spec in (node["input"].get("required", {}) | node["input"].get("optional", {})).items()
        if spec[1].get("advanced")
    }
    assert found >= ADVANCED
    always = {"positive", "negative", "steps", "cfg_high", "cfg_low", "seed", "width", "height", "frames"}
    assert not always & {field for _, field in found}


def test_every_number_has_finite_limits(server: ComfyServer) -> None:
    for name, node in our_nodes(server).items():
        for field, spec in node["input"].get("required", {}).items():
            if spec[0] in ("INT", "FLOAT"):
                limits = (spec[1]["min"], spec[1]["max"])
                assert all(math.isfinite(limit) for limit in limits), f"{name}.{field}: {limits}"


def test_the_examples_are_offered_as_templates(server: ComfyServer) -> None:
    examples = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
    assert sorted(server.get("/workflow_templates")["wancore"]) == examples


def test_the_loaders_list_the_built_in_model(server: ComfyServer) -> None:
    weights = ROOT / "wan_core" / "tiny" / "weights"
    if not weights.exists():
        pytest.skip("the built-in model has not been trained yet")
    nodes = our_nodes(server)
    for node, field, folder in (
        ("WanCoreLoadModel", "high_noise_model", "diffusion_models"),
        ("WanCoreLoadTextEncoder", "text_encoder_name", "text_encoders"),
        ("WanCoreLoadVAE", "vae_name", "vae"),
    ):
        listed = nodes[node]["input"]["required"][field][1]["options"]
        assert {path.name for path in (weights / folder).iterdir()} <= set(listed)


def test_the_loaders_list_every_container(server: ComfyServer) -> None:
    """GGUF, which core does not list, .pth, and of a model in pieces the first, which stands for all."""
    folder = server.base / "models" / "diffusion_models" / "released"
    folder.mkdir()
    pieces = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    for name in ("q4.gguf", "all.pth", "notes.txt", *pieces):
        (folder / name).touch()
    listed = our_nodes(server)["WanCoreLoadModel"]["input"]["required"]["high_noise_model"][1]["options"]
    found = {Path(name).name for name in listed if Path(name).parent.name == "released"}
    assert found == {"q4.gguf", "all.pth", pieces[0]}


def our_nodes(server: ComfyServer) -> dict[str, Any]:
    nodes = server.get("/object_info").items()
    return {name: node for name, node in nodes if node["python_module"] == "custom_nodes.wancore"}


def surface_of(node: dict[str, Any]) -> dict[str, Any]:
    """What saved graphs depend on."""
    inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    return {
        "display_name": node["display_name"],
        "inputs": {field: surface_of_input(field, spec) for field, spec in inputs.items()},
        "order": node["input_order"],
        "outputs": [list(pair) for pair in zip(node["output_name"], node["output"], strict=True)],
        "output_node": node["output_node"],
    }


def surface_of_input(field: str, spec: list[Any]) -> dict[str, Any]:
    facts = {key: spec[1][key] for key in ("default", "min", "max", "step") if key in spec[1]}
    if spec[0] == "COMBO" and field not in FILE_INPUTS:
        facts["options"] = spec[1]["options"]
    return {"type": spec[0], **facts}
