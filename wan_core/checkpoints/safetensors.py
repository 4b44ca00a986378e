"""The safetensors container: a header reader that believes nothing.

Layout of the format: 8 bytes little-endian length, that many bytes of JSON, then the tensors back to back.
The reader checks what the format promises (unique names, sizes that follow from the shapes, ranges that
neither overlap nor leave gaps, nothing past the end) before anything uses a number from the file.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import BinaryIO, NoReturn

from ..errors import WanError
from .header import LARGEST_AXIS, LONGEST_HEADER, MOST_ELEMENTS, Header, TensorInfo, shown, shown_file

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
MOST_AXES = 8
DAMAGED = "the file is damaged or not a safetensors file; download it again"


def read_safetensors_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    A file that is shorter than its header promises comes back with a line in `problems`, since its table of
    contents is still of use. Every other fault raises WanError.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        raw = _header_bytes(file, size, path)
    data_begin = 8 + len(raw)
    table = _parse(raw, path)
    metadata = _metadata(table.pop("__metadata__", {}), path)
    tensors = {name: _tensor(name, entry, data_begin, path) for name, entry in table.items()}
    data_end = _check_ranges(tensors, data_begin, path)
    return Header("safetensors", tensors, metadata, tuple(_size_problems(size, data_begin, data_end, path)))


def _header_bytes(file: BinaryIO, size: int, path: Path) -> bytes:
    if size < 8:
        raise WanError(
            f"{shown_file(path)}: {size} bytes are too few for a safetensors file; download it again"
        )
    (length,) = struct.unpack("<Q", file.read(8))
    if length == 0:
        raise WanError(
            f"{shown_file(path)}: the header is empty (the file begins with zeros); download it again"
        )
    if length > LONGEST_HEADER:
        raise WanError(
            f"{shown_file(path)}: a header of {length:,} bytes is promised, more than the {LONGEST_HEADER:,} "
            f"the format allows; {DAMAGED}"
        )
    if 8 + length > size:
        raise WanError(
            f"{shown_file(path)}: the header alone needs {8 + length:,} bytes and the file has {size:,}: "
            "the download was cut short; download it again"
        )
    return file.read(length)


def _parse(raw: bytes, path: Path) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        table = dict(pairs)
        if len(table) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))
            raise WanError(f"{shown_file(path)}: the header lists {shown(twice)!r} twice; {DAMAGED}")
        return table

    def no_constant(word: str) -> NoReturn:
        raise ValueError(word)

    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise WanError(f"{shown_file(path)}: the header is not valid JSON; {DAMAGED}") from None
    if not isinstance(table, dict):
        raise WanError(f"{shown_file(path)}: the header is not a table of tensors; {DAMAGED}")
    return table


def _metadata(entry: object, path: Path) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise WanError(f"{shown_file(path)}: the header's metadata must be words to words; {DAMAGED}")
    return entry


def _tensor(name: str, entry: object, data_begin: int, path: Path) -> TensorInfo:
    where = f"{shown_file(path)}: tensor {shown(name)!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise WanError(f"{where} has no plain dtype, shape and data_offsets; {DAMAGED}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise WanError(f"{where} has the unknown dtype {shown(str(dtype))!r}; {DAMAGED}")
    if not _whole_numbers(shape) or _absurd(shape):
        raise WanError(f"{where} has the impossible shape {shown(str(shape))}; {DAMAGED}")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise WanError(f"{where} has the impossible byte range {shown(str(offsets))}; {DAMAGED}")
    begin, end = offsets
    if math.prod(shape) * DTYPE_BITS[dtype] != (end - begin) * 8:
        need = -(-math.prod(shape) * DTYPE_BITS[dtype] // 8)
        raise WanError(
            f"{where} of {dtype} {list(shape)} needs {need:,} bytes and is given {end - begin:,}; {DAMAGED}"
        )
    return TensorInfo(dtype, tuple(shape), data_begin + begin, data_begin + end, path)


def _absurd(shape: list[int]) -> bool:
    return len(shape) > MOST_AXES or max(shape, default=0) > LARGEST_AXIS or math.prod(shape) > MOST_ELEMENTS


def _whole_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _check_ranges(tensors: dict[str, TensorInfo], data_begin: int, path: Path) -> int:
    """The tensors must lie back to back from the first byte on; returns where the last one ends."""
    expected = data_begin
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != expected:
            fault = "overlaps the one before it" if info.begin < expected else "leaves a gap before it"
            raise WanError(
                f"{shown_file(path)}: tensor {shown(name)!r} begins at byte {info.begin:,}, expected "
                f"{expected:,}: it {fault}; {DAMAGED}"
            )
        expected = info.end
    return expected


def _size_problems(size: int, data_begin: int, data_end: int, path: Path) -> list[str]:
    if size < data_end:
        percent = 100 * (size - data_begin) / (data_end - data_begin)
        return [
            f"{shown_file(path)}: the header promises {data_end:,} bytes and the file has {size:,} "
            f"({percent:.0f}% of the weights): the download was cut short; download it again"
        ]
    if size > data_end:
        return [
            f"{shown_file(path)}: the header accounts for {data_end:,} bytes and the file has {size:,}; "
            f"{DAMAGED}"
        ]
    return []
