"""Read a clip back: which colour, shape and motion, on what ground, in what light, do its pixels show?

Independent of how clips are made: it knows the names and the paint of colours, grounds and lights, nothing
else of the drawing code. Used by the evaluation and by the tests that look at finished videos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .scenes import BACKGROUNDS, COLOURS, LIGHTS

# How many corners a shape has: its outline's distance from the centre swings that often in one round.
_FOLDS = {"triangle": 3, "square": 4, "star": 5}
# Half way from a drawn circle, which swings by 0.01 of its radius, to a drawn square, by 0.12.
_ROUND = 0.065
# Half way from a drawn star, which fills 0.55 of its convex hull, to the others, which fill it.
_HOLLOW = 0.78


@dataclass(frozen=True)
class Measured:
    """What the pixels show; None where there is no clear shape, or no clear motion."""

    colour: str | None
    shape: str | None
    motion: str | None
    drift: tuple[float, float] = (0.0, 0.0)  # of the centre, right and down, in frame sizes
    growth: float = 1.0  # area at the end over area at the start
    turned: float = 0.0  # radians, clockwise positive
    paint: tuple[float, float, float] | None = None  # of the shape, the light taken out of it
    background: str | None = None
    light: str | None = None


def measure(frames: np.ndarray) -> Measured:
    """Measure a clip, (F, H, W, 3) uint8 or float 0..1."""
    video = frames.astype(np.float32) / 255 if frames.dtype == np.uint8 else frames.astype(np.float32)
    ground = _background(video)
    distance = np.abs(video - ground).max(axis=-1)
    masks = [_main_blob(d > 0.5 * max(0.2, np.quantile(d, 0.985))) for d in distance]
    usable = [m for m in masks if m.sum() > 0.004 * m.size]
    if len(usable) < max(2, 0.7 * len(masks)):
        return Measured(None, None, None)
    light = ground[0].mean(axis=(0, 1))
    paint = np.concatenate([f[_erode(m)] for f, m in zip(video, masks, strict=True)])
    paint = np.median(paint, axis=0) / (light / light.max()) if len(paint) else None
    colour = None if paint is None else _nearest_colour(paint)
    shape = _shape(usable)
    centres = np.array([_centre(m) for m in usable])
    size = np.array(masks[0].shape[::-1], dtype=np.float32)
    track = centres / size
    areas = np.array([m.sum() for m in usable], dtype=np.float64)
    growth = float(np.median(areas[-3:]) / np.median(areas[:3]))
    turned = _turned(usable, _FOLDS[shape]) if shape in _FOLDS else 0.0
    drift = track[-2:].mean(axis=0) - track[:2].mean(axis=0)
    motion = _motion(track, drift, growth, turned)
    drifted = (float(drift[0]), float(drift[1]))
    painted = None if paint is None else tuple(paint.tolist())
    ground = ground[0, :, 0]
    return Measured(colour, shape, motion, drifted, growth, turned, painted, _ground(ground), _light(ground))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two clips of floats in 0..1."""
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2) + 1e-12))


def _background(video: np.ndarray) -> np.ndarray:
    """Each row's colour beside the shape (1, H, 1, 3): backgrounds only change from top to bottom."""
    margin = max(2, video.shape[2] // 10)
    sides = np.concatenate([video[:, :, :margin], video[:, :, -margin:]], axis=2)
    return np.median(sides, axis=(0, 2))[None, :, None]


def _main_blob(mask: np.ndarray) -> np.ndarray:
    """The connected part that holds the densest spot of a mask."""
    dense = mask.astype(np.float32)
    for axis in (0, 1):
        dense = sum(np.roll(dense, s, axis) for s in range(-3, 4))
    blob = np.zeros_like(mask)
    blob[np.unravel_index(np.argmax(dense * mask), mask.shape)] = True
    blob &= mask
    while True:
        grown = blob.copy()
        grown[1:] |= blob[:-1]
        grown[:-1] |= blob[1:]
        grown[:, 1:] |= grown[:, :-1]
        grown[:, :-1] |= grown[:, 1:]
        grown &= mask
        if grown.sum() == blob.sum():
            return blob
        blob = grown


def _erode(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask whose four neighbours two steps away are in it too."""
    inner = mask.copy()
    for axis in (0, 1):
        inner &= np.roll(mask, 2, axis) & np.roll(mask, -2, axis)
    return inner


def _centre(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5


def _ground(rows: np.ndarray) -> str:
    """The background whose brightness at top and bottom is nearest that of its rows, (H, 3)."""
    brightness, edge = rows.max(axis=-1), max(1, len(rows) // 8)  # each light's strongest channel is 1
    ends = np.array([brightness[:edge].mean(), brightness[-edge:].mean()])
    return min(BACKGROUNDS, key=lambda name: float(np.square(np.asarray(BACKGROUNDS[name]) - ends).sum()))


def _light(rows: np.ndarray) -> str:
    """The light whose blue-to-red ratio is nearest; grounds are grey, so theirs is the light's."""
    red, _, blue = rows.mean(axis=0)
    ratio = np.log(max(blue, 1e-3) / max(red, 1e-3))
    return min(LIGHTS, key=lambda name: abs(np.log(LIGHTS[name][2] / LIGHTS[name][0]) - ratio))


def _nearest_colour(rgb: np.ndarray) -> str:
    return min(COLOURS, key=lambda name: float(np.square(np.asarray(COLOURS[name]) - rgb).sum()))


def _shape(masks: list[np.ndarray]) -> str:
    """A star where the outline is hollow, else by how many corners it swings; soft corners swing less."""
    if np.median([m.sum() / _hull_area(m) for m in masks]) < _HOLLOW:
        return "star"
    swings = np.median([_swings(m) for m in masks], axis=0)
    strongest = int(np.argmax(swings))
    return list(_FOLDS)[strongest] if swings[strongest] > _ROUND else "circle"


def _hull_area(mask: np.ndarray) -> float:
    """Area of a mask's convex hull: the polygon of its furthest pixel corners in many directions."""
    rows, columns = np.nonzero(mask)
    corners = np.concatenate([np.stack([columns + dx, rows + dy], 1) for dx in (0, 1) for dy in (0, 1)])
    angles = np.linspace(0, 2 * np.pi, 144, endpoint=False)
    tips = corners[np.argmax(corners @ np.stack([np.cos(angles), np.sin(angles)]), axis=0)]
    x, y = tips[:, 0], tips[:, 1]
    return float(abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2)


def _swings(mask: np.ndarray) -> list[float]:
    """Amplitude of the outline's swing with 3, 4 and 5 corners, in mean radii."""
    rows, columns = np.nonzero(mask)
    x, y = columns - columns.mean(), rows - rows.mean()
    angle, away = np.arctan2(y, x), np.hypot(x, y)
    sectors = 72
    place = ((angle + np.pi) / (2 * np.pi) * sectors).astype(int) % sectors
    outline = np.zeros(sectors)
    np.maximum.at(outline, place, away)
    known = outline > 0
    around = np.arange(sectors)
    outline = np.interp(around, around[known], outline[known], period=sectors)
    waves = np.abs(np.fft.rfft(outline)) / sectors
    return [2 * waves[folds] / waves[0] for folds in _FOLDS.values()]


def _turned(masks: list[np.ndarray], folds: int) -> float:
    """Total turning over the clip from the phase of the shape's own `folds`-fold symmetry."""
    phases = []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        x, y = columns - columns.mean(), rows - rows.mean()
        phases.append(np.angle(np.sum((x + 1j * y) ** folds)))
    return float(np.unwrap(phases)[-1] - np.unwrap(phases)[0]) / folds


def _motion(track: np.ndarray, drift: np.ndarray, growth: float, turned: float) -> str | None:
    """Name the motion of a centre track (F, 2)."""
    across, down = drift
    quarter = max(1, len(track) // 4)
    ends = (track[:quarter, 1].mean() + track[-quarter:, 1].mean()) / 2
    middle = track[len(track) // 2 - 1 : len(track) // 2 + 2, 1].mean()
    if growth > 1.9 and max(abs(across), abs(down)) < 0.15:
        return "grow"
    if abs(across) > 0.15 and abs(across) > abs(down):
        return "right" if across > 0 else "left"
    if abs(down) > 0.15:
        return "down" if down > 0 else "up"
    if middle - ends > 0.1:
        return "bounce"
    return "turn" if abs(turned) > 0.7 else None
