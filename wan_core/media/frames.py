"""Frames as a video codec wants them: 8-bit BT.709 YUV planes."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

# BT.709 (ITU-R Rec. BT.709-6, item 3.2): what red and blue weigh in luma; green is the rest.
RED, BLUE = 0.2126, 0.0722
# Studio range (item 4.6): luma 16..235, chroma 16..240 around 128.
LUMA_FLOOR, LUMA_SPAN = 16.0, 219.0
CHROMA_ZERO, CHROMA_SPAN = 128.0, 224.0


def as_unit_floats(frames: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Frames of uint8 0..255 or of any float 0..1 as float32 0..1, clamped."""
    frames = torch.as_tensor(frames)
    scale = 255.0 if frames.dtype == torch.uint8 else 1.0
    return (frames.float() / scale).clamp(0.0, 1.0)


def rgb_to_yuv420(frames: torch.Tensor) -> list[np.ndarray]:
    """RGB frames (F, H, W, 3) 0..1 as F uint8 arrays (H * 3 / 2, W): planes Y, U, V, one under another.

    H and W must be even. Done here and not by swscale, whose default for RGB is BT.601 and whose
    switches for it change with the PyAV version.
    """
    count, height, width, _ = frames.shape
    red, green, blue = frames.float().unbind(-1)
    luma = RED * red + (1.0 - RED - BLUE) * green + BLUE * blue
    chroma = torch.stack(((blue - luma) / (2.0 * (1.0 - BLUE)), (red - luma) / (2.0 * (1.0 - RED))), dim=1)
    chroma = _halve_chroma(chroma)  # (F, 2, H / 2, W / 2), -0.5..0.5

    y = luma * LUMA_SPAN + LUMA_FLOOR
    uv = chroma * CHROMA_SPAN + CHROMA_ZERO
    planes = torch.cat((y.reshape(count, -1), uv.reshape(count, -1)), dim=1)
    planes = planes.round().to(torch.uint8).cpu().numpy()
    return list(planes.reshape(count, height * 3 // 2, width))


def _halve_chroma(chroma: torch.Tensor) -> torch.Tensor:
    """Average 2 x 2 to one, sited as H.264 has it by default: on the left column, between the two rows."""
    one_right = torch.cat((chroma[..., :1], chroma[..., :-1]), dim=-1)
    return (functional.avg_pool2d(chroma, 2) + functional.avg_pool2d(one_right, 2)) / 2.0
