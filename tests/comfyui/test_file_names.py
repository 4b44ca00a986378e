"""A graph from a machine with other folders finds its files by their base names.

pytest tests/comfyui/test_file_names.py
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from .comfy_server import ComfyServer
from .conftest import BUILT_IN

pytestmark = pytest.mark.comfy

# (where a built-in file lies on this machine)
HERE = {
    "diffusion_models/wan_tiny_t2v_high_noise": "diffusion_models/of their own/stranger_high_noise",
    "diffusion_models/wan_tiny_t2v_low_noise": "diffusion_models/of their own/stranger_low_noise",
    "text_encoders/wan_tiny_umt5": "text_encoders/a/b/stranger_umt5",
    "vae/wan_tiny_vae": "vae/stranger_vae",
    "loras/wan_tiny_purple_high_noise": "loras/style/stranger_purple_high_noise",
    "loras/wan_tiny_purple_low_noise": "loras/style/stranger_purple_low_noise",
}


@pytest.fixture(scope="module", autouse=True)
def stranger_s_files(server: ComfyServer) -> None:
    """Copies under names of their own, and one VAE in two folders."""
    models = server.base / "models"
    for built_in, here in HERE.items():
        put(built_in, models / f"{here}.safetensors")
    for folder in ("one", "two"):
        put("vae/wan_tiny_vae", models / "vae" / folder / "stranger_twin.safetensors")


def put(built_in: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(BUILT_IN / f"{built_in}.safetensors", target)


@pytest.fixture
def shared(text_to_video: dict[str, Any]) -> dict[str, Any]:
    """A graph as another machine saved it: other folders, and Windows' slash."""
    graph = text_to_video
    graph["1"]["inputs"] |= {
        "high_noise_model": "Wan2.2\\stranger_high_noise.safetensors",
        "low_noise_model": "Wan2.2\\stranger_low_noise.safetensors",
    }
    graph["2"]["inputs"]["text_encoder_name"] = "stranger_umt5.safetensors"
    graph["3"]["inputs"]["vae_name"] = "wan/2.1/stranger_vae.safetensors"
    graph["30"] = {
        "class_type": "WanCoreLoadLora",
        "inputs": {
            "model": ["1", 0],
            "lora_name": "mine\\stranger_purple_high_noise.safetensors",
            "partner": "mine/stranger_purple_low_noise.safetensors",
            "strength_high": 1.0,
            "strength_low": 1.0,
        },
    }
    graph["6"]["inputs"] |= {"model": ["30", 0], "steps": 2}
    graph["5"]["inputs"]["frames"] = 5
    return graph


def test_it_runs_where_the_files_lie_elsewhere(server: ComfyServer, shared: dict[str, Any]) -> None:
    run = server.run(shared)
    assert run.ok, run.entry["status"]
    said = "\n".join(text for node, text in run.texts if node == "1")
    assert "of their own/stranger_low_noise.safetensors (chosen)" in said  # as this machine names it


def test_the_partner_is_found_beside_the_file_that_was_meant(
    server: ComfyServer, shared: dict[str, Any]
) -> None:
    shared["1"]["inputs"]["low_noise_model"] = "auto (partner of the high-noise file)"
    shared["30"]["inputs"]["partner"] = "auto (found by its name)"
    shared["6"]["inputs"]["seed"] = 11
    assert server.run(shared).ok


def test_several_of_one_name_are_named(server: ComfyServer, shared: dict[str, Any]) -> None:
    shared["3"]["inputs"]["vae_name"] = "stranger_twin.safetensors"
    assert "one/stranger_twin.safetensors and two/stranger_twin.safetensors" in server.run(shared).error


def test_a_file_that_is_nowhere_is_not_in_the_list(server: ComfyServer, shared: dict[str, Any]) -> None:
    shared["3"]["inputs"]["vae_name"] = "Wan2.2\\nowhere_vae.safetensors"
    with pytest.raises(Exception, match=r"vae_name: 'Wan2.2.+nowhere_vae.safetensors' not in"):
        server.run(shared)
