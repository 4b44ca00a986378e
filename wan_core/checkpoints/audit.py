"""Strict loading: a module built on the meta device takes all of a checkpoint's tensors and no others."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import WanError
from ..quantization import QuantizedWeight, quantized_layer
from .checkpoint import Checkpoint
from .header import TensorInfo, listed

log = logging.getLogger("wancore")


def load_module(
    module: nn.Module,
    checkpoint: Checkpoint,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    tensors: Mapping[str, Tensor | QuantizedWeight] | None = None,
) -> nn.Module:
    """Give `module` (built with device="meta") the checkpoint's tensors by assignment; returns it.

    The tensors stay mapped from the file, unless `dtype` or `device` ask for others: then they are copied,
    one after the other. Quantized weights keep their codes whatever `dtype` says. The module comes back in
    eval mode and without gradients. `tensors`: the checkpoint's, where they are mapped already. Raises
    WanError that names what is missing, unexpected, misshapen or left without values.
    """
    audit(module, checkpoint.header, checkpoint.file)
    fill(module, checkpoint, dtype, device, tensors)
    left = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    if left:
        raise WanError(
            f"{checkpoint.file}: {len(left)} tensors got no values ({listed(left)}); choose a complete file"
        )
    return module.requires_grad_(False).eval()


def fill(
    module: nn.Module,
    checkpoint: Checkpoint,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    tensors: Mapping[str, Tensor | QuantizedWeight] | None = None,
) -> None:
    """Assign the tensors of a checkpoint that has passed the audit, as `load_module` says.

    A Linear or Embedding of a quantized weight is exchanged for one that keeps the codes. What else is
    quantized (a norm, a bias, a convolution's kernel) is small and becomes float32 numbers at once.
    """
    tensors = checkpoint.load() if tensors is None else tensors
    numbers = dict[str, Tensor]()
    layers = dict[str, QuantizedWeight]()
    for name, value in tensors.items():
        if isinstance(value, Tensor):
            numbers[name] = value.to(device=device, dtype=dtype or value.dtype)
        elif _has_layer(module, name) and len(value.data) == value.shape[0]:
            layers[name.removesuffix(".weight")] = value.to(device)
        else:
            numbers[name] = value.to(device).dequantize(torch.float32)
    for name, weight in layers.items():
        put(
            module,
            name,
            quantized_layer(module.get_submodule(name), weight, numbers.pop(f"{name}.bias", None)),
        )
    for name, value in numbers.items():
        put(module, name, nn.Parameter(value, requires_grad=False))
    log.debug("%s: %d tensors assigned, %d of them quantized", checkpoint.file, len(tensors), len(layers))


def put(module: nn.Module, name: str, value: nn.Module | nn.Parameter) -> None:
    """Set what a module has under a dotted name."""
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, value)


def _has_layer(module: nn.Module, name: str) -> bool:
    """Whether a weight is that of a Linear or an Embedding."""
    owner, _, leaf = name.rpartition(".")
    return leaf == "weight" and isinstance(module.get_submodule(owner), nn.Linear | nn.Embedding)


def audit(module: nn.Module, header: Mapping[str, TensorInfo], file: str) -> None:
    """Compare names and shapes with the module's, before anything is read; WanError tells what differs."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    missing = [name for name in expected if name not in header]
    unexpected = [name for name in header if name not in expected]
    misshapen = [
        f"{name} is {list(header[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in header and header[name].shape != shape
    ]
    faults = [
        f"{len(names)} {what} ({listed(names)})"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (misshapen, "of another shape"))
        if names
    ]
    if faults:
        raise WanError(
            f"{file}: expected {len(expected)} tensors, found {len(header)}: {'; '.join(faults)}; "
            "choose the file made for this model, whole and unmodified"
        )
