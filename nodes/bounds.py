"""Widget limits that NaN cannot pass."""

from __future__ import annotations


class Least(float):
    """A number input's `min` that also refuses NaN.

    ComfyUI compares `value < min`, which is False for NaN, and JSON sent to its API may hold NaN. Python asks
    a subclass on the right-hand side first, so the comparison arrives here.
    """

    def __gt__(self, value: float) -> bool:
        return not value >= float(self)
