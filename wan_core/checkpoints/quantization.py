"""How a file stores its numbers: the dtype, or the quantization scheme, by names, dtypes and shapes.

Words used: float32, float16, bfloat16, float64; fp8_e4m3fn, fp8_e5m2 (a plain cast) and both with _scaled;
int8, quanto_int8, nvfp4 and other names as ComfyUI's quantized layers give them; gguf_q4_k and its like.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..quantization import READABLE
from .containers import map_stored
from .gguf import PLAIN_TYPES
from .header import Header, TensorInfo, shown

PLAIN = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
WIDE = ("float32", "float64")  # what nobody computes a 14B model in: rounded when it is loaded
_FP8 = {"F8_E4M3": "fp8_e4m3fn", "F8_E5M2": "fp8_e5m2"}
_INT8_NOTE = "int8_tensorwise"
_FORMATS = {"float8_e4m3fn": "fp8_e4m3fn_scaled", "float8_e5m2": "fp8_e5m2_scaled", _INT8_NOTE: "int8"}
_SCALES = (".scale_weight", ".weight_scale", ".weight._scale")  # old spelling, new spelling, quanto
# What changes a weight's numbers beyond a scale for each row, by schemes that are not read here.
_FURTHER = (".weight_scale_2", ".weight_global_scale", ".weight_scale_inv", ".weight._zeropoint")
_FURTHER += (".weight_s_rel", ".weight_s_channel", ".weight_codebook", ".pre_quant_scale")
_SIDE = re.compile(
    r"(?:^|\.)(?:scaled_fp8|comfy_quant|scale_weight|scale_input|(?:weight|input|output)_scale(?:_\d|_inv)?"
    r"|(?:weight|input)_global_scale|weight\._scale|weight\._zeropoint|weight_s_(?:rel|channel)"
    r"|weight_codebook|pre_quant_scale)$"
)
LONGEST_NOTE = 4096  # a comfy_quant entry is a line of JSON

Notes = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Storage:
    """How the weights are kept.

    quantization  the scheme of most of the numbers
    notes         what there is to say about it, a line each
    packed        the tensors that hold two numbers in a byte
    scales        weight -> its scale, both by their stored names
    formats       layer (stored name) -> what the file notes for ComfyUI's quantized layers
    unreadable    weight -> the scheme that cannot be turned into numbers here, in words
    """

    quantization: str | None
    notes: tuple[str, ...] = ()
    packed: frozenset[str] = frozenset()
    scales: Mapping[str, str] = field(default_factory=dict)
    formats: Notes = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)


def is_side_tensor(name: str) -> bool:
    """Whether a tensor describes a quantization (scales, markers) and is no weight itself."""
    return _SIDE.search(name) is not None


def is_plain(dtype: str) -> bool:
    """Whether a container's dtype is one that torch computes with."""
    return dtype in PLAIN


def layer_of(name: str) -> str:
    """The stored name of the layer a weight belongs to; quanto keeps the weight one level deeper."""
    return name.removesuffix("._data").removesuffix(".weight")


def detect_storage(header: Header) -> Storage:
    """The scheme of most of a file's numbers (mixed files keep norms and biases in a wider dtype)."""
    formats = _comfy_formats(header)
    elements: Counter[str] = Counter()
    packed, scales, unreadable = set(), {}, {}
    for name, info in header.tensors.items():
        if is_side_tensor(name) or name == "spiece_model":  # a small encoder's tokenizer can outweigh it
            continue
        scale = _scale_of(name, header)
        kind = _kind(name, info, header, formats, scale)
        if kind == "nvfp4" and info.dtype == "U8":
            packed.add(name)
        if scale is not None:
            scales[name] = scale
        if fault := _unreadable(name, info, header, formats, kind, scale):
            unreadable[name] = fault
        elements[kind] += info.elements
    if not elements:
        return Storage(None)
    return Storage(
        quantization=elements.most_common(1)[0][0],
        notes=tuple(_notes(header, formats)),
        packed=frozenset(packed),
        scales=scales,
        formats=formats,
        unreadable=unreadable,
    )


def _scale_of(name: str, header: Header) -> str | None:
    """The stored name of a weight's scale."""
    if not name.endswith((".weight", ".weight._data")):
        return None
    return next((scale for suffix in _SCALES if (scale := layer_of(name) + suffix) in header.tensors), None)


def _kind(name: str, info: TensorInfo, header: Header, formats: Notes, scale: str | None) -> str:
    """One weight's scheme."""
    layer = layer_of(name)
    if name.endswith((".weight", ".weight._data")) and layer in formats:
        noted = str(formats[layer]["format"])
        return _FORMATS.get(noted, noted)
    if header.container == "gguf" and info.dtype not in PLAIN_TYPES:
        return f"gguf_{info.dtype.lower()}"
    if name.endswith(".weight._data"):
        return "quanto_int8" if info.dtype == "I8" else f"quanto_{_FP8.get(info.dtype, 'packed')}"
    if info.dtype in _FP8:
        return _FP8[info.dtype] + ("" if scale is None else "_scaled")
    if info.dtype == "U8" and f"{layer}.weight_scale" in header.tensors:
        return "nvfp4"
    return PLAIN.get(info.dtype, {"I8": "int8"}.get(info.dtype, info.dtype.lower()))


def _unreadable(
    name: str, info: TensorInfo, header: Header, formats: Notes, kind: str, scale: str | None
) -> str | None:
    """Why a weight cannot be turned into numbers, in words; None when it can."""
    if info.dtype in PLAIN:
        return None
    if not info.shape or not info.elements:
        return f"{kind} of the shape {list(info.shape)}"
    layer = layer_of(name)
    note = formats.get(layer, {})
    if info.dtype not in READABLE or note.get("format", _INT8_NOTE) not in _FORMATS:
        return kind
    if further := next((layer + suffix for suffix in _FURTHER if layer + suffix in header.tensors), None):
        return f"{kind} with {shown(further.removeprefix(layer + '.'))}"
    if _rotated(note):
        return f"{kind} with rotated weights (convrot)"
    if scale is None:
        return "int8 without scales" if info.dtype == "I8" else None
    found = header.tensors[scale]
    if found.elements != 1 and (found.elements, found.shape[:1]) != (info.shape[0], info.shape[:1]):
        return f"{kind} with scales {list(found.shape)} for {list(info.shape)}"
    return None


def _rotated(note: Mapping[str, object]) -> bool:
    """Whether the columns were mixed before they were rounded."""
    inner = note.get("params")
    return bool(note.get("convrot") or (isinstance(inner, dict) and inner.get("convrot")))


def _notes(header: Header, formats: Notes) -> list[str]:
    notes = []
    scales = [info for name, info in header.tensors.items() if name.endswith(_SCALES)]
    if scales:
        one_each = all(info.elements == 1 for info in scales)
        in_blocks = any(len(info.shape) > 1 and info.shape[-1] > 1 for info in scales)
        shape = "one per tensor" if one_each else "in blocks" if in_blocks else "one per row"
        notes.append(f"{len(scales)} weights carry scales, {shape}")
        marked = formats or any(name.endswith("scaled_fp8") for name in header.tensors)
        if not marked:
            notes.append("the scales are there without a marker, so programs that look for one ignore them")
    return notes


def _comfy_formats(header: Header) -> dict[str, Mapping[str, object]]:
    """Layer -> ComfyUI's note about it, from any of the three places it is written.

    The header's metadata, a uint8 tensor of JSON for each layer, or, in older files, one marker for the whole
    file: of two elements when the matrix product must not be done in fp8.
    """
    formats: dict[str, Mapping[str, object]] = {}
    table = _as_json(header.metadata.get("_quantization_metadata", "{}"))
    layers = table.get("layers")
    for layer, note in layers.items() if isinstance(layers, dict) else ():
        if isinstance(note, dict) and isinstance(note.get("format"), str):
            formats[layer] = note
    noted = [name for name in header.tensors if name.endswith(".comfy_quant")]
    if noted and not header.problems:  # a cut download has its notes past the end
        infos = {name: header.tensors[name] for name in noted}
        short = [name for name, info in infos.items() if info.dtype == "U8" and info.elements <= LONGEST_NOTE]
        for name, stored in map_stored(header, short).items():
            note = _as_json(stored.numpy().tobytes())
            if isinstance(note.get("format"), str):
                formats[name.removesuffix(".comfy_quant")] = note
    marker = next((info for name, info in header.tensors.items() if name.endswith("scaled_fp8")), None)
    if marker is not None:
        for name, info in header.tensors.items():
            layer = layer_of(name)
            if info.dtype in _FP8 and f"{layer}.scale_weight" in header.tensors:
                formats[layer] = {
                    "format": "float" + _FP8[info.dtype][2:],
                    "full_precision_matrix_mult": marker.elements == 2,
                }
    return formats


def _as_json(text: str | bytes) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
