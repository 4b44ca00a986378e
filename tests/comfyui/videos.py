"""Reading mp4s back, and saying how alike two are."""

from __future__ import annotations

import io
import math

import av
import numpy as np


def read_mp4(data: bytes) -> np.ndarray:
    """The frames (F, H, W, 3), uint8."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Peak signal to noise ratio in dB of two uint8 videos of one shape; infinite when equal."""
    error = np.mean((ours.astype(np.float64) - theirs.astype(np.float64)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
