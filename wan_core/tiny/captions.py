"""The grammar wan-tiny was taught: how a scene is put into words.

    caption    := [opening] subject action [place] [light]     and the same with place or light in front
    subject    := ("a" | "one" | "the") COLOUR SHAPE
    action     := one of several wordings of the motion
    place      := ("on" | "over" | "against") BACKGROUND       may be left out: any background is right then
    light      := one of several wordings of the light         may be left out: any light is right then

Every word below is one the text encoder knows; other words read as unknown and say nothing.
"""

from __future__ import annotations

import numpy as np

from .scenes import Scene

COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden", "lemon"),
    "green": ("green", "emerald"),
    "cyan": ("cyan", "turquoise", "aqua"),
    "blue": ("blue", "sapphire", "cobalt"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
}
SHAPE_WORDS = {
    "circle": ("circle", "disc", "ball", "dot"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "pyramid", "wedge"),
    "star": ("star", "five-pointed star"),
}
MOTION_WORDS = {
    "left": (
        "moves left",
        "moves to the left",
        "slides to the left",
        "drifts from right to left",
        "glides left",
    ),
    "right": (
        *(
            "moves right",
            "moves to the right",
            "slides to the right",
            "drifts from left to right",
            "glides right",
        ),
    ),
    "up": ("moves up", "rises", "moves upward", "floats up", "slides to the top", "climbs upward"),
    "down": ("moves down", "falls", "moves downward", "sinks down", "slides to the bottom", "drops downward"),
    "turn": ("turns", "rotates", "spins", "turns around in place", "spins clockwise", "rotates slowly"),
    "grow": ("grows", "grows larger", "gets bigger", "swells", "expands", "becomes larger"),
    "bounce": ("bounces", "bounces up and down", "hops", "hops up and down", "bounces off the floor"),
}
BACKGROUND_WORDS = {
    "plain dark": (
        "a plain dark background",
        "a dark background",
        "a plain black backdrop",
        "a flat dark wall",
    ),
    "plain light": (
        "a plain light background",
        "a light background",
        "a plain white backdrop",
        "a flat pale wall",
    ),
    "graded dark": ("a dark gradient", "a graded dark background", "a dark background fading brighter below"),
    "graded light": (
        "a light gradient",
        "a graded light background",
        "a light background fading darker below",
    ),
}
LIGHT_WORDS = {
    "neutral": ("in neutral light", "under white light", "in plain daylight"),
    "warm": ("under warm light", "in warm light", "lit by a warm lamp", "in warm evening light"),
    "cool": ("under cool light", "in cool light", "lit by a cold lamp", "in cold morning light"),
}
ARTICLES = ("a", "a", "one", "the")
OPENINGS = ("", "", "", "a video of ", "a short clip: ", "we see ")
PREPOSITIONS = ("on", "over", "against", "in front of")


def caption(scene: Scene, rng: np.random.Generator, complete: bool = False) -> str:
    """One of the many sentences that describe the scene; `complete` always says background and light."""

    def pick(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    subject = f"{pick(ARTICLES)} {pick(COLOUR_WORDS[scene.colour])} {pick(SHAPE_WORDS[scene.shape])}"
    action = pick(MOTION_WORDS[scene.motion])
    place = f"{pick(PREPOSITIONS)} {pick(BACKGROUND_WORDS[scene.background])}"
    light = pick(LIGHT_WORDS[scene.light])
    place = place if complete or rng.random() < 0.8 else ""
    light = light if complete or rng.random() < 0.7 else ""
    order = rng.random()
    if order < 0.15 and place:
        text = f"{place}, {subject} {action} {light}"
    elif order < 0.3 and light:
        text = f"{light}, {subject} {action} {place}"
    else:
        text = f"{pick(OPENINGS)}{subject} {action} {place} {light}"
    text = " ".join(text.split())
    text = text if rng.random() < 0.5 else text[0].upper() + text[1:]
    return text + ("." if rng.random() < 0.4 else "")


def action_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Only what happens, as one says it beside a picture: "moves left", "it moves left"."""
    words = MOTION_WORDS[scene.motion]
    return str(rng.choice(["", "it ", "the shape "])) + words[int(rng.integers(len(words)))]


def said(scene: Scene, text: str) -> dict[str, str | None]:
    """What a caption of this scene says about each attribute; None where it leaves the choice open."""
    low = text.lower()
    mentions_place = any(words in low for words in BACKGROUND_WORDS[scene.background])
    mentions_light = any(words in low for words in LIGHT_WORDS[scene.light])
    return {
        "colour": scene.colour,
        "shape": scene.shape,
        "motion": scene.motion,
        "background": scene.background if mentions_place else None,
        "light": scene.light if mentions_light else None,
    }
