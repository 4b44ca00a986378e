"""Weight files of the released shapes, as large as asked for and made in a moment.

The weights are a hole in the file: zeros that take no space on the disk, and are mapped and read like others.
Only the small tensors that tell two experts apart are written.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wan_core.models.transformer import TransformerConfig, WanTransformer

Shape = tuple[int, ...]
TELLTALE = "head.modulation"
F32, Q4_0 = 0, 2  # ggml's numbers for them


@dataclass(frozen=True)
class Entry:
    """One tensor of a file to be made."""

    dtype: str
    shape: Shape
    size: int  # bytes


def a14b(layers: int) -> TransformerConfig:
    """T2V-A14B with fewer of its 40 layers."""
    return TransformerConfig(num_layers=layers)


def shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Every tensor of a transformer."""
    return {
        name: tuple(value.shape) for name, value in WanTransformer(config, device="meta").state_dict().items()
    }


def write_bf16(path: Path, config: TransformerConfig, telltale: int) -> Path:
    """As ComfyUI's repackaged files, in bfloat16."""
    return write_plain(path, shapes(config), telltale)


def write_plain(path: Path, tensors: Mapping[str, Shape], telltale: int, written: str = TELLTALE) -> Path:
    """Any tensors in bfloat16; `written` is the one that is no hole."""
    entries = {name: _plain("BF16", shape) for name, shape in tensors.items()}
    return _safetensors(path, entries, telltale, written)


def write_fp8_scaled(path: Path, config: TransformerConfig, telltale: int) -> Path:
    """Scaled fp8 in the old spelling: every matrix in one byte a number, and a scale for each."""
    entries = {"scaled_fp8": Entry("F8_E4M3", (2,), 2)}
    for name, shape in shapes(config).items():
        matrix = len(shape) == 2 and name.endswith(".weight")
        entries[name] = _plain("F8_E4M3" if matrix else "BF16", shape)
        if matrix:
            entries[name.removesuffix("weight") + "scale_weight"] = _plain("F32", ())
    return _safetensors(path, entries, telltale)


def write_gguf(path: Path, config: TransformerConfig, telltale: int) -> Path:
    """Q4_0 blocks for every matrix, float32 for the rest; shapes are stored fastest axis first."""
    table, offset = b"", 0
    places = {}
    for name, shape in shapes(config).items():
        entry = _q4_0(shape) if len(shape) == 2 and shape[-1] % 32 == 0 else _plain("F32", shape)
        kind = Q4_0 if entry.dtype == "Q4_0" else F32
        table += _word(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        table += struct.pack("<IQ", kind, offset)
        places[name] = (offset, entry)
        offset += -(-entry.size // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(places), 1)
    head += _word("general.architecture") + struct.pack("<I", 8) + _word("wan") + table
    head += bytes(-len(head) % 32)
    return _write(path, head, offset, *places[TELLTALE], telltale)


WRITERS = {"bf16": write_bf16, "fp8_scaled": write_fp8_scaled, "gguf_q4_0": write_gguf}
SUFFIXES = {"bf16": ".safetensors", "fp8_scaled": ".safetensors", "gguf_q4_0": ".gguf"}


def _safetensors(path: Path, entries: Mapping[str, Entry], telltale: int, written: str = TELLTALE) -> Path:
    header, offset = {}, 0
    places = {}
    for name, entry in entries.items():
        header[name] = {
            "dtype": entry.dtype, "shape": entry.shape, "data_offsets": (offset, offset + entry.size)
        }  # fmt: skip
        places[name] = (offset, entry)
        offset += entry.size
    text = json.dumps(header).encode()
    return _write(path, struct.pack("<Q", len(text)) + text, offset, *places[written], telltale)


def _write(path: Path, head: bytes, size: int, offset: int, entry: Entry, telltale: int) -> Path:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
        file.seek(len(head) + offset)
        file.write(bytes([telltale]) * entry.size)
    return path


def _plain(dtype: str, shape: Shape) -> Entry:
    width = {"F8_E4M3": 1, "BF16": 2, "F32": 4}[dtype]
    for axis in shape:
        width *= axis
    return Entry(dtype, shape, width)


def _q4_0(shape: Shape) -> Entry:
    """32 numbers in 18 bytes."""
    return Entry("Q4_0", shape, _plain("F8_E4M3", shape).size // 32 * 18)


def _word(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()
