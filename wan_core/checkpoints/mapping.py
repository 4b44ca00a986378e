"""Tensors over a mapped file: they cost address space until touched, and the file stays as it is."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import WanError
from .gguf import BLOCKS
from .header import TensorInfo, shown_file

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64, "C64": torch.complex64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip
MAP_NORESERVE = 0x4000  # Linux's number; Python's mmap module names it from 3.13 on


def map_tensors(path: Path, infos: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
    """Tensors of one safetensors or GGUF file; dtypes and shapes as `containers.map_stored` says."""
    data = _map(path)
    needed = max((info.end for info in infos.values()), default=0)
    if needed > len(data):
        raise WanError(
            f"{shown_file(path)}: has {len(data):,} bytes now and had {needed:,} or more when it was opened; "
            "wait until it is written, then open it again"
        )
    return {name: _tensor(data, info) for name, info in infos.items()}


def _map(path: Path) -> mmap.mmap:
    """The whole file, copied on write.

    Linux counts a private writable mapping against memory, and refuses one larger than the machine's; a
    28 GB expert would not open on 24 GB. MAP_NORESERVE takes it out of that count.
    """
    with path.open("rb") as file:
        if sys.platform == "linux":
            return mmap.mmap(
                file.fileno(),
                0,
                flags=mmap.MAP_PRIVATE | MAP_NORESERVE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
            )
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _tensor(data: mmap.mmap, info: TensorInfo) -> Tensor:
    dtype, shape = _raw_form(info)
    if info.begin == info.end:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(data, dtype=torch.uint8, offset=info.begin, count=info.end - info.begin)
    if info.begin % dtype.itemsize:
        flat = flat.clone()  # the format allows any position, processors do not
    return flat.view(dtype).reshape(shape)


def _raw_form(info: TensorInfo) -> tuple[torch.dtype, tuple[int, ...]]:
    if info.dtype in DTYPES:
        return DTYPES[info.dtype], info.shape
    size, last = info.end - info.begin, info.shape[-1] if info.shape else 1
    rows = info.elements // last if last else 0
    block, block_bytes = BLOCKS.get(info.dtype, (1, 1))
    if rows and last % block == 0:
        return torch.uint8, (*info.shape[:-1], size // rows)
    return torch.uint8, (size // block_bytes, block_bytes)
