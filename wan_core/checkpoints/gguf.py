"""The GGUF container's header (ggml's format, versions 2 and 3): what a file holds, without its weights.

Shapes are stored fastest axis first and are turned round here. Files made for ComfyUI keep the shape of
tensors with more than four axes in the metadata, as `comfy.gguf.orig_shape.<name>`.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

from ..errors import WanError
from .header import LARGEST_AXIS, MOST_ELEMENTS, Header, TensorInfo, shown, shown_file

# ggml's type number -> name, elements per block, bytes per block
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
BLOCKS = {name: (block, block_bytes) for name, block, block_bytes in TYPES.values()}
PLAIN_TYPES = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")
# metadata value type -> struct code; 8 is a string, 9 an array
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
LONGEST_SHAPE = 8
LONGEST_HEADER = 32_000_000  # bytes; a text encoder's, with 256,384 tokens, has about 6 MB
DAMAGED = "the file is damaged or was cut short; download it again"


def read_gguf_header(path: Path) -> Header:
    """Read and check the header of a GGUF file; faults as in `read_safetensors_header`."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(data, path).header()


def read_gguf_arrays(path: Path, keys: Collection[str]) -> dict[str, list]:
    """The arrays of the metadata under these keys: strings or numbers. Keys the file lacks are left out."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(data, path, keys).arrays()


class _Reader:
    """Walks the header from front to back; every length is checked against what is left of the file."""

    def __init__(self, data: mmap.mmap, path: Path, wanted: Collection[str] = ()) -> None:
        self.data = data
        self.path = path
        self.wanted = wanted
        self.kept: dict[str, list] = {}
        self.end = min(len(data), LONGEST_HEADER)
        self.at = 4  # past the magic word

    def header(self) -> Header:
        tensor_count, value_count = self.counts()
        metadata = self.metadata(value_count)
        entries = self.entries(tensor_count)
        word = metadata.get("general.alignment", "32")
        if not word.isdecimal() or not 0 < (alignment := int(word[:9])) <= 2**20:
            raise self.fault(f"the alignment is {shown(word)}")
        begin = -(-self.at // alignment) * alignment
        tensors = {name: self.placed(name, entry, begin) for name, entry in entries.items()}
        return Header("gguf", tensors, metadata, self.size_problems(self.checked_end(tensors, begin)))

    def arrays(self) -> dict[str, list]:
        self.metadata(self.counts()[1])
        return self.kept

    def counts(self) -> tuple[int, int]:
        version = self.number("I")
        if version not in (2, 3):
            raise self.fault(f"GGUF version {version} is not known (2 and 3 are)")
        tensors, values = self.number("Q"), self.number("Q")
        # A tensor takes at least 24 bytes of header, a metadata value 13: no count may exceed what fits.
        if tensors * 24 + values * 13 > self.end:
            raise self.fault(f"{tensors:,} tensors and {values:,} metadata values cannot fit")
        return tensors, values

    def metadata(self, count: int) -> dict[str, str]:
        """Scalars and strings, as words. Of the arrays, original shapes and those wanted are kept."""
        values: dict[str, str] = {}
        seen: set[str] = set()
        for _ in range(count):
            key, kind = self.string(), self.number("I")
            if key in seen:
                raise self.fault(f"the metadata lists {shown(key)!r} twice")
            seen.add(key)
            if kind == ARRAY:
                self.array(key)
            elif kind == STRING:
                values[key] = self.string()
            else:
                values[key] = str(self.number(self.scalar(kind)))
        return values

    def array(self, key: str) -> None:
        """Keep an array or step over it."""
        keep = key in self.wanted or key.startswith(ORIGINAL_SHAPE)
        kind, count = self.number("I"), self.number("Q")
        if kind == STRING:
            if count * 8 > self.end - self.at:
                raise self.fault(f"an array of {count:,} strings cannot fit")
            if keep:
                self.kept[key] = [self.string() for _ in range(count)]
                return
            for _ in range(count):
                self.skip(self.number("Q"))
            return
        code, start = self.scalar(kind), self.at
        self.skip(count * struct.calcsize("<" + code))
        if keep:
            self.kept[key] = list(struct.unpack_from(f"<{count}{code}", self.data, start))

    def entries(self, count: int) -> dict[str, tuple[tuple[int, ...], int, int]]:
        entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(count):
            name, axes = self.string(), self.number("I")
            if axes > LONGEST_SHAPE:
                raise self.fault(f"tensor {shown(name)!r} has {axes} axes")
            if name in entries:
                raise self.fault(f"tensor {shown(name)!r} is listed twice")
            shape = tuple(self.number("Q") for _ in range(axes))[::-1]
            entries[name] = (shape, self.number("I"), self.number("Q"))
        return entries

    def placed(self, name: str, entry: tuple[tuple[int, ...], int, int], begin: int) -> TensorInfo:
        shape, kind, offset = entry
        if kind not in TYPES:
            raise self.fault(f"tensor {shown(name)!r} has the unknown type {kind}")
        dtype, block, block_bytes = TYPES[kind]
        elements = math.prod(shape)
        if elements > MOST_ELEMENTS or max(shape, default=0) > LARGEST_AXIS or (shape or (1,))[-1] % block:
            raise self.fault(f"tensor {shown(name)!r} of {dtype} has the impossible shape {list(shape)}")
        original = self.kept.get(ORIGINAL_SHAPE + name)
        if original is not None:
            if not _is_shape(original) or math.prod(original) != elements:
                raise self.fault(
                    f"tensor {shown(name)!r} has the shape {list(shape)}, and a note says "
                    f"{shown(str(original))}"
                )
            shape = tuple(original)
        start = begin + offset
        return TensorInfo(dtype, shape, start, start + elements // block * block_bytes, self.path)

    def checked_end(self, tensors: Mapping[str, TensorInfo], begin: int) -> int:
        """Where the last tensor ends; two may not share a byte."""
        end = begin
        for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
            if info.begin < end and info.elements:
                raise self.fault(
                    f"tensor {shown(name)!r} begins at byte {info.begin:,}, expected {end:,} or later: it "
                    "overlaps the one before it"
                )
            end = max(end, info.end)
        return end

    def size_problems(self, end: int) -> tuple[str, ...]:
        size = len(self.data)
        if size >= end:
            return ()
        return (
            f"{shown_file(self.path)}: the header promises {end:,} bytes and the file has {size:,}: "
            "the download was cut short; download it again",
        )

    def scalar(self, kind: int) -> str:
        if kind not in SCALARS:
            raise self.fault(f"the metadata holds the unknown type {kind}")
        return SCALARS[kind]

    def number(self, code: str) -> int:
        start = self.at
        self.skip(struct.calcsize("<" + code))
        return struct.unpack_from("<" + code, self.data, start)[0]

    def string(self) -> str:
        length = self.number("Q")
        start = self.at
        self.skip(length)
        return self.data[start : self.at].decode("utf-8", errors="replace")

    def skip(self, length: int) -> None:
        if length > self.end - self.at:
            limit = "the end of the file" if self.end == len(self.data) else f"{LONGEST_HEADER:,} bytes"
            raise self.fault(f"the header runs past {limit}")
        self.at += length

    def fault(self, what: str) -> WanError:
        return WanError(f"{shown_file(self.path)}: {what}; {DAMAGED}")


def _is_shape(value: list) -> bool:
    return len(value) <= LONGEST_SHAPE and all(type(axis) is int and axis > 0 for axis in value)
