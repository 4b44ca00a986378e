"""Turn what a training left into a file that ships, named and laid out as users have them.

    python -m wan_core.tiny.export vae --run runs/vae
    python -m wan_core.tiny.export vae --kind 2.2 --run runs/vae22
    python -m wan_core.tiny.export text --run runs/text
    python -m wan_core.tiny.export network --task i2v --run runs/i2v

A VAE's own latent statistics are folded into the two 1x1x1 convolutions around the latent, so that its raw
latents have the released mean and deviation and nothing downstream can tell it from the released one.
Latents for the networks are written with the exported VAE.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..models.latent_scale import LATENT_STATISTICS
from ..models.vae import make_vae
from ..models.video_vae import VideoVAE
from ..variants import TASKS, variant_for_task
from ..variants.variant import DENSE
from . import weights_dir
from .latents import seen_scene
from .scenes import draw_clip
from .train_vae import RECIPES

Tensors = dict[str, Tensor]

# Released UMT5 names to those of the files in models/text_encoders.
_HUGGINGFACE = {
    "norm1.": "layer.0.layer_norm.",
    "norm2.": "layer.1.layer_norm.",
    "pos_embedding.embedding.": "layer.0.SelfAttention.relative_attention_bias.",
    "attn.": "layer.0.SelfAttention.",
    "ffn.gate.0.": "layer.1.DenseReluDense.wi_0.",
    "ffn.fc1.": "layer.1.DenseReluDense.wi_1.",
    "ffn.fc2.": "layer.1.DenseReluDense.wo.",
}


def fold_latent_scale(vae: Tensors, mean: Tensor, std: Tensor) -> Tensors:
    """The VAE whose raw latents are the old ones moved from (mean, std) to the released statistics."""
    channels = std.numel()
    released_mean, released_std = (torch.tensor(figures) for figures in LATENT_STATISTICS[channels])
    gain = (released_std / std.flatten()).double()
    shift = released_mean.double() - mean.flatten().double() * gain
    folded = dict(vae)
    weight, bias = vae["conv1.weight"].double(), vae["conv1.bias"].double()
    weight[:channels] *= gain.view(-1, 1, 1, 1, 1)
    bias[:channels] = bias[:channels] * gain + shift
    back, offset = vae["conv2.weight"].double(), vae["conv2.bias"].double()
    offset = offset - back.flatten(1) @ (shift / gain)
    back = back / gain.view(1, -1, 1, 1, 1)
    folded["conv1.weight"], folded["conv1.bias"] = weight.float(), bias.float()
    folded["conv2.weight"], folded["conv2.bias"] = back.float(), offset.float()
    return folded


def huggingface_names(text: Tensors) -> Tensors:
    """The text encoder's tensors under the names of the files people have; `spiece_model` stays inside."""
    renamed = {}
    for name, tensor in text.items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            start = next(s for s in _HUGGINGFACE if rest.startswith(s))
            name = f"encoder.block.{number}.{_HUGGINGFACE[start]}{rest[len(start) :]}"
        elif name.startswith("token_embedding."):
            name = name.replace("token_embedding.", "shared.")
        elif name.startswith("norm."):
            name = name.replace("norm.", "encoder.final_layer_norm.")
        renamed[name] = tensor
    return renamed


def write(tensors: Tensors, path: Path, dtype: torch.dtype) -> None:
    """Save with every floating tensor in `dtype`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {n: (t.to(dtype) if t.is_floating_point() else t).contiguous() for n, t in tensors.items()}
    save_file(stored, path, metadata={"format": "pt"})


def own_latent_scale(vae: VideoVAE, clips: int = 128, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Per-channel mean and deviation (C,) of a VAE's raw latents, over clips of training scenes."""
    rng = np.random.default_rng((seed, 11))
    latents = []
    for _ in range(clips):
        video = torch.from_numpy(draw_clip(seen_scene(rng))).permute(3, 0, 1, 2)[None] * 2 - 1
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode_whole(video).float())
    joined = torch.cat(latents)
    dims = (0, 2, 3, 4)
    return joined.mean(dims), joined.std(dims)


def export_vae(kind: str, run: Path, out: Path) -> None:
    weights = load_file(run / "vae.safetensors")
    vae = make_vae(RECIPES[kind].config)
    vae.load_state_dict(weights)
    folded = fold_latent_scale(weights, *own_latent_scale(vae))
    name = {"2.1": "wan_tiny_vae", "2.2": "wan_tiny_vae_2_2"}[kind]
    write(folded, out / "vae" / f"{name}.safetensors", torch.float16)


def export_text(run: Path, out: Path) -> None:
    named = huggingface_names(load_file(run / "text.safetensors"))
    write(named, out / "text_encoders" / "wan_tiny_umt5.safetensors", torch.float16)


def export_network(task: str, run: Path, out: Path) -> None:
    """The networks of a task that `run` holds, one or both experts."""
    for expert in variant_for_task(task).experts:
        trained = run / f"{expert}.safetensors"
        name = f"wan_tiny_{task}" if expert == DENSE else f"wan_tiny_{task}_{expert}"
        if trained.exists():
            write(load_file(trained), out / "diffusion_models" / f"{name}.safetensors", torch.bfloat16)


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("what", choices=["vae", "text", "network"])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--kind", choices=list(RECIPES), default="2.1", help="of the VAE")
    parser.add_argument("--task", choices=TASKS, default="t2v", help="of the network")
    parser.add_argument("--out", type=Path, default=weights_dir())
    args = parser.parse_args()
    if args.what == "vae":
        export_vae(args.kind, args.run, args.out)
    elif args.what == "text":
        export_text(args.run, args.out)
    else:
        export_network(args.task, args.run, args.out)


if __name__ == "__main__":
    main()
