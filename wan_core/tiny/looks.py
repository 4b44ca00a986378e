"""What wan-tiny makes of the looks it knows words of: the Aesthetic node's "warm colors" and "cool colors".

    python -m wan_core.tiny.looks --prompts 24 --json wan_core/tiny/evaluation_looks.json

Held-out prompts that say the background and not the light, each as it is and with a look, from the same
noise: the light and the background that the pixels show, and what of colour, shape and motion is right.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter

import numpy as np

from ..aesthetic import compose
from ..pipeline import Pipeline
from .captions import caption, said
from .comparison import run_comparison
from .evaluate import ASKED, Case, make
from .measure import measure
from .scenes import BACKGROUNDS, LIGHTS, held_out, random_scene

log = logging.getLogger("wancore.tiny")
TONES = ("none", "warm colors", "cool colors")


def unlit_cases(count: int, seed: int) -> list[Case]:
    """Held-out scenes over each background in turn, in words that leave the light open, without a full stop:
    behind one a term begins with a capital letter, which wan-tiny cannot read."""
    rng, cases = np.random.default_rng((seed, 96)), []
    backgrounds = list(BACKGROUNDS)
    while len(cases) < count:
        scene = dataclasses.replace(random_scene(rng), background=backgrounds[len(cases) % len(backgrounds)])
        text = caption(scene, rng)
        told = said(scene, text)
        if held_out(scene) and told["background"] and not told["light"] and not text.endswith("."):
            cases.append(Case(scene, text))
    return cases


def compare(pipeline: Pipeline, cases: list[Case]) -> dict[str, dict[str, float]]:
    """By tone: the share of clips in each light, and of those that are right."""
    figures = {}
    for tone in TONES:
        asked = [dataclasses.replace(case, text=compose(case.text, {"color_tone": tone})) for case in cases]
        seen = [measure(clip) for clip in make(pipeline, asked, {})]
        lights = Counter(one.light for one in seen)
        pairs = list(zip(seen, [case.scene for case in cases], strict=True))
        figures[tone] = {
            **{f"{light} light": lights[light] / len(cases) for light in LIGHTS},
            "background": sum(one.background == scene.background for one, scene in pairs) / len(cases),
            "all three": sum(
                all(getattr(one, name) == getattr(scene, name) for name in ASKED) for one, scene in pairs
            )
            / len(cases),
        }
        log.info("%s: %s", tone, {name: round(value, 3) for name, value in figures[tone].items()})
    return figures


if __name__ == "__main__":
    run_comparison(__doc__, unlit_cases, compare)
