"""Whole runs on devices of every size, inside ComfyUI's own Python: run by test_memory.py as

    <ComfyUI's python> inside_memory.py <ComfyUI> <pack> <models folder>

The last line of stdout is JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import inside_comfyui as inside  # starts ComfyUI; beside this script, so on the path
import torch
from inside_comfyui import handles, mm, nodes
from torch import Tensor, nn

mapped = importlib.import_module("pack_under_test.nodes.mapped")
VAE = inside.MODELS / "vae" / "wan_tiny_vae.safetensors"
# What the device has, in experts: room for all models, for all but one or two, then ever less of one.
BUDGETS = {"all": 8.0, "three": 3.0, "one": 1.3, "half": 0.6, "little": 0.2, "nothing": 0.0}


class Watch:
    """Core's loading and pinning, noted while they go on."""

    def __init__(self, models: dict[str, Any]) -> None:
        self.models = models
        self.loads: list[dict[str, Any]] = []
        self.pinned: dict[int, int] = {}
        self.most_pinned = 0
        self.load_models_gpu = mm.load_models_gpu
        mm.load_models_gpu, mm.pin_memory, mm.unpin_memory = self.load, self.pin, self.unpin

    def load(self, patchers: list[Any], memory_required: int = 0) -> None:
        """As core does, with a note of where every model's weights are afterwards."""
        self.load_models_gpu(patchers, memory_required=memory_required)
        (asked,) = [name for name, model in self.models.items() if model is patchers[0]]
        self.loads.append(
            {
                "asked": asked,
                "loaded": {name: model.loaded_size() for name, model in self.models.items()},
                "copied": {name: copied(model) - model.loaded_size() for name, model in self.models.items()},
            }
        )

    def pin(self, tensor: Tensor) -> bool:
        """As core does: what is pinned already is passed over."""
        place = mapped._place(tensor)
        if place in self.pinned:
            return False
        self.pinned[place] = tensor.nbytes
        self.most_pinned = max(self.most_pinned, sum(self.pinned.values()))
        return True

    def unpin(self, tensor: Tensor) -> bool:
        return self.pinned.pop(mapped._place(tensor), None) is not None

    def end(self) -> None:
        mm.load_models_gpu = self.load_models_gpu


def copied(patcher: Any) -> int:
    """Bytes of a model's layers that lie outside its file's pages: on the device, or copied to memory."""
    layers = (layer for layer in patcher.model.modules() if hasattr(layer, "comfy_cast_weights"))
    values = (value for layer in layers for value in layer.parameters(recurse=False))
    return sum(value.nbytes for value in values if not mapped.is_mapped(value))


def every_budget() -> dict[str, Any]:
    """Two runs, and another node's model between them, on devices of every size."""
    size = inside.HIGH.stat().st_size
    answer: dict[str, Any] = {}
    expected = None
    for name, share in BUDGETS.items():
        answer[name], made = two_runs(budget := int(share * size) + (1 << 17))
        expected = expected or made
        distances = [inside.distance(ours, theirs) for ours, theirs in zip(made, expected, strict=True)]
        answer[name] |= {"budget": budget, "distances": distances}
    return answer


def two_runs(budget: int) -> tuple[dict[str, Any], list[Tensor]]:
    """The same graph twice with two seeds, its loaders cached; what was seen, and both latents and videos."""
    encoder, vae = handles.load_text_encoder(inside.TEXT_ENCODER), handles.load_vae(VAE)
    model, other = handles.load_model(inside.HIGH, inside.LOW, None), another_node_s()
    models = {"text": encoder.patcher, "vae": vae.patcher, "other": other}
    models |= {name: expert.patcher for name, expert in model.experts.items()}
    inside.give_memory(budget, models.values())
    watch, made = Watch(models), []
    with torch.inference_mode():
        texts = nodes.WanCoreTextEncode.execute(encoder, inside.PROMPT, "").args
        for seed in (1, 2):
            mm.load_models_gpu([other])
            again = handles.load_model(inside.HIGH, inside.LOW, None)  # as a second loader of the same files
            made.append(sample(again, texts, seed))
            made.append(nodes.WanCoreDecode.execute({"samples": made[-1]}, vae)[0])
    mm.unload_all_models()
    watch.end()
    seen = {
        "sizes": {name: model.model_size() for name, model in models.items()},
        "loads": watch.loads,
        "most_pinned": watch.most_pinned,
        "left": {
            "loaded": sum(model.loaded_size() for model in models.values()),
            "copied": {name: copied(model) for name, model in models.items() if name != "other"},
            "pinned": sum(watch.pinned.values()),
        },
    }
    return seen, made


def sample(model: Any, texts: Any, seed: int) -> Tensor:
    latent = nodes.WanCoreEmptyVideoLatent.execute(32, 32, 5)[0]
    return nodes.WanCoreSampler.execute(model, *texts, latent, seed, 4, 12.0, 0.9, 2.0, 2.0, "euler")[0][
        "samples"
    ]


def another_node_s() -> Any:
    """A model that some other node has in core's care."""
    layers = nn.Sequential(*(inside.comfy.ops.manual_cast.Linear(512, 512) for _ in range(4)))
    return inside.comfy.model_patcher.CoreModelPatcher(layers, DEVICE, torch.device("cpu"))


if __name__ == "__main__":
    DEVICE = inside.pretend_a_gpu()
    mm.should_use_fp16 = mm.should_use_bf16 = lambda *_, **__: False  # so it computes in float32
    mm.MIN_WEIGHT_MEMORY_RATIO = 0.0  # as on NVIDIA cards
    sys.stdout.write(json.dumps({"every_budget": every_budget()}) + "\n")
