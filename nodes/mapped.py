"""Weights that stay in their file: what core takes off the device goes back to the file's pages.

Core takes a layer off the device by copying it to memory, which for an A14B expert in bfloat16 is 28 GB each
time its turn ends, on top of the file's own pages. Those are still mapped, so the copy is spared.

Not spared, and not measured on a card: what core streams with its static patchers it pins where it lies, with
`cudaHostRegister(..., cudaHostRegisterPortable)`, until the model is unloaded. That asks the kernel for pages
to write to, and of a private mapping (`checkpoints/mapping.py`) it then makes copies in memory, as many bytes
as are streamed. They stay after the pin is gone, for as long as the file is mapped (seen with `mlock`, which
asks for the same; MADV_DONTNEED gives them back). A shared mapping that is read-only cannot be pinned so, and
core would warn of each weight and copy it unpinned. DynamicVRAM, the default on NVIDIA from torch 2.8, pins
buffers of its own instead.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import comfy.model_patcher
from comfy.patcher_extension import CallbacksMP
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn


class Backup(NamedTuple):
    """What a patcher keeps of a weight that it has replaced, and puts back; the names are core's."""

    weight: Tensor
    inplace_update: bool


def stay_mapped(patcher: comfy.model_patcher.ModelPatcher) -> None:
    """Have core put the mapped weights of a patcher's model back when it unloads them, all or some.

    To core they are then like weights that it patched, which it restores and never copies back. Its dynamic
    patchers need nothing of it: they copy to the device, and leave the weights where they are.
    """
    if patcher.is_dynamic():
        return
    # Of its own layers only: with a backup core would not take others off the device before all of the model.
    weights = {
        f"{name}.{part}": value.data
        for name, layer in patcher.model.named_modules()
        if hasattr(layer, "comfy_cast_weights")
        for part, value in layer.named_parameters(recurse=False)
        if is_mapped(value)
    }

    def back_up(loaded: comfy.model_patcher.ModelPatcher, *_: Any) -> None:
        for name, weight in weights.items():
            if _place(loaded.model.get_parameter(name)) != _place(weight):
                loaded.backup.setdefault(name, Backup(weight, False))

    patcher.add_callback(CallbacksMP.ON_LOAD, back_up)


def is_mapped(value: Tensor | nn.Parameter) -> bool:
    """Whether a tensor lies over a file's pages: torch could not resize what it did not allocate."""
    return not _data(value).untyped_storage().resizable()


def _place(value: Tensor) -> int:
    return _data(value).data_ptr()


def _data(value: Tensor) -> Tensor:
    return value._qdata if isinstance(value, QuantizedTensor) else value
