"""Strict loading: a module built on the meta device takes all of a checkpoint's tensors and no others."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import nn

from ..errors import WanError
from .checkpoint import Checkpoint
from .header import TensorInfo, listed

log = logging.getLogger("wancore")


def load_module(module: nn.Module, checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> nn.Module:
    """Give `module` (built with device="meta") the checkpoint's tensors by assignment; returns it.

    The tensors stay mapped from the file, unless `dtype` asks for another one, which copies. The module comes
    back in eval mode and without gradients. Raises WanError that names what is missing, unexpected, misshapen
    or left without values.
    """
    audit(module, checkpoint.header, checkpoint.file)
    tensors = checkpoint.load()
    if dtype is not None:
        tensors = {
            name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()
        }
    module.load_state_dict(tensors, strict=True, assign=True)
    left = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    if left:
        raise WanError(
            f"{checkpoint.file}: {len(left)} tensors got no values ({listed(left)}); choose a complete file"
        )
    log.debug("%s: %d tensors assigned", checkpoint.file, len(tensors))
    return module.requires_grad_(False).eval()


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
