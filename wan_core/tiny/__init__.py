"""wan-tiny, the model that comes with the pack: the real architecture at toy size, trained by this folder."""

from __future__ import annotations

from pathlib import Path

# What it was trained for, as fields of a Request; everything else is as released.
DEFAULTS = {"width": 96, "height": 96, "frames": 17, "fps": 16, "steps": 20}


def weights_dir() -> Path:
    """The folder of its files, laid out like ComfyUI's models folder."""
    return Path(__file__).parent / "weights"
