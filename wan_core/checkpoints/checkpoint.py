"""A weight file opened for use: released names, mapped tensors, one line for what cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import WanError
from ..quantization import QuantizedWeight, quantized_weight
from .containers import map_stored, read_header
from .detect import Detection, detect
from .header import Header, TensorInfo, shown_file
from .inspection import Inspection, inspect_header
from .mapping import ReadAhead
from .quantization import WIDE, detect_storage, is_plain, layer_of
from .spiece import stored_spiece_model


class Checkpoint:
    """One weight file. Nothing is read until a tensor is asked for, and then it is mapped, not copied.

    `header` maps released names to dtype and shape, those of the numbers where they are quantized; `load`
    maps all of them to tensors.
    """

    def __init__(self, path: Path, header: Header, inspection: Inspection, detection: Detection) -> None:
        self.path = path
        self.inspection = inspection
        self.header: Mapping[str, TensorInfo] = detection.tensors
        self._file_header = header
        self._stored = detection.names
        self._storage = detect_storage(header)

    @property
    def file(self) -> str:
        """The file's own name, as messages begin with it."""
        return shown_file(self.path)

    @property
    def size(self) -> int:
        """Bytes of the weights as stored."""
        return sum(self.stored_bytes().values())

    def load(self) -> dict[str, Tensor | QuantizedWeight]:
        """Every weight under its released name. They share the file's pages until written to."""
        return self._map(list(self.header))

    def tensor(self, name: str) -> Tensor:
        """The numbers of one weight by its released name: as stored, or float32 when it is quantized."""
        value = self._map([name])[name]
        return value.dequantize(torch.float32) if isinstance(value, QuantizedWeight) else value

    def rounding(self, compute_dtype: torch.dtype) -> torch.dtype | None:
        """What to round the weights to when they are computed with in `compute_dtype`; None: as stored.

        A float32 file is rounded, since float32 on a GPU would be 57 GB for each 14B expert. In files of any
        other kind the few float32 tensors (norms, modulation) are kept, for they are small and matter.
        """
        return compute_dtype if self.inspection.quantization in WIDE else None

    def stored_bytes(self, dtype: torch.dtype | None = None) -> dict[str, int]:
        """Bytes of each weight, by its released name, in memory: as stored, scales too, or all in `dtype`."""
        infos, scales = self._file_header.tensors, self._storage.scales
        sizes = {}
        for name, info in self.header.items():
            stored = infos[self._stored[name]]
            sizes[name] = info.elements * dtype.itemsize if dtype else stored.end - stored.begin
            if self._stored[name] in scales:
                sizes[name] += infos[scales[self._stored[name]]].elements * torch.float32.itemsize
        return sizes

    def read_ahead(self, limit: int) -> ReadAhead:
        """Begin to bring the weights' pages into memory, `limit` bytes at most, in a thread of its own.

        Loading with the answer's `tensors` then finds them there. Nothing is copied.
        """
        tensors = self.load()
        infos = {name: self._file_header.tensors[self._stored[name]] for name in tensors}
        stored = {name: value if isinstance(value, Tensor) else value.data for name, value in tensors.items()}
        order = sorted(stored, key=lambda name: (str(infos[name].file), infos[name].begin))
        return ReadAhead(tensors, [stored[name] for name in order], limit)

    def comfy_note(self, layer: str) -> Mapping[str, object] | None:
        """What the file says to ComfyUI's quantized layers about one layer, by its released name."""
        return self._storage.formats.get(layer_of(self._stored[f"{layer}.weight"]))

    def input_scale(self, layer: str) -> Tensor | None:
        """What ComfyUI's quantized layers divide a layer's input by before rounding it, if the file says."""
        stored = layer_of(self._stored[f"{layer}.weight"])
        names = [
            name
            for name in (f"{stored}.input_scale", f"{stored}.scale_input")
            if name in self._file_header.tensors
        ]
        return next(iter(map_stored(self._file_header, names).values()), None)

    def spiece_model(self) -> bytes | None:
        """The tokenizer inside a text encoder's file (a serialized sentencepiece model), if there is one."""
        return stored_spiece_model(self._file_header)

    def _map(self, names: list[str]) -> dict[str, Tensor | QuantizedWeight]:
        scales = self._storage.scales
        wanted = [self._stored[name] for name in names]
        stored = map_stored(self._file_header, wanted + [scales[name] for name in wanted if name in scales])

        def weight(name: str) -> Tensor | QuantizedWeight:
            info, own = self.header[name], self._stored[name]
            if is_plain(info.dtype):
                return stored[own].reshape(info.shape)
            scale = stored[scales[own]] if own in scales else None
            return quantized_weight(info.dtype, info.shape, stored[own], scale)

        return {name: weight(name) for name in names}


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a weight file. Raises WanError, one line, for a bad file and for one this version cannot load."""
    return usable(_read(Path(path)))


def look_into(path: Path) -> tuple[Inspection, Checkpoint | None]:
    """What a file is, and itself, read once; never raises for a bad file. `usable` says if it can load."""
    try:
        checkpoint = _read(path)
    except WanError as error:
        return Inspection(str(path), problems=(str(error),)), None
    return checkpoint.inspection, checkpoint


def usable(checkpoint: Checkpoint) -> Checkpoint:
    """The same, if it can be loaded. Raises WanError, one line."""
    for line in (*checkpoint.inspection.problems, *checkpoint.inspection.limits):
        raise WanError(line)
    return checkpoint


def _read(path: Path) -> Checkpoint:
    header = read_header(path)
    detection = detect(header)
    return Checkpoint(path, header, inspect_header(path, header, detection), detection)
