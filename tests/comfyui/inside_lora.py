"""LoRAs inside ComfyUI's own Python: run by test_lora.py as

    <ComfyUI's python> inside_lora.py <ComfyUI> <pack> <models folder> <work folder>

The work folder holds `core/` with LoRA files for core's own reader, whose changes go to `core_deltas/`, the
shapes of the network they are for in `shapes.json`, and `loras/` with a pair for the built-in model. All
answers, in JSON, are the last line of stdout.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

WORK = Path(sys.argv[4])

import inside_comfyui as inside  # noqa: E402 - starts ComfyUI and takes the arguments away; beside this script
import inside_quantized as quantized  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

core_lora = importlib.import_module("comfy.lora")  # not there before ComfyUI is started
core_convert = importlib.import_module("comfy.lora_convert")
folder_paths = importlib.import_module("folder_paths")
loras = importlib.import_module("pack_under_test.wan_core.checkpoints.loras")
lora = importlib.import_module("pack_under_test.wan_core.lora")

LORA = "toy_high_noise.safetensors"


def core_reads_the_files() -> list[str]:
    """What core's own LoRA code adds to each weight, one file of changes for each LoRA file."""
    shapes = json.loads((WORK / "shapes.json").read_text())
    weights = {f"diffusion_model.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    model = SimpleNamespace(state_dict=lambda: weights, model_config=SimpleNamespace(unet_config={}))
    names = core_lora.model_lora_keys_unet(model, {})
    (WORK / "core_deltas").mkdir()
    for path in sorted((WORK / "core").iterdir()):
        stored = core_convert.convert_lora(inside.comfy.utils.load_torch_file(str(path)))
        patches = core_lora.load_lora(stored, names)
        changes = {
            key.removeprefix("diffusion_model."): core_lora.calculate_weight(
                [(1.0, patch, 1.0, None, None)], weights[key].clone(), key
            )
            for key, patch in patches.items()
        }
        save_file(changes, WORK / "core_deltas" / path.name)
    return sorted(path.name for path in (WORK / "core_deltas").iterdir())


def experts_wear_it() -> dict[str, Any]:
    """One model with and without: what is loaded, what changes, what stays."""
    text = inside.conditioning()
    model = inside.handles.load_model(inside.HIGH, inside.LOW, None)
    plain = inside.sample(model, *text)
    before = weight_places(model)
    dressed, table = load(model, 1.0, 0.0)
    rooms: dict[str, list[int]] = {}
    latents = {}
    for name, handle in (("plain", model), ("high", dressed), ("half", load(model, 0.5, 0.0)[0])):
        rooms[name], latents[name] = asked_room(lambda handle=handle: inside.sample(handle, *text))
    chained = load(load(model, 0.7, 0.0)[0], 0.3, 0.0)[0]
    latents["chained"] = inside.sample(chained, *text)
    return {
        "table": table,
        "same experts": dressed.experts is model.experts,
        "weights in place": weight_places(model) == before,
        "room": rooms,
        "plain again": inside.distance(latents["plain"], plain),
        "moved": {name: inside.distance(latents[name], plain) for name in ("high", "half")},
        "chained": inside.distance(latents["chained"], latents["high"]),
    }


def over_quantized_layers() -> dict[str, Any]:
    """The toy network from quantized files, with a LoRA: outside ComfyUI and in its care."""
    answer = {}
    for path in sorted((WORK / "quantized").iterdir()):
        checkpoint = quantized.checkpoints.open_checkpoint(path)
        config = quantized.checkpoints.transformer_config(checkpoint.header)
        changes = loras.load_lora(WORK / "quantized.safetensors", config, {"dense": 1.0}).changes["dense"]
        network = quantized.transformer.WanTransformer
        alone = quantized.checkpoints.load_module(network(config, device="meta"), checkpoint)
        cpu = torch.device("cpu")
        hosted = quantized.hosting.host(network, config, checkpoint, cpu, cpu, None, torch.float32)
        hosted.load("model", 0)
        plain = quantized.output(hosted.module, cpu)
        with lora.attached(alone, changes), lora.attached(hosted.module, changes):
            ours = quantized.output(hosted.module, cpu)
            answer[path.name] = [
                inside.distance(ours, quantized.output(alone, cpu)),
                inside.distance(plain, ours),
                sorted({quantized.layer_name(layer) for layer in hosted.module.modules()} - {None}),
            ]
    return answer


def on_a_small_device() -> list[float]:
    """The same latent where one expert fits, where half of one does, and where nothing does."""
    text = inside.conditioning()
    wanted = inside.sample(
        load(inside.handles.load_model(inside.HIGH, inside.LOW, None), 1.0, -0.5)[0], *text
    )
    inside.mm.unload_all_models()
    inside.pretend_a_gpu()
    inside.mm.should_use_fp16 = inside.mm.should_use_bf16 = lambda *_, **__: False
    inside.handles.prediction_bytes = lambda *_: 1 << 16
    size = inside.HIGH.stat().st_size
    distances = []
    for share in (1.4, 0.5, 0.0):
        inside.give_memory(int(share * size))
        model = inside.handles.load_model(inside.HIGH, inside.LOW, None)
        distances.append(inside.distance(inside.sample(load(model, 1.0, -0.5)[0], *text), wanted))
        inside.mm.unload_all_models()
    return distances


def load(model: Any, high: float, low: float) -> tuple[Any, str]:
    return inside.nodes.WanCoreLoadLora.execute(model, LORA, "auto (found by its name)", high, low).args


def weight_places(model: Any) -> list[int]:
    return [value.data_ptr() for one in model.experts.values() for value in one.module.parameters()]


def asked_room(run: Any) -> tuple[list[int], Any]:
    """The memory a run asks core to keep free, for each model it has loaded."""
    asked: list[int] = []
    load_models_gpu = inside.mm.load_models_gpu

    def noted(models: list[Any], memory_required: int = 0, **more: Any) -> None:
        asked.append(memory_required)
        load_models_gpu(models, memory_required=memory_required, **more)

    inside.mm.load_models_gpu = noted
    try:
        return asked, run()
    finally:
        inside.mm.load_models_gpu = load_models_gpu


if __name__ == "__main__":
    folder_paths.add_model_folder_path("loras", str(WORK / "loras"))
    # The last one leaves core believing in a device that is not there.
    questions = (core_reads_the_files, experts_wear_it, over_quantized_layers, on_a_small_device)
    sys.stdout.write(json.dumps({question.__name__: question() for question in questions}) + "\n")
