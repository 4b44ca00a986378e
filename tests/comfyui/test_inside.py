"""Text, memory and weights inside ComfyUI's own Python, without a server.

pytest tests/comfyui/test_inside.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .comfy_server import ROOT, comfyui_python, last_answer

pytestmark = pytest.mark.comfy

SCRIPT = Path(__file__).parent / "inside_comfyui.py"


@pytest.fixture(scope="module")
def answers(comfyui: Path, weights: Path) -> dict[str, Any]:
    """What inside_comfyui.py found, by question."""
    command = [comfyui_python(comfyui), str(SCRIPT), str(comfyui), str(ROOT), str(weights)]
    return last_answer(command, comfyui)


def test_core_s_text_encoder_and_ours_agree(answers: dict[str, Any]) -> None:
    found = answers["text_encoders_agree"]
    assert found["shape"] == found["core_shape"] == [1, 512, found["shape"][2]]
    assert found["positive"] < 1e-5
    assert found["negative"] < 1e-5
    assert found["straight"] == 0
    assert found["latent"] < 1e-4


def test_a_text_is_encoded_once_for_each_encoder(answers: dict[str, Any]) -> None:
    """Of the pairs a/b, c/b, a/c and d/d only a, b, c and d are new; then eight more, and d is kept."""
    found = answers["texts_are_encoded_once"]
    for encoder in (found["ours"], found["core's"]):
        assert encoder == {"runs": [2, 3, 3, 4, 12], "kept": 1, "own": True, "equal": True}
    assert found["left"] == 0  # it goes with the encoder
    assert found["clone"] == 2  # d again after all was forgotten, and d by the clone, which has its own


def test_core_encodes_what_aesthetic_says(answers: dict[str, Any]) -> None:
    assert answers["looks_reach_core"] == 0


def test_each_expert_is_asked_for_once_and_alone(answers: dict[str, Any]) -> None:
    found = answers["experts_take_turns"]
    assert found["asked"] == [["high_noise"], ["low_noise"]]
    assert all(room > 0 for room in found["room"])
    assert found["handle"] == [True, 2, False]


def test_a_small_device_gives_the_same_latent(answers: dict[str, Any]) -> None:
    found = answers["short_of_memory"]
    for case in found.values():
        assert case["distance"] < 1e-5
    # Room for one and a bit: the working expert is whole, the other has made way.
    assert found["one"]["low"] > 0.9
    assert found["one"]["high"] < 0.5
    # Room for less than one: its layers stream.
    assert 0.1 < found["half"]["low"] < 0.8


def test_a_vae_through_core_s_layers_gives_our_video(answers: dict[str, Any]) -> None:
    found = answers["vaes_short_of_memory"]
    assert len(found) == 4
    for name, case in found.items():
        assert case["distance"] < 1e-6
        assert 0.1 < case["loaded"] < 0.8 if name.endswith("half") else case["loaded"] > 0.9


def test_layers_without_weights_are_filled(answers: dict[str, Any]) -> None:
    found = answers["weights_that_come_late"]
    assert found["empty"] == []
    assert found["distance"] == 0


def test_weight_dtypes(answers: dict[str, Any]) -> None:
    found = answers["weight_dtypes"]
    assert found["auto"]["distance"] == 0
    assert found["float32"]["weights"] == "torch.float32"
    assert found["bfloat16"]["weights"] == "torch.bfloat16"
    assert found["bfloat16"]["distance"] < 0.1
    # On the CPU everything is computed in float32.
    assert {case["compute"] for case in found.values()} == {"torch.float32"}


def test_what_other_devices_compute_in(answers: dict[str, Any]) -> None:
    """As the command line does: bfloat16, unless the user chose another type or the card lacks it."""
    found = answers["other_devices"]
    assert found["both"] == {
        "auto": "torch.bfloat16",
        "bfloat16": "torch.bfloat16",
        "float16": "torch.float16",
        "float32": "torch.float32",
    }
    assert found["fp16"]["auto"] == found["fp16"]["bfloat16"] == "torch.float16"
    assert set(found["none"].values()) == {"torch.float32"}


def test_a_latent_is_copied_and_loses_what_only_empty_ones_have(answers: dict[str, Any]) -> None:
    found = answers["latents_are_copied"]
    assert found["given is as it was"]
    assert found["keys"] == ["note", "samples"]
    assert (found["dtype"], found["device"]) == ("torch.float32", "cpu")


def test_speed_settings_reach_the_experts_and_leave_them(answers: dict[str, Any]) -> None:
    """On the CPU all but compiling leave the numbers alone."""
    found = answers["speed_settings"]
    assert found["settings"]
    assert found["defaults"] == {}
    assert found["experts are shared"]
    assert found["classes"] == [["CompiledTransformerBlock"], ["TransformerBlock"]]
    assert 3 <= found["graphs"] <= 4  # three steps, for both experts; one more for prompts of another length
    assert found["distance"] < 1e-5
    assert found["again"] == 0
