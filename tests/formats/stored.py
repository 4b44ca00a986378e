"""One toy model in every form people have it in: its names, its numbers, its container.

Each step takes and gives tensors by name. A quantization also gives the numbers its codes stand for, worked
out here in float32 (for GGUF by the `gguf` package), so a test can compare with the plain model of those.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.unit import checkpoint_files as files

Tensors = dict[str, Tensor]
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
HALF_SHARDS = 2


@dataclass(frozen=True)
class Stored:
    """What a file holds, and the float32 numbers its weights stand for, by the same names."""

    tensors: Tensors
    numbers: Tensors
    metadata: dict[str, str] = field(default_factory=dict)


def calm(tensors: Tensors) -> Tensors:
    """Weights that keep the size of what they are applied to, so that errors are not blown up."""
    return {
        name: value / value[0].numel() ** 0.5 if value.ndim > 1 else 0.1 * value
        for name, value in tensors.items()
    }


# --- names ------------------------------------------------------------------------------------------------

Rename = Callable[[Tensors], Tensors]


def prefixed(prefix: str) -> Rename:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def in_layout(family: str, name: str) -> Rename:
    return lambda tensors: files.renamed(tensors, files.KEYMAPS[family][name])


TRANSFORMER_NAMES: dict[str, Rename] = {
    "released": dict,
    "behind model.diffusion_model.": prefixed("model.diffusion_model."),
    "behind model.": prefixed("model."),
    "diffusers": in_layout("transformer", "diffusers"),
}
UMT5_NAMES: dict[str, Rename] = {"released": dict, "huggingface": in_layout("umt5", "hf")}


# --- numbers ----------------------------------------------------------------------------------------------

Quantize = Callable[[Tensors], Stored]


def is_matrix(name: str, value: Tensor) -> bool:
    return value.ndim == 2 and name.endswith(".weight")


def cast(dtype: torch.dtype) -> Quantize:
    """Every tensor, norms and biases too, in another dtype."""

    def quantize(tensors: Tensors) -> Stored:
        stored = {name: value.to(dtype) for name, value in tensors.items()}
        return Stored(stored, {name: value.float() for name, value in stored.items()})

    return quantize


def scaled(dtype: torch.dtype, suffix: str, per_row: bool = False, weight: str = ".weight") -> Quantize:
    """Every matrix as codes times a scale; the rest stays in bfloat16."""
    most = 127 if dtype == torch.int8 else torch.finfo(dtype).max

    def quantize(tensors: Tensors) -> Stored:
        stored, numbers = {}, {}
        for name, value in tensors.items():
            if not is_matrix(name, value):
                stored[name] = value.bfloat16()
                numbers[name] = stored[name].float()
                continue
            layer = name.removesuffix(".weight")
            scale = (value.abs().amax(1, keepdim=True) if per_row else value.abs().max()) / most
            codes = (value / scale).clamp(-most, most)
            codes = codes.round().to(dtype) if dtype == torch.int8 else codes.to(dtype)
            stored |= {layer + weight: codes, layer + suffix: scale}
            numbers[name] = codes.float() * scale
        return Stored(stored, numbers)

    return quantize


def marked(quantize: Quantize, marker: Tensor) -> Quantize:
    """Scaled fp8 in the old spelling: one marker for the file, and input scales that are of no use here."""

    def with_marker(tensors: Tensors) -> Stored:
        made = quantize(tensors)
        prefix = next(
            (start for start in ("model.diffusion_model.", "model.") if _all_behind(tensors, start)), ""
        )
        layers = [
            name.removesuffix(".scale_weight") for name in made.tensors if name.endswith(".scale_weight")
        ]
        inputs = {f"{layer}.scale_input": torch.tensor(0.5) for layer in layers}
        return Stored({**made.tensors, **inputs, f"{prefix}scaled_fp8": marker}, made.numbers)

    return with_marker


def noted(quantize: Quantize, kind: str, in_metadata: bool = False) -> Quantize:
    """ComfyUI's note on every layer, as a tensor each or together in the metadata."""

    def with_notes(tensors: Tensors) -> Stored:
        made = quantize(tensors)
        layers = [
            name.removesuffix(".weight_scale") for name in made.tensors if name.endswith(".weight_scale")
        ]
        note = {"format": kind}
        if in_metadata:
            table = json.dumps({"layers": dict.fromkeys(layers, note)})
            return Stored(made.tensors, made.numbers, {"_quantization_metadata": table})
        code = json.dumps(note).encode()
        notes = {f"{layer}.comfy_quant": torch.tensor(list(code), dtype=torch.uint8) for layer in layers}
        return Stored({**made.tensors, **notes}, made.numbers)

    return with_notes


def _all_behind(tensors: Tensors, prefix: str) -> bool:
    return all(name.startswith(prefix) for name in tensors)


# scheme -> (how, the word `inspect` has for it, relative L2 error of normally distributed numbers, at most)
QUANTIZATIONS: dict[str, tuple[Quantize, str, float]] = {
    "float32": (cast(torch.float32), "float32", 0.0),
    "bfloat16": (cast(torch.bfloat16), "bfloat16", 0.003),
    "float16": (cast(torch.float16), "float16", 0.0003),
    "fp8 e4m3": (cast(E4M3), "fp8_e4m3fn", 0.03),
    "fp8 e5m2": (cast(E5M2), "fp8_e5m2", 0.06),
    "fp8 scaled, old": (
        marked(scaled(E4M3, ".scale_weight"), torch.zeros(2).to(E4M3)),
        "fp8_e4m3fn_scaled",
        0.03,
    ),
    "fp8 scaled, old, e5m2": (
        marked(scaled(E5M2, ".scale_weight"), torch.zeros(0).to(E5M2)),
        "fp8_e5m2_scaled",
        0.06,
    ),
    "fp8 scaled, new": (
        noted(scaled(E4M3, ".weight_scale"), "float8_e4m3fn"),
        "fp8_e4m3fn_scaled",
        0.03,
    ),
    "fp8 scaled, in the metadata": (
        noted(scaled(E5M2, ".weight_scale"), "float8_e5m2", in_metadata=True),
        "fp8_e5m2_scaled",
        0.06,
    ),
    "fp8 per row, no marker": (scaled(E4M3, ".weight_scale", per_row=True), "fp8_e4m3fn_scaled", 0.03),
    "int8 per row": (scaled(torch.int8, ".weight_scale", per_row=True), "int8", 0.01),
    "int8 per tensor": (scaled(torch.int8, ".weight_scale"), "int8", 0.02),
    "int8 of ComfyUI": (
        noted(scaled(torch.int8, ".weight_scale"), "int8_tensorwise"),
        "int8",
        0.02,
    ),
    "quanto": (
        scaled(torch.int8, ".weight._scale", per_row=True, weight=".weight._data"),
        "quanto_int8",
        0.01,
    ),
}
# ggml type -> relative L2 error of normally distributed numbers, at most; None: the package cannot quantize,
# so the blocks are random bytes and the numbers are what they stand for
GGUF_TYPES: dict[str, float | None] = {
    "F32": 0.0, "F16": 0.0003, "BF16": 0.003, "Q8_0": 0.01,
    "Q5_0": 0.05, "Q5_1": 0.05, "Q4_0": 0.1, "Q4_1": 0.1,
    "Q2_K": None, "Q3_K": None, "Q4_K": None, "Q5_K": None, "Q6_K": None, "IQ4_NL": None, "IQ4_XS": None,
}  # fmt: skip
# Where in a block the float16 scales are.
SCALES_AT = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip


def random_blocks(kind: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """(rows, bytes per row) of blocks whose integers are random and whose scales are small."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    random = np.random.default_rng(seed)
    data = random.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    for at in SCALES_AT[kind]:
        scale = random.uniform(1e-5, 1e-4, len(data)).astype(np.float16)
        data[:, at : at + 2] = scale[:, None].view(np.uint8)
    return data.reshape(rows, -1)


def write_gguf(
    path: Path, tensors: Tensors, kind: str, architecture: str = "wan", most_axes: int = 4
) -> Tensors:
    """Matrices in a ggml type, the rest in F32, as conversion tools do; returns the numbers it stands for.

    ggml knows four axes: of more the first two become one, and the real shape is noted.
    """
    writer = gguf.GGUFWriter(path, architecture)
    dtype, numbers = gguf.GGMLQuantizationType[kind], {}
    block, _ = gguf.GGML_QUANT_SIZES[dtype]
    for seed, (name, value) in enumerate(tensors.items()):
        if not is_matrix(name, value) or value.shape[1] % block:
            numbers[name] = value
            if value.ndim > most_axes:
                writer.add_array(f"comfy.gguf.orig_shape.{name}", list(value.shape))
                value = value.flatten(0, 1)
            writer.add_tensor(name, value.numpy())
            continue
        data = (
            random_blocks(kind, *value.shape, seed=seed)
            if GGUF_TYPES[kind] is None
            else gguf.quantize(value.numpy(), dtype)
        )
        numbers[name] = torch.from_numpy(np.array(gguf.dequantize(data, dtype), dtype=np.float32))
        writer.add_tensor(name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return numbers


# --- containers -------------------------------------------------------------------------------------------


def write_safetensors(folder: Path, stored: Stored) -> Path:
    path = folder / "model.safetensors"
    save_file({name: value.contiguous() for name, value in stored.tensors.items()}, path, stored.metadata)
    return path


def write_shards(folder: Path, stored: Stored) -> Path:
    """Two files and their index, as large models are released; the scales may lie in the other one."""
    names = sorted(stored.tensors, key=lambda name: name[::-1])
    table = {}
    for shard in range(HALF_SHARDS):
        file = f"diffusion_pytorch_model-{shard + 1:05}-of-{HALF_SHARDS:05}.safetensors"
        own = names[shard::HALF_SHARDS]
        save_file({name: stored.tensors[name].contiguous() for name in own}, folder / file, stored.metadata)
        table |= dict.fromkeys(own, file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}), encoding="utf-8")
    return folder


def write_pth(folder: Path, stored: Stored) -> Path:
    path = folder / "model.pth"
    torch.save(stored.tensors, path)
    return path


CONTAINERS = {"safetensors": write_safetensors, "shards": write_shards, "pth": write_pth}
