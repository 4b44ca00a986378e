"""How a file stores its numbers: the dtype, or the quantization scheme, by names, dtypes and shapes.

Words used: float32, float16, bfloat16, float64; fp8_e4m3fn, fp8_e5m2 (a plain cast) and both with _scaled;
int8, quanto_int8, nvfp4 and other names as ComfyUI's quantized layers give them; gguf_q4_k and its like.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .gguf import PLAIN_TYPES
from .header import Header, TensorInfo

PLAIN = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
LOADABLE = ("float32", "bfloat16", "float16")
_FP8 = {"F8_E4M3": "fp8_e4m3fn", "F8_E5M2": "fp8_e5m2"}
_FORMATS = {"float8_e4m3fn": "fp8_e4m3fn_scaled", "float8_e5m2": "fp8_e5m2_scaled", "int8_tensorwise": "int8"}
_SCALES = (".scale_weight", ".weight_scale", ".weight._scale")  # old spelling, new spelling, quanto
_SIDE = re.compile(
    r"(?:^|\.)(?:scaled_fp8|comfy_quant|scale_weight|scale_input|(?:weight|input|output)_scale(?:_\d)?"
    r"|(?:weight|input)_global_scale|weight\._scale|weight\._zeropoint)$"
)
LONGEST_NOTE = 4096  # a comfy_quant entry is a line of JSON


@dataclass(frozen=True)
class Storage:
    """How the weights are kept. `packed` names the tensors that hold two numbers in a byte."""

    quantization: str | None
    notes: tuple[str, ...] = ()
    packed: frozenset[str] = frozenset()


def is_side_tensor(name: str) -> bool:
    """Whether a tensor describes a quantization (scales, markers) and is no weight itself."""
    return _SIDE.search(name) is not None


def detect_storage(header: Header, path: Path) -> Storage:
    """The scheme of most of a file's numbers (mixed files keep norms and biases in a wider dtype)."""
    formats = _comfy_formats(header, path)
    elements: Counter[str] = Counter()
    packed = set()
    for name, info in header.tensors.items():
        if is_side_tensor(name) or name == "spiece_model":  # a small encoder's tokenizer can outweigh it
            continue
        kind = _kind(name, info, header, formats)
        if kind == "nvfp4" and info.dtype == "U8":
            packed.add(name)
        elements[kind] += info.elements
    if not elements:
        return Storage(None)
    quantization = elements.most_common(1)[0][0]
    return Storage(quantization, tuple(_notes(header, formats)), frozenset(packed))


def _kind(name: str, info: TensorInfo, header: Header, formats: Mapping[str, str]) -> str:
    """One weight's scheme."""
    layer = name.removesuffix("._data").removesuffix(".weight")
    is_weight = name.endswith((".weight", ".weight._data"))
    if is_weight and layer in formats:
        return _FORMATS.get(formats[layer], formats[layer])
    if header.container == "gguf" and info.dtype not in PLAIN_TYPES:
        return f"gguf_{info.dtype.lower()}"
    if info.dtype in _FP8:
        scaled = any(layer + suffix in header.tensors for suffix in _SCALES)
        return _FP8[info.dtype] + ("_scaled" if scaled else "")
    if name.endswith(".weight._data"):
        return "quanto_int8"
    if info.dtype == "U8" and f"{layer}.weight_scale" in header.tensors:
        return "nvfp4"
    return PLAIN.get(info.dtype, {"I8": "int8"}.get(info.dtype, info.dtype.lower()))


def _notes(header: Header, formats: Mapping[str, str]) -> list[str]:
    notes = []
    scales = [info for name, info in header.tensors.items() if name.endswith(_SCALES)]
    if scales:
        rows = sum(len(info.shape) == 2 and info.shape[-1] == 1 for info in scales)
        one_each = sum(info.elements == 1 for info in scales)
        shape = "one per row" if rows else "one per tensor" if one_each == len(scales) else "in blocks"
        notes.append(f"{len(scales)} weights carry scales, {shape}")
        marked = formats or any(name.endswith("scaled_fp8") for name in header.tensors)
        if not marked:
            notes.append("the scales are there without a marker, so programs that look for one ignore them")
    return notes


def _comfy_formats(header: Header, path: Path) -> dict[str, str]:
    """Layer -> format, from ComfyUI's notes: in the header's metadata, or a uint8 JSON tensor per layer."""
    formats: dict[str, str] = {}
    table = _as_json(header.metadata.get("_quantization_metadata", "{}"))
    layers = table.get("layers")
    for layer, note in layers.items() if isinstance(layers, dict) else ():
        if isinstance(note, dict) and isinstance(note.get("format"), str):
            formats[layer] = note["format"]
    noted = {name: info for name, info in header.tensors.items() if name.endswith(".comfy_quant")}
    if noted and header.container == "safetensors":
        size = path.stat().st_size
        with path.open("rb") as file:
            for name, info in noted.items():
                if info.end > size:
                    continue  # a cut download
                file.seek(info.begin)
                note = _as_json(file.read(min(info.end - info.begin, LONGEST_NOTE)))
                if isinstance(note.get("format"), str):
                    formats[name.removesuffix(".comfy_quant")] = note["format"]
    return formats


def _as_json(text: str | bytes) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
