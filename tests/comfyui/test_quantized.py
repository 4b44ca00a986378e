"""Quantized weights inside ComfyUI: the numbers are those of the command line, whatever fits the device.

pytest tests/comfyui/test_quantized.py
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.formats import stored as forms
from tests.unit import checkpoint_files as files

from .comfy_server import ROOT, comfyui_python, last_answer

pytestmark = pytest.mark.comfy

SCRIPT = Path(__file__).parent / "inside_quantized.py"
WIDE = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 2, "text_dim": 256}
# Those with a note for ComfyUI and one scale for each weight; its int8 layers are for GPUs.
CORE_S = ("fp8 scaled, old", "fp8 scaled, old, e5m2", "fp8 scaled, new", "fp8 scaled, in the metadata")
GGUF = ("Q8_0", "Q4_0", "Q4_K", "Q6_K")


@pytest.fixture(scope="module")
def answers(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What inside_quantized.py found, by file."""
    folder = tmp_path_factory.mktemp("quantized")
    transformer, umt5 = forms.calm(files.transformer(**WIDE)), forms.calm(files.umt5())
    for name, (quantize, _, _) in forms.QUANTIZATIONS.items():
        for kind, tensors in (("transformer", transformer), ("umt5", umt5)):
            path = forms.write_safetensors(folder, quantize(tensors))
            shutil.move(path, folder / f"{kind} {name}")
    for name in GGUF:
        forms.write_gguf(folder / f"transformer {name}", transformer, name)
    command = [comfyui_python(comfyui), str(SCRIPT), str(comfyui), str(ROOT), str(folder)]
    return last_answer(command, comfyui)


CASES = [
    *(f"{kind} {name}" for kind in ("transformer", "umt5") for name in forms.QUANTIZATIONS),
    *(f"transformer {name}" for name in GGUF),
]


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_outside_comfyui_at_any_budget(answers: dict[str, Any], case: str):
    assert max(answers[case]["distance"]) < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_no_more_is_loaded_than_fits(answers: dict[str, Any], case: str):
    all_of_it, most, half, little, nothing = answers[case]["loaded"]
    assert 1 <= all_of_it < 1.01  # core's layers hold the input scales, too
    assert nothing == 0
    assert 0 <= little <= half <= most < 1


def test_core_s_layers_have_the_scaled_fp8_that_is_marked_for_them(answers: dict[str, Any]):
    for name in forms.QUANTIZATIONS:
        layers = answers[f"transformer {name}"]["layers"]
        assert ("core" in layers) == (name in CORE_S)
        if name not in ("float32", "bfloat16", "float16"):
            assert "HostedLinear" in layers  # outside the blocks at least: they compute in float32
    assert answers["umt5 fp8 scaled, new"]["layers"] == ["HostedEmbedding", "HostedLinear"]
