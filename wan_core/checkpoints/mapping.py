"""Tensors over a mapped file: they cost address space until touched, and the file stays as it is.

`ReadAhead` touches them before they are needed.
"""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Mapping, Sequence
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
TOUCHED = 2**24  # bytes between two looks at whether to stop
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


class ReadAhead:
    """Touches mapped tensors page by page in a thread, so that who computes with them waits for no disk.

    tensors: what the pages belong to, as `Checkpoint.load` gives it; load the network from these very ones,
    since page tables belong to a mapping. pieces: their bytes, in the order to read them. limit: bytes after
    which it stops, for pages beyond the machine's memory would push out others in use.
    """

    def __init__(self, tensors: Mapping[str, object], pieces: Sequence[Tensor], limit: int) -> None:
        self.tensors = tensors
        self.read = 0  # bytes so far
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._read, args=(pieces, limit), name="wancore-read-ahead", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Read no further; returns when the thread has ended."""
        self._stop.set()
        self._thread.join()

    def wait(self) -> None:
        """Until all is read."""
        self._thread.join()

    def _read(self, pieces: Sequence[Tensor], limit: int) -> None:
        for tensor in pieces:
            if self.read + tensor.nbytes > limit:
                return
            flat = tensor.reshape(-1).view(torch.uint8)
            for start in range(0, len(flat), TOUCHED):
                if self._stop.is_set():
                    return
                flat[start : start + TOUCHED : mmap.PAGESIZE].max()
            self.read += tensor.nbytes


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
