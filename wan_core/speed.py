"""What a user may trade for speed or memory, and how a network is given it. The defaults are exact."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from functools import cache

import torch

from .attention import AUTO, NAMES, choose
from .errors import WanError
from .models.compiled import compile_blocks, uncompile_blocks
from .models.transformer import WanTransformer
from .quantization import QuantizedLinear, fp8_fault, fp8_fits

log = logging.getLogger("wancore")

FLOAT32, HALF = "float32", "16-bit"
RESIDUALS = (FLOAT32, HALF)


@dataclass(frozen=True)
class Speed:
    """Settings of a transformer that change its speed and memory. Raises WanError for unknown ones.

    attention   which kernel: "auto", the fastest exact one; "sage" computes in 8 bits and is not exact
    compile     torch.compile the blocks, at the first step; without a compiler nothing changes
    residual    what the residual stream is kept in: "float32", as released, or "16-bit", the compute dtype
    fp8_matmul  multiply weights stored in fp8 in fp8, where the card can; not exact
    """

    attention: str = AUTO
    compile: bool = False
    residual: str = FLOAT32
    fp8_matmul: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("attention", NAMES), ("residual", RESIDUALS)):
            if (value := getattr(self, name)) not in allowed:
                raise WanError(f"{name}: there is no {value!r}; choose one of {', '.join(allowed)}")

    def changed(self) -> dict[str, str | bool]:
        """The settings that are not the defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


def apply(network: WanTransformer, speed: Speed, device: torch.device) -> None:
    """Make a network compute on `device` as `speed` says; what it was told before is undone."""
    network.attention = choose(speed.attention, device, network.compute_dtype)
    network.residual_dtype = residual_dtype(speed, network.compute_dtype)
    (compile_blocks if speed.compile else uncompile_blocks)(network.blocks)
    _set_fp8_matmul(network, speed.fp8_matmul, device)


def residual_dtype(speed: Speed, compute_dtype: torch.dtype) -> torch.dtype:
    """What the residual stream of a network with this compute dtype is kept in."""
    return torch.float32 if speed.residual == FLOAT32 else compute_dtype


def _set_fp8_matmul(network: WanTransformer, wanted: bool, device: torch.device) -> None:
    layers = [layer for layer in network.blocks.modules() if isinstance(layer, QuantizedLinear)]
    fault = fp8_fault(device) if wanted else None
    if wanted and fault is None and not any(fp8_fits(layer.weight) for layer in layers):
        fault = "this model has no fp8 weights that are multiplied here"
    if fault is not None:
        _warn_once(f"fp8 matmul: {fault}; nothing changes")
    for layer in layers:
        layer.fp8_matmul = wanted and fault is None


@cache
def _warn_once(message: str) -> None:
    """Both experts of a model have the same to say."""
    log.warning(message)
