"""One toy LoRA in every spelling that files have: the same factors, other names, scales and arrangements."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wan_core.models.transformer import TransformerConfig, WanTransformer

CONFIG = TransformerConfig(dim=96, ffn_dim=160, num_heads=2, num_layers=2, text_dim=24, text_len=20)
SHAPES = {
    name: tuple(value.shape) for name, value in WanTransformer(CONFIG, device="meta").state_dict().items()
}
LAYERS = [name.removesuffix(".weight") for name, shape in SHAPES.items() if len(shape) in (2, 5)]
RANK, ALPHA = 4, 2.0

Tensors = dict[str, Tensor]
Factors = dict[str, tuple[Tensor, Tensor]]  # layer -> up (O, r), down (r, I) or (r, I, *kernel)

# How diffusers calls a layer, by the pieces of its name; of `head.head` and the embedders, by the whole.
DIFFUSERS = {
    "self_attn": "attn1", "cross_attn": "attn2", "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj", "head.head": "proj_out",
}  # fmt: skip


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def factors(seed: int = 0, layers: list[str] = LAYERS) -> Factors:
    """Factors for every linear layer and the patch embedding."""
    made: Factors = {}
    for index, layer in enumerate(layers, seed * 1000):
        out, *inside = SHAPES[f"{layer}.weight"]
        made[layer] = (0.3 * randn(out, RANK, seed=index), 0.3 * randn(RANK, *inside, seed=index + 500))
    return made


def deltas(made: Factors) -> Tensors:
    """What the factors add to each weight at alpha ALPHA, by the weight's name."""
    return {
        f"{layer}.weight": ALPHA / RANK * (up @ down.flatten(1)).view(SHAPES[f"{layer}.weight"])
        for layer, (up, down) in made.items()
    }


def as_diffusers(layer: str) -> str:
    if layer in DIFFUSERS:
        return DIFFUSERS[layer]
    if ".ffn." in layer:
        return layer.replace("ffn.0", "ffn.net.0.proj").replace("ffn.2", "ffn.net.2")
    return ".".join(DIFFUSERS.get(piece, piece) for piece in layer.split("."))


def spelled(
    pattern: str, names: str, alpha: bool, rename: Callable[[str], str] = str
) -> Callable[[Factors], Tensors]:
    """A scheme; `names` are those of down and up. Without `alpha` its factor is in up already."""
    down_name, up_name = names.split("/")

    def write(made: Factors) -> Tensors:
        tensors: Tensors = {}
        for layer, (up, down) in made.items():
            name = rename(layer)
            name = name.replace(".", "_") if "_{layer}" in pattern else name
            tensors[pattern.format(layer=name, part=down_name)] = down
            convolution = up.view(*up.shape, *[1] * (down.ndim - 2))
            tensors[pattern.format(layer=name, part=up_name)] = (
                convolution if alpha else convolution * ALPHA / RANK
            )
            if alpha:
                stem = pattern.format(layer=name, part="#").split(".#")[0]
                tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
        return tensors

    return write


SCHEMES: dict[str, Callable[[Factors], Tensors]] = {
    "diffusion-pipe": spelled("diffusion_model.{layer}.{part}.weight", "lora_A/lora_B", False),
    "kijai": spelled("diffusion_model.{layer}.{part}.weight", "lora_down/lora_up", True),
    "comfyui-full-prefix": spelled("model.diffusion_model.{layer}.{part}.weight", "lora_down/lora_up", True),
    "musubi": spelled("lora_unet_{layer}.{part}.weight", "lora_down/lora_up", True),
    "videox-fun": spelled("lora_unet__{layer}.{part}.weight", "lora_down/lora_up", True),
    "lightning-default": spelled("{layer}.{part}.default.weight", "lora_A/lora_B", False),
    "lightning-bare": spelled("{layer}.{part}.weight", "lora_A/lora_B", False),
    "lightning-alpha": spelled("diffusion_model.{layer}.{part}.weight", "lora_down/lora_up", True),
    "diffsynth": spelled("pipe.dit.{layer}.{part}.default.weight", "lora_A/lora_B", False),
    "peft": spelled("base_model.model.{layer}.{part}.weight", "lora_A/lora_B", False),
    "data-parallel": spelled("module.{layer}.{part}.weight", "lora_A/lora_B", False),
    "peft-of-diffusers": spelled(
        "base_model.model.{layer}.{part}.weight", "lora_A/lora_B", False, as_diffusers
    ),
    "diffusers": spelled("transformer.{layer}.{part}.weight", "lora_A/lora_B", False, as_diffusers),
    "diffusers-bare": spelled("{layer}.{part}.weight", "lora_A/lora_B", False, as_diffusers),
    "diffusers-old": spelled("transformer.{layer}.{part}.weight", "lora.down/lora.up", False, as_diffusers),
    "without-weight": spelled("transformer.{layer}.{part}", "lora_A/lora_B", False, as_diffusers),
    "lycoris": spelled("lycoris_{layer}.{part}.weight", "lora_down/lora_up", True),
    "lycoris-of-diffusers": spelled("lycoris_{layer}.{part}.weight", "lora_down/lora_up", True, as_diffusers),
    "onetrainer": spelled("lora_transformer_{layer}.{part}.weight", "lora_down/lora_up", True, as_diffusers),
}


def mixed(made: Factors) -> Tensors:
    """Every layer in another scheme than its neighbour."""
    schemes = list(SCHEMES.values())
    tensors: Tensors = {}
    for index, (layer, pair) in enumerate(made.items()):
        tensors |= schemes[index % len(schemes)]({layer: pair})
    return tensors


def combined(high: Factors, low: Factors, prefixes: tuple[str, str]) -> Tensors:
    """Both experts in one file."""
    return {
        f"{prefix}{layer}.{part}.weight": value * (ALPHA / RANK if part == "lora_B" else 1.0)
        for prefix, made in zip(prefixes, (high, low), strict=True)
        for layer, (up, down) in made.items()
        for part, value in (("lora_A", down), ("lora_B", up.view(*up.shape, *[1] * (down.ndim - 2))))
    }


# --- other kinds of adapters, each with the dense change it stands for ------------------------------------


def loha(layer: str) -> tuple[Tensors, Tensor]:
    out, wide = SHAPES[f"{layer}.weight"][0], math.prod(SHAPES[f"{layer}.weight"][1:])
    w1a, w1b, w2a, w2b = (
        randn(*shape, seed=i) for i, shape in enumerate(((out, RANK), (RANK, wide)) * 2, start=9)
    )
    parts = {"hada_w1_a": w1a, "hada_w1_b": w1b, "hada_w2_a": w2a, "hada_w2_b": w2b}
    return parts | {"alpha": torch.tensor(ALPHA)}, ALPHA / RANK * (w1a @ w1b) * (w2a @ w2b)


def lokr(layer: str, outer_split: bool, inner_split: bool) -> tuple[Tensors, Tensor]:
    """LoKr with either side whole or split in two; with both whole its alpha means nothing (LyCORIS)."""
    out, wide = SHAPES[f"{layer}.weight"][0], math.prod(SHAPES[f"{layer}.weight"][1:])
    sides, parts = [], {"alpha": torch.tensor(ALPHA if outer_split or inner_split else 1e10)}
    for number, (rows, columns, split) in enumerate(
        ((8, 4, outer_split), (out // 8, wide // 4, inner_split)), start=1
    ):
        a, b = randn(rows, RANK, seed=number), randn(RANK, columns, seed=number + 5)
        sides.append(a @ b)
        parts |= {f"lokr_w{number}_a": a, f"lokr_w{number}_b": b} if split else {f"lokr_w{number}": sides[-1]}
    scale = ALPHA / RANK if outer_split or inner_split else 1.0
    return parts, scale * torch.kron(*sides)


def tucker_parts(kind: str) -> tuple[Tensors, Tensor]:
    """Patch embedding adapters with a core of the kernel's size: LoRA's mid, LoHa's t1 and t2, LoKr's t2."""
    out, inside, *kernel = SHAPES["patch_embedding.weight"]
    alpha = {"alpha": torch.tensor(ALPHA)}

    def core(seed: int) -> Tensor:
        return randn(RANK, RANK, *kernel, seed=seed)

    if kind == "lora":
        up, down, mid = randn(out, RANK, seed=1), randn(RANK, inside, seed=2), core(3)
        ones = [1] * len(kernel)
        dense = torch.einsum("mn...,om,ni->oi...", mid, up, down)
        parts = {
            "lora_up.weight": up.view(out, RANK, *ones),
            "lora_down.weight": down.view(RANK, inside, *ones),
        }
        return parts | {"lora_mid.weight": mid} | alpha, ALPHA / RANK * dense
    if kind == "loha":
        parts = {}
        dense = torch.tensor(ALPHA / RANK)
        for n in (1, 2):
            a, b, t = randn(RANK, out, seed=n), randn(RANK, inside, seed=n + 5), core(n + 8)
            parts |= {f"hada_w{n}_a": a, f"hada_w{n}_b": b, f"hada_t{n}": t}
            dense = dense * torch.einsum("mn...,mo,ni->oi...", t, a, b)
        return parts | alpha, dense
    w1, a, b, t = (
        randn(8, 4, seed=1),
        randn(RANK, out // 8, seed=2),
        randn(RANK, inside // 4, seed=3),
        core(4),
    )
    inner = torch.einsum("mn...,mo,ni->oi...", t, a, b).contiguous()
    dense = ALPHA / RANK * torch.kron(w1[..., None, None, None], inner)
    return {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "lokr_t2": t} | alpha, dense
