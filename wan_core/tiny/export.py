"""Gather what the training left into the files that ship, named and laid out as users have them.

    python -m wan_core.tiny.export --vae runs/vae --text runs/text --data runs/latents --experts runs/experts

The VAE's own latent statistics are folded into the two 1x1x1 convolutions around the latent, so that its raw
latents have the released mean and deviation and nothing downstream can tell it from the released one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..models.latent_scale import LATENT_STATISTICS
from . import weights_dir
from .train_experts import latent_scale, read_latents

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


def export(vae: Path, text: Path, data: Path, experts: Path, out: Path) -> None:
    """Write the four files into `out`, laid out like ComfyUI's models folder."""
    mean, std = latent_scale(read_latents(data)[0])
    folded = fold_latent_scale(load_file(vae / "vae.safetensors"), mean, std)
    write(folded, out / "vae" / "wan_tiny_vae.safetensors", torch.float16)
    named = huggingface_names(load_file(text / "text.safetensors"))
    write(named, out / "text_encoders" / "wan_tiny_umt5.safetensors", torch.float16)
    for expert in ("high_noise", "low_noise"):
        weights = load_file(experts / f"{expert}.safetensors")
        write(weights, out / "diffusion_models" / f"wan_tiny_t2v_{expert}.safetensors", torch.bfloat16)


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    for name in ("vae", "text", "data", "experts"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=weights_dir())
    args = parser.parse_args()
    export(args.vae, args.text, args.data, args.experts, args.out)


if __name__ == "__main__":
    main()
