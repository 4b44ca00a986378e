"""LoRAs in ComfyUI: core's own reader and ours agree, and the node dresses experts without loading them anew.

pytest tests/comfyui/test_lora.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.formats import stored as forms
from tests.unit import checkpoint_files
from tests.unit.lora_files import CONFIG, SCHEMES, SHAPES, Tensors, factors, loha, lokr, randn
from wan_core.checkpoints import open_checkpoint
from wan_core.checkpoints.loras import load_lora

from .comfy_server import ROOT, comfyui_python, last_answer

pytestmark = pytest.mark.comfy

SCRIPT = Path(__file__).parent / "inside_lora.py"
RANK = 4
# The schemes that core reads as well.
CORE_SCHEMES = ("diffusion-pipe", "kijai", "musubi", "videox-fun")


@pytest.fixture(scope="module")
def work(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that inside_lora.py works in."""
    folder = tmp_path_factory.mktemp("lora")
    (folder / "shapes.json").write_text(json.dumps(SHAPES))
    for name, tensors in files_for_core().items():
        save(tensors, folder / "core" / f"{name}.safetensors")
    network = forms.calm(checkpoint_files.transformer())
    (folder / "quantized").mkdir()
    for name in ("fp8 scaled, new", "fp8 per row, no marker"):
        quantize, _, _ = forms.QUANTIZATIONS[name]
        forms.write_safetensors(folder / "quantized", quantize(network)).rename(
            folder / "quantized" / f"{name}.safetensors"
        )
    save(
        on_blocks({name: tuple(value.shape) for name, value in network.items()}),
        folder / "quantized.safetensors",
    )
    expert = open_checkpoint(weights / "diffusion_models" / "wan_tiny_t2v_high_noise.safetensors")
    for seed, name in enumerate(("toy_high_noise", "toy_low_noise")):
        shapes = {layer: info.shape for layer, info in expert.header.items()}
        save(on_blocks(shapes, seed), folder / "loras" / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def answers(comfyui: Path, weights: Path, work: Path) -> dict[str, Any]:
    """What inside_lora.py found, by question."""
    command = [comfyui_python(comfyui), str(SCRIPT), str(comfyui), str(ROOT), str(weights), str(work)]
    return last_answer(command, comfyui)


def test_core_adds_the_same_to_every_weight(answers: dict[str, Any], work: Path) -> None:
    assert answers["core_reads_the_files"] == sorted(f"{name}.safetensors" for name in files_for_core())
    for path in (work / "core").iterdir():
        core = load_file(work / "core_deltas" / path.name)
        lora = load_lora(path, CONFIG, {"dense": 1.0})
        ours = {
            change.parameter: change.delta.dense(torch.float32)
            if len(SHAPES[change.parameter]) > 1
            else change.delta.value
            for change in lora.changes["dense"]
        }
        assert ours.keys() == core.keys(), path.name
        for name, value in ours.items():
            error = (value.view_as(core[name]) - core[name]).abs().max() / core[name].abs().max()
            assert error < 1e-5, (path.name, name)


def test_the_node_dresses_the_experts_it_is_given(answers: dict[str, Any], work: Path) -> None:
    found = answers["experts_wear_it"]
    assert found["same experts"]
    assert found["weights in place"]
    assert found["plain again"] == 0
    assert 1e-3 < found["moved"]["half"] < found["moved"]["high"]
    assert found["chained"] < 1e-5
    layers = len(load_file(work / "loras" / "toy_high_noise.safetensors"))
    rows = [line.split() for line in found["table"].splitlines()[1:3]]
    assert rows[0] == ["high-noise", "1.00", str(layers), "0", "0", "toy_high_noise.safetensors"]
    assert rows[1] == ["low-noise", "0.00", "0", str(layers), "0", "toy_low_noise.safetensors"]


def test_core_keeps_room_for_the_factors(answers: dict[str, Any], work: Path) -> None:
    rooms = answers["experts_wear_it"]["room"]
    stored = sum(value.nbytes for value in load_file(work / "loras" / "toy_high_noise.safetensors").values())
    high, low = (dressed - plain for dressed, plain in zip(rooms["high"], rooms["plain"], strict=True))
    assert (high, low) == (stored, 0)


def test_a_small_device_gives_the_same_latent(answers: dict[str, Any]) -> None:
    assert max(answers["on_a_small_device"]) < 1e-5


def test_over_quantized_layers_of_core_and_ours(answers: dict[str, Any]) -> None:
    found = answers["over_quantized_layers"]
    assert {name: layers for name, (_, _, layers) in found.items()} == {
        "fp8 scaled, new.safetensors": ["HostedLinear", "core"],
        "fp8 per row, no marker.safetensors": ["HostedLinear"],
    }
    for apart, seen, _ in found.values():
        assert apart < 1e-5
        assert seen > 1e-3


def on_blocks(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """A LoRA for every linear layer of the blocks."""
    tensors = {}
    for layer, shape in shapes.items():
        if layer.startswith("blocks.") and len(shape) == 2:
            stem = f"diffusion_model.{layer.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = 0.1 * randn(RANK, shape[1], seed=seed)
            tensors[f"{stem}.lora_B.weight"] = 0.1 * randn(shape[0], RANK, seed=seed + 9)
    return tensors


def files_for_core() -> dict[str, Tensors]:
    """LoRAs for the toy network, a file for each scheme and kind of adapter."""
    made = factors()
    files = {name: SCHEMES[name](made) for name in CORE_SCHEMES}
    layer = "blocks.1.self_attn.v"
    kinds = {"loha": loha(layer)[0]}
    for outer in (False, True):
        for inner in (False, True):
            kinds[f"lokr_{outer}_{inner}"] = lokr(layer, outer, inner)[0]
    kinds["differences"] = {"diff": randn(96, 96), "diff_b": randn(96, seed=1)}
    for kind, parts in kinds.items():
        files[kind] = {f"diffusion_model.{layer}.{part}": value for part, value in parts.items()}
    files["norm"] = {"diffusion_model.blocks.0.norm3.diff": randn(96)}
    return files


def save(tensors: Tensors, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
