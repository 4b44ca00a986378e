"""The two experts by their file names: which one a name says it is, and the name of its partner.

The tensors of the two experts look alike, so a name is all there is; callers show what was chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..variants.variant import HIGH_NOISE, LOW_NOISE

# A word of its own, or a hump of camel case as in WanHighNoise, i2vHighV30 or styleHIGH, as Civitai's names
# have them: not "highlight", not "flow".
_WORD = r"(?:(?<![A-Za-z])(?:high|low)|(?<=[A-Za-z])(?-i:High|Low)|(?-i:(?<=[a-z])(?:HIGH|LOW)))"
_END = r"(?=$|[^A-Za-z]|v\d|(?-i:(?<=[a-z])[A-Z]))"
# What else is called high or low in the names of files: sizes, speeds, camera angles, light, clothes. Not
# before a number, as in HIGH_rank64, nor in LightX2V and Lightning.
_OTHER = (
    r"(?![ _.\-]*(?:res|quality|v?ram|mem|detail|poly|fps|contrast|motion|speed|def|pass|angle|key|heel|tech"
    r"|school|fashion|waist|cut|fantasy|(?:step|rank)(?!s?[ _.\-]?\d)|light(?!x2v|ning)))"
)
_WITH_NOISE = re.compile(_WORD + r"[ _.\-]*noise" + _END, re.IGNORECASE)
_ALONE = re.compile(_WORD + _END + _OTHER, re.IGNORECASE)
# diffusers' folders, whole names: the high-noise expert is transformer, the low-noise one transformer_2.
_FOLDER = re.compile(r"^transformer(?:_2)?$")


def expert_of(name: str) -> str | None:
    """The expert a file's name says it is, else its folder's name; None when neither or both are said."""
    for part in reversed(_parts(name)[-2:]):
        experts = {_expert(mark) for mark in _marks(part)}
        if experts:
            return experts.pop() if len(experts) == 1 else None
    return None


def find_partner(path: str, candidates: Iterable[str]) -> str | None:
    """The candidate that is named like `path` with high and low exchanged; None when there is none.

    Names are relative, with / or \\ between folders; the two may spell the word differently (HIGH, LowNoise,
    low-noise), everything else must agree but for case and separators.
    """
    own = expert_of(path)
    if own is None:
        return None
    other = LOW_NOISE if own == HIGH_NOISE else HIGH_NOISE
    wanted = _without_expert(path, own)
    partners = [
        name for name in candidates if expert_of(name) == other and _without_expert(name, other) == wanted
    ]
    return min(partners, key=lambda name: (_distance(name, path), name), default=None)


def _parts(name: str) -> list[str]:
    return re.split(r"[\\/]", name)


def _marks(part: str) -> list[re.Match[str]]:
    """Where a name says high or low. "noise" beside it settles it; alone, other meanings are left out."""
    return list(_WITH_NOISE.finditer(part)) or list(_ALONE.finditer(part)) or list(_FOLDER.finditer(part))


def _expert(mark: re.Match[str]) -> str:
    word = mark[0].lower()
    return LOW_NOISE if word.startswith("low") or word.endswith("_2") else HIGH_NOISE


def _without_expert(name: str, expert: str) -> tuple[str, ...]:
    """The parts of a name with the expert's word taken out, ready to be compared."""
    plain = []
    for part in _parts(name):
        for mark in reversed(_marks(part)):
            if _expert(mark) == expert:
                part = part[: mark.start()] + "<expert>" + part[mark.end() :]
        plain.append(re.sub(r"[ _.\-]+", "_", part.lower()))
    return tuple(plain)


def _distance(name: str, path: str) -> int:
    """How far two names' spellings are apart: the length of what differs in the middle."""
    return abs(len(name) - len(path))
