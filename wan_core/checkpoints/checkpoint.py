"""A weight file opened for use: released names, mapped tensors, one line for what cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import WanError
from .containers import read_header
from .detect import SPIECE_MODEL, Detection, detect
from .header import TensorInfo, shown_file
from .inspection import Inspection, inspect_header
from .safetensors import map_tensors

# Small tensors that training moves: enough to tell two experts apart, read in a moment.
_TELLTALE = (
    *("head.modulation", "head.head.bias", "patch_embedding.bias", "time_projection.1.bias"),
    *("blocks.0.modulation", "blocks.0.self_attn.norm_q.weight", "blocks.0.cross_attn.norm_k.weight"),
)
# The coarsest plain dtype, bfloat16, keeps 8 significant bits: two roundings of one number are this close.
_ROUNDING = 2.0**-8
_SMALLEST = 1e-6  # below this float16 keeps fewer digits


class Checkpoint:
    """One weight file. Nothing is read until a tensor is asked for, and then it is mapped, not copied.

    `header` maps released names to dtype and shape; `load` maps all of them to tensors.
    """

    def __init__(self, path: Path, inspection: Inspection, detection: Detection) -> None:
        self.path = path
        self.inspection = inspection
        self.header: Mapping[str, TensorInfo] = detection.tensors
        self._stored = detection.names
        self._has_tokenizer = detection.has_tokenizer

    @property
    def file(self) -> str:
        """The file's own name, as messages begin with it."""
        return shown_file(self.path)

    def load(self) -> dict[str, Tensor]:
        """Every weight under its released name. They share the file's pages until written to."""
        return self._map(list(self.header))

    def tensor(self, name: str) -> Tensor:
        """One weight by its released name."""
        return self._map([name])[name]

    def spiece_model(self) -> bytes | None:
        """The tokenizer inside a ComfyUI text encoder (a serialized sentencepiece model), if there is one."""
        if not self._has_tokenizer:
            return None
        return map_tensors(self.path, [SPIECE_MODEL])[SPIECE_MODEL].numpy().tobytes()

    def _map(self, names: list[str]) -> dict[str, Tensor]:
        stored = map_tensors(self.path, [self._stored[name] for name in names])
        return {name: stored[self._stored[name]] for name in names}


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a weight file. Raises WanError, one line, for a bad file and for one this version cannot load."""
    path = Path(path)
    header = read_header(path)
    detection = detect(header)
    inspection = inspect_header(path, header, detection)
    for line in (*inspection.problems, *inspection.limits):
        raise WanError(line)
    return Checkpoint(path, inspection, detection)


def same_weights(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two files hold the same network, even if one is float16 and the other float32."""
    ours, theirs = _small_tensors(first), _small_tensors(second)
    if {name: value.shape for name, value in ours.items()} != {
        name: value.shape for name, value in theirs.items()
    }:
        return False
    return all(_equal_but_for_rounding(ours[name], theirs[name]) for name in ours)


def _small_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    names = [name for name in _TELLTALE if name in checkpoint.header]
    if not names:
        raise WanError(f"{checkpoint.file}: is {checkpoint.inspection.words}; only transformers are compared")
    return {name: checkpoint.tensor(name).float() for name in names}


def _equal_but_for_rounding(first: Tensor, second: Tensor) -> bool:
    allowed = torch.maximum(first.abs(), second.abs()) * _ROUNDING + _SMALLEST
    return bool(((first - second).abs() <= allowed).all())
