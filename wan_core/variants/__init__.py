"""The released Wan2.2 models this library knows. A new one is a file here and a line in VARIANTS."""

from __future__ import annotations

from ..errors import WanError
from .conditioning import Conditioning, Encode
from .i2v_a14b import I2V_A14B, prepare_i2v
from .t2v_a14b import T2V_A14B
from .ti2v_5b import TI2V_5B, prepare_ti2v
from .variant import Variant

VARIANTS = (T2V_A14B, I2V_A14B, TI2V_5B)
TASKS = tuple(variant.task for variant in VARIANTS)

__all__ = [
    "I2V_A14B",
    "T2V_A14B",
    "TASKS",
    "TI2V_5B",
    "VARIANTS",
    "Conditioning",
    "Encode",
    "Variant",
    "prepare_i2v",
    "prepare_ti2v",
    "variant_for_channels",
    "variant_for_task",
]


def variant_for_task(task: str) -> Variant:
    """The variant of a task: "t2v", "i2v" or "ti2v". Raises WanError for any other word."""
    for variant in VARIANTS:
        if variant.task == task:
            return variant
    raise WanError(f"task: {task!r} is not known; choose one of {', '.join(TASKS)}")


def variant_for_channels(in_channels: int, out_channels: int) -> Variant | None:
    """The variant whose transformer has these channels, or None: the shapes alone tell the three apart."""
    for variant in VARIANTS:
        if (variant.in_channels, variant.out_channels) == (in_channels, out_channels):
            return variant
    return None
