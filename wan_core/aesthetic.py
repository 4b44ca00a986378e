"""A video's look by name, in the words Wan2.2 was captioned with.

Sources: the lists of the released prompt rewriter (wan/utils/system_prompt.py: time, light, colour, shot
size, angle, composition; at most four of them, none for 2D styles, style first), and the Wan2.2 prompt guide
(sunset, dusk, backlighting, saturation, eye level, lenses, camera movements, styles).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import WanError, shown

NONE = "none"
MOST_TERMS = 4


@dataclass(frozen=True)
class Category:
    """One thing a look decides, and the phrases it may be decided by. `name` is the field's name."""

    name: str
    about: str
    phrases: tuple[str, ...]


# Drawn, not filmed: the released rewriter leaves film terms out of these.
FLAT_STYLES = (
    "2D anime style",
    "pixel art style",
    "watercolor painting",
    "oil painting style",
    "black and white animation",
)
STYLE = Category(
    "style",
    "How the pictures are made. Said before the prompt.",
    (
        "documentary photography style",
        "tilt-shift photography",
        "time-lapse photography",
        "felt style",
        "claymation style",
        "puppet animation",
        "3D cartoon style",
        "3D game style",
        *FLAT_STYLES,
    ),
)

TERMS = (
    Category(
        "time_of_day",
        "When it plays.",
        ("day time", "night time", "dawn time", "sunrise time", "sunset time", "dusk time"),
    ),
    Category(
        "light_source",
        "What gives the light. Practical lighting is lamps that are seen in the picture.",
        (
            "daylight",
            "artificial lighting",
            "moonlight",
            "practical lighting",
            "firelight",
            "fluorescent lighting",
            "overcast lighting",
            "sunny lighting",
        ),
    ),
    Category("light_intensity", "How sharp the shadows are.", ("soft lighting", "hard lighting")),
    Category(
        "light_direction",
        "Where the light comes from. Edge lighting draws the outline.",
        ("top lighting", "side lighting", "underlighting", "edge lighting", "backlighting"),
    ),
    Category("color_tone", "The light's colour.", ("warm colors", "cool colors", "mixed colors")),
    Category("saturation", "How strong the colours are.", ("saturated colors", "desaturated colors")),
    Category(
        "shot_size",
        "How much of the scene is seen.",
        (
            "extreme close-up shot",
            "close-up shot",
            "medium close-up shot",
            "medium shot",
            "medium wide shot",
            "wide shot",
            "extreme wide shot",
        ),
    ),
    Category(
        "angle",
        "Where the camera looks from. A Dutch angle is tilted.",
        (
            "eye-level shot",
            "low angle shot",
            "high angle shot",
            "over-the-shoulder shot",
            "Dutch angle shot",
            "aerial shot",
            "overhead shot",
        ),
    ),
    Category(
        "composition",
        "Where the subject is in the frame. Short-side: near the edge that it looks at.",
        (
            "center composition",
            "balanced composition",
            "left-heavy composition",
            "right-heavy composition",
            "symmetrical composition",
            "short-side composition",
        ),
    ),
    Category(
        "lens",
        "What the camera sees through: from the widest view, fisheye, to the narrowest, telephoto.",
        ("fisheye lens", "wide-angle lens", "medium lens", "long-focus lens", "telephoto lens"),
    ),
    Category(
        "camera_movement",
        "What the camera does.",
        (
            "static shot",
            "the camera pushes in",
            "the camera pulls back",
            "the camera pans left",
            "the camera pans right",
            "the camera tilts up",
            "the camera tilts down",
            "tracking shot",
            "arc shot",
            "handheld camera",
        ),
    ),
)
CATEGORIES = (STYLE, *TERMS)
_BY_NAME = {category.name: category for category in CATEGORIES}
# The end of a sentence, maybe with a quote or bracket closed behind it; and what already leads on to a list.
_ENDED = re.compile(r"[.!?…。！？][\"'”’»)\]」』]*$")
_LEADS_ON = re.compile(r"[,;:，；：]$")
_CLAUSE_ENDS = re.compile(r"[.!?,;:…。！？，；：\n]")


def compose(prompt: str, choices: Mapping[str, str]) -> str:
    """The prompt with a look: the style before it, the terms after it, in the order of `CATEGORIES`.

    `choices` maps names of categories to one of their phrases; "none" and names left out choose nothing. The
    prompt's own words stay as they are. A phrase that is a clause of the prompt already is not said again, so
    composing twice is composing once. Raises WanError for a category or phrase that is not there, for more
    than four terms beside the style, and for any beside a flat 2D style.
    """
    look = look_of(choices)
    if look.fault:
        raise WanError(look.fault)
    said = {clause.strip().casefold() for clause in _CLAUSE_ENDS.split(prompt)}
    style, terms = ([phrase for phrase in part if phrase.casefold() not in said] for part in look.parts)
    if not style and not terms:
        return prompt
    return " ".join(part for part in (_sentence(style), _with_terms(prompt.strip(), terms)) if part)


@dataclass(frozen=True)
class Look:
    """What is chosen, in the order in which it is said."""

    style: str | None
    terms: tuple[str, ...]

    @property
    def parts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What is said before the prompt, and after it."""
        return (() if self.style is None else (self.style,)), self.terms

    @property
    def over(self) -> tuple[str, ...]:
        """The terms over the limit: all beside a flat style, else those after the fourth."""
        return self.terms if self.style in FLAT_STYLES else self.terms[MOST_TERMS:]

    @property
    def fault(self) -> str | None:
        """What is over the limit, in one line; None where nothing is."""
        if not self.over:
            return None
        if self.style in FLAT_STYLES:
            return (
                f"style: {self.style} is flat and takes no light or camera terms; set {_listed(self.terms)} "
                "to none, or choose another style"
            )
        return (
            f"aesthetic: {len(self.terms)} terms, and at most {MOST_TERMS} work together beside the style; "
            f"set {len(self.over)} of {_listed(self.terms)} to none"
        )


def look_of(choices: Mapping[str, str]) -> Look:
    """The look that choices make, within the limit or not. Raises WanError for unknown ones."""
    for name, phrase in choices.items():
        if name not in _BY_NAME:
            raise WanError(f"{shown(str(name))}: there is no such category; there are {', '.join(_BY_NAME)}")
        known = (NONE, *_BY_NAME[name].phrases)
        if phrase not in known:
            raise WanError(f"{name}: {shown(str(phrase))!r} is not on its list; choose {', '.join(known)}")
    active = {name: phrase for name, phrase in choices.items() if phrase != NONE}
    terms = tuple(active[category.name] for category in TERMS if category.name in active)
    return Look(active.get(STYLE.name), terms)


def _with_terms(prompt: str, terms: Sequence[str]) -> str:
    """The terms as a sentence of their own behind a finished one, else as the rest of an unfinished one."""
    if not terms:
        return prompt
    if not prompt or _ENDED.search(prompt):
        return f"{prompt} {_sentence(terms)}".strip()
    return f"{prompt}{' ' if _LEADS_ON.search(prompt) else ', '}{', '.join(terms)}"


def _sentence(phrases: Sequence[str]) -> str:
    text = ", ".join(phrases)
    return text[:1].upper() + text[1:] + "." if text else ""


def _listed(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
