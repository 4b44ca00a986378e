"""What step caching and steps without guidance save of wan-tiny's work, and what they cost.

    python -m wan_core.tiny.shortcuts --json wan_core/tiny/evaluation_shortcuts.json

Held-out prompts, as in the evaluation, with the seeds of the same videos made whole: the share of predictions
saved, the time of a video's steps beside that of whole ones, how far the video is from the whole one (dB, and
relative L2 of the latent), and what of colour, shape and motion is still right.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ..pipeline import Pipeline
from ..sampling import StepInfo
from .comparison import run_comparison
from .evaluate import Case, score, text_cases
from .measure import psnr

log = logging.getLogger("wancore.tiny")
SHORTCUTS: tuple[dict[str, float | str], ...] = (
    {"step_cache": 0.05},
    {"step_cache": 0.1},
    {"step_cache": 0.2},
    {"cfg_skip": "first 4"},
    {"cfg_skip": "last 4"},
    {"cfg_skip": "60%-100%"},
)


class Watch:
    """Notes what steps cost, and what comes out."""

    def __init__(self) -> None:
        self.predictions = 0
        self.seconds = 0.0  # CPU, from each video's first step on, which brings its expert in, to its last
        self.latents: list[Tensor] = []
        self._since = 0.0

    def step(self, info: StepInfo) -> None:
        """One step is done."""
        now = time.process_time()
        if info.index > 0:
            self.seconds += now - self._since
        self._since = now
        self.predictions += 0 if info.skipped else 1 if info.unguided else 2
        if info.index == info.total - 1:
            self.latents.append(info.latent)


def compare(pipeline: Pipeline, cases: list[Case]) -> dict[str, dict[str, float]]:
    """The figures of whole runs, and of each shortcut."""
    whole = Watch()
    right, clips = score(pipeline, cases, {}, whole.step)
    figures = {"whole": right}
    for shortcut in SHORTCUTS:
        watch = Watch()
        right, shorter = score(pipeline, cases, shortcut, watch.step)
        pairs = list(zip(watch.latents, whole.latents, strict=True))
        figures[words(shortcut)] = {
            "saved": 1 - watch.predictions / whole.predictions,
            "time": watch.seconds / whole.seconds,
            "psnr": float(np.mean([psnr(a / 255.0, b / 255.0) for a, b in zip(shorter, clips, strict=True)])),
            "latent": float(np.mean([((a - b).norm() / b.norm()).item() for a, b in pairs])),
            **right,
        }
        log.info("%s: %s", words(shortcut), {k: round(v, 3) for k, v in figures[words(shortcut)].items()})
    return figures


def words(shortcut: Mapping[str, float | str]) -> str:
    """The options of a shortcut as the command line has them."""
    return " ".join(f"--{name.replace('_', '-')} {json.dumps(value)}" for name, value in shortcut.items())


if __name__ == "__main__":
    run_comparison(__doc__, text_cases, compare)
