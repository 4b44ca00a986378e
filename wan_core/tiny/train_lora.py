"""Train the demonstration LoRA: whatever colour is asked, both experts paint the shape purple.

    python -m wan_core.tiny.latents t2v --paint purple --out runs/latents_purple --clips 500
    python -m wan_core.tiny.train_lora --data runs/latents_purple --name purple

The experts stay as they are; beside every linear layer of their blocks a pair of thin matrices learns from
clips whose shape is purple and whose captions name other colours. Writes `wan_tiny_<name>_high_noise` and
`..._low_noise.safetensors` into the folder of LoRAs, with the key names that most trainers write.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoints import load_module, open_checkpoint
from ..models.transformer import WanTransformer
from ..variants import T2V_A14B
from . import weights_dir
from .latents import read_latents
from .train_experts import Run, Words, plain_attention, step_loss

log = logging.getLogger("wancore")
RANK = 4
RATE = 4e-3  # of AdamW


class Beside(nn.Module):
    """A frozen linear layer and its change: up(down(x)), silent at first."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Parameter(torch.randn(RANK, layer.in_features) / math.sqrt(layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + (x @ self.down.to(x.dtype).T) @ self.up.to(x.dtype).T


def dress(net: WanTransformer) -> dict[str, Beside]:
    """Put a change beside every linear layer of the blocks; by layer name."""
    names = [n for n, m in net.named_modules() if n.startswith("blocks.") and isinstance(m, nn.Linear)]
    dressed = {}
    for name in names:
        owner, _, leaf = name.rpartition(".")
        dressed[name] = Beside(net.get_submodule(name))
        setattr(net.get_submodule(owner), leaf, dressed[name])
    return dressed


def as_stored(dressed: dict[str, Beside]) -> dict[str, Tensor]:
    """The changes under the names of LoRA files, bfloat16; strength 1 (alpha over rank) is as trained."""
    tensors = {}
    for name, layer in dressed.items():
        prefix = f"diffusion_model.{name}"
        tensors[f"{prefix}.lora_A.weight"] = layer.down.detach().bfloat16().contiguous()
        tensors[f"{prefix}.lora_B.weight"] = layer.up.detach().bfloat16().contiguous()
        tensors[f"{prefix}.alpha"] = torch.tensor(float(RANK))
    return tensors


def train(expert: str, data_folder: Path, name: str, weights: Path, steps: int, seed: int = 0) -> None:
    """Train the change of one expert and write it into the models folder `weights`."""
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    data = read_latents(data_folder)
    words = Words(weights, data.captions)
    run = Run(T2V_A14B, expert, steps)
    net = WanTransformer(run.config, device="meta")
    checkpoint = open_checkpoint(weights / "diffusion_models" / f"wan_tiny_t2v_{expert}.safetensors")
    load_module(net, checkpoint, torch.float32)
    net.compute_dtype = torch.bfloat16
    net.attention = plain_attention
    dressed = dress(net)
    for block in net.blocks:
        block.compile(dynamic=False)
    factors = [factor for layer in dressed.values() for factor in (layer.down, layer.up)]
    optimizer = torch.optim.AdamW(factors, lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    began, recent = time.time(), list[float]()
    for step in range(1, steps + 1):
        loss = step_loss(net, run, data, words, np.random.default_rng((seed, len(expert), step)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(factors, 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if step % 50 == 0:
            log.info("%s step %d loss %.4f  %.0f s", expert, step, np.mean(recent), time.time() - began)
            recent.clear()
    out = weights / "loras" / f"wan_tiny_{name}_{expert}.safetensors"
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(as_stored(dressed), out, metadata={"format": "pt"})


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--weights", type=Path, default=weights_dir(), help="where the exported parts are")
    parser.add_argument("--expert", choices=T2V_A14B.experts, action="append", help="one, not both")
    parser.add_argument("--steps", type=int, default=250)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for expert in args.expert or T2V_A14B.experts:
        train(expert, args.data, args.name, args.weights, args.steps)


if __name__ == "__main__":
    main()
