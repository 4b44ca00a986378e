"""Quantized files inside ComfyUI's own Python: run by test_quantized.py as

    <ComfyUI's python> inside_quantized.py <ComfyUI> <pack> <folder of weight files>

The last line of stdout is JSON: for each file which layers compute with it and, for each share of its size
that fits the device, how far the output is from that outside ComfyUI.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import inside_comfyui as inside  # starts ComfyUI; beside this script, so on the path
import torch
from torch import Tensor, nn

checkpoints = importlib.import_module("pack_under_test.wan_core.checkpoints")
transformer = importlib.import_module("pack_under_test.wan_core.models.transformer")
umt5 = importlib.import_module("pack_under_test.wan_core.models.umt5")
hosting = importlib.import_module("pack_under_test.nodes.hosting")
# 12 tokens in spans, so that a step calls its layers more than once and holds what core lends.
importlib.import_module("pack_under_test.wan_core.models.spans").CPU_SPANS = (8, 4)

BUDGETS = (10.0, 0.9, 0.5, 0.1, 0.0)


def compare(path: Any) -> dict[str, Any]:
    """One file outside and inside of core's memory management."""
    checkpoint = checkpoints.open_checkpoint(path)
    is_encoder = checkpoint.inspection.family == "umt5"
    network = umt5.UMT5Encoder if is_encoder else transformer.WanTransformer
    config = (checkpoints.umt5_config if is_encoder else checkpoints.transformer_config)(checkpoint.header)
    alone = checkpoints.load_module(network(config, device="meta"), checkpoint)
    expected = output(alone, torch.device("cpu"))
    size = sum(value.nbytes for value in alone.state_dict().values())
    answer: dict[str, Any] = {"distance": [], "loaded": []}
    for share in BUDGETS:
        inside.give_memory(int(share * size) + (1 << 16))
        hosted = hosting.host(
            network,
            config,
            checkpoint,
            DEVICE,
            torch.device("cpu"),
            None,
            None if is_encoder else torch.float32,
        )
        hosted.load("model", 0)
        answer["distance"].append(inside.distance(output(hosted.module, DEVICE), expected))
        answer["loaded"].append(hosted.patcher.loaded_size() / size)
        answer["layers"] = sorted({layer_name(layer) for layer in hosted.module.modules()} - {None})
        inside.mm.unload_all_models()
    return answer


def output(network: nn.Module, device: torch.device) -> Tensor:
    """What a text encoder or a transformer makes of some input."""
    config, generator = network.config, torch.Generator().manual_seed(1)
    with torch.inference_mode():
        if isinstance(network, umt5.UMT5Encoder):
            return network(torch.tensor([[7, 49, 0, 3, 3, 12]]).to(device))
        latent = torch.randn(1, config.in_channels, 2, 4, 6, generator=generator)
        context = torch.randn(1, 5, config.text_dim, generator=generator)
        return network(latent.to(device), torch.tensor([500.0]), context.to(device))


def layer_name(layer: nn.Module) -> str | None:
    """Who computes a product with a quantized weight: a layer of ours, or core's."""
    if isinstance(getattr(layer, "weight", None), inside.comfy.ops.QuantizedTensor):
        return "core"
    name = type(layer).__name__
    return name if name.startswith("Hosted") else None


if __name__ == "__main__":
    DEVICE = inside.pretend_a_gpu()
    paths = sorted(inside.MODELS.iterdir())
    sys.stdout.write(json.dumps({path.name: compare(path) for path in paths}) + "\n")
