"""The little world wan-tiny knows: what a scene is, and how its frames are drawn.

A scene is one coloured shape doing one thing over a background, under a light. Everything is drawn from
signed distances, so edges are anti-aliased and any frame size works. Lengths are fractions of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.12),
    "orange": (1.00, 0.52, 0.05),
    "yellow": (0.98, 0.90, 0.12),
    "green": (0.12, 0.70, 0.20),
    "cyan": (0.10, 0.82, 0.85),
    "blue": (0.12, 0.25, 0.92),
    "purple": (0.52, 0.16, 0.78),
    "pink": (1.00, 0.48, 0.74),
}
SHAPES = ("circle", "square", "triangle", "star")
MOTIONS = ("left", "right", "up", "down", "turn", "grow", "bounce")
BACKGROUNDS: dict[str, tuple[float, float]] = {  # brightness at the top and at the bottom
    "plain dark": (0.14, 0.14),
    "plain light": (0.86, 0.86),
    "graded dark": (0.06, 0.34),
    "graded light": (0.94, 0.62),
}
LIGHTS: dict[str, tuple[float, float, float]] = {
    "neutral": (1.0, 1.0, 1.0),
    "warm": (1.0, 0.90, 0.74),
    "cool": (0.76, 0.90, 1.0),
}


@dataclass(frozen=True)
class Scene:
    """One clip's content: five named attributes and the numbers that place it."""

    colour: str
    shape: str
    motion: str
    background: str
    light: str
    radius: float = 0.17
    x: float = 0.5  # where the middle of the movement is
    y: float = 0.5
    tilt: float = 0.0  # radians
    travel: float = 0.42  # length of the path from the first frame to the last
    swell: tuple[float, float] = (
        0.55,
        1.40,
    )  # what grows: first and last radius, in parts


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene drawn from everything possible; a circle never turns, since nobody could see it."""
    shape = str(rng.choice(SHAPES))
    motion = str(rng.choice([m for m in MOTIONS if (shape, m) != ("circle", "turn")]))
    scene = Scene(
        colour=str(rng.choice(list(COLOURS))),
        shape=shape,
        motion=motion,
        background=str(rng.choice(list(BACKGROUNDS))),
        light=str(rng.choice(list(LIGHTS))),
    )
    return place(scene, rng)


def place(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same named attributes with fresh random size, place, tilt and travel."""
    return replace(
        scene,
        radius=float(rng.uniform(0.15, 0.19)),
        x=float(rng.uniform(0.44, 0.56)),
        y=float(rng.uniform(0.44, 0.56)),
        tilt=float(rng.uniform(-0.15, 0.15)),
        travel=float(rng.uniform(0.36, 0.46)),
    )


def place_anywhere(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same named attributes, begun where any other motion could have begun as well.

    `place` puts what will move right on the left, so its first frame gives the motion away, and a network
    that is shown that frame has no need to read. Here words alone say what will happen.
    """
    tilt, radius = float(rng.uniform(-0.15, 0.15)), float(rng.uniform(0.12, 0.18))
    if scene.motion == "grow":
        x, y = rng.uniform(0.40, 0.60, size=2)
        return replace(scene, radius=radius, x=float(x), y=float(y), tilt=tilt, swell=(1.0, 1.75))
    first, last = float(rng.uniform(0.24, 0.54)), float(rng.uniform(0.76, 0.80))
    across = float(rng.uniform(0.26, 0.74))  # where it is on the axis it does not move on
    scene = replace(scene, radius=radius, tilt=tilt, travel=last - first)
    if scene.motion == "turn":
        return replace(scene, x=across, y=float(rng.uniform(0.26, 0.74)))
    middle = (first + last) / 2
    middle = 1 - middle if scene.motion in ("left", "up") else middle
    if scene.motion in ("left", "right"):
        return replace(scene, x=middle, y=across)
    return replace(scene, x=across, y=middle)


def held_out(scene: Scene) -> bool:
    """Whether training never sees this combination of colour, shape and motion (about one in five)."""
    colour = list(COLOURS).index(scene.colour)
    return (colour + 2 * SHAPES.index(scene.shape) + 3 * MOTIONS.index(scene.motion)) % 5 == 0


def draw_clip(scene: Scene, frames: int = 17, height: int = 96, width: int = 96) -> np.ndarray:
    """The scene as (frames, height, width, 3) float32 in 0..1."""
    return np.stack([draw_frame(scene, t, height, width) for t in np.linspace(0.0, 1.0, frames)])


def draw_frame(scene: Scene, time: float, height: int = 96, width: int = 96) -> np.ndarray:
    """One moment of the scene, `time` from 0 to 1, as (height, width, 3) float32 in 0..1."""
    rows = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    columns = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / width
    x, y, radius, angle = pose(scene, time)
    unit = min(height, width)
    dx, dy = (columns - x) * (width / unit), (rows - y) * (height / unit)
    cos, sin = np.cos(angle), np.sin(angle)
    distance = _DISTANCES[scene.shape](dx * cos + dy * sin, dy * cos - dx * sin, radius)
    cover = np.clip(0.5 - distance * unit, 0.0, 1.0)[..., None]
    top, bottom = BACKGROUNDS[scene.background]
    ground = np.broadcast_to(top + (bottom - top) * rows, (height, width))[..., None]
    picture = ground * (1 - cover) + np.asarray(COLOURS[scene.colour], np.float32) * cover
    return (picture * np.asarray(LIGHTS[scene.light], np.float32)).astype(np.float32)


def pose(scene: Scene, time: float) -> tuple[float, float, float, float]:
    """Centre x, centre y, radius and angle at a moment."""
    x, y, radius, angle = scene.x, scene.y, scene.radius, scene.tilt
    along = (time - 0.5) * scene.travel
    if scene.motion in ("left", "right"):
        x += along if scene.motion == "right" else -along
    elif scene.motion in ("up", "down"):
        y += along if scene.motion == "down" else -along
    elif scene.motion == "turn":
        angle += 2.0 * time  # clockwise, a bit over a quarter turn and never a symmetry of the shape
    elif scene.motion == "grow":
        first, last = scene.swell
        radius *= first + (last - first) * time
    elif scene.motion == "bounce":  # falls, hits the floor in mid-clip, and comes up again
        y += scene.travel * (0.5 - abs(1.0 - 2.0 * time) ** 2)
    return x, y, radius, angle


def _circle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.hypot(x, y) - radius


def _square(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.9 * radius


def _triangle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    inradius = 0.68 * radius
    slope = np.abs(x) * 0.8660254 - (y - 0.25 * radius) * 0.5
    return np.maximum(slope, y - 0.25 * radius) - inradius


def _star(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    outer, inner, half = 1.4 * radius, 0.60 * radius, np.pi / 5
    sector = np.abs((np.arctan2(x, -y) + half) % (2 * half) - half)
    away = np.hypot(x, y)
    px, py = away * np.cos(sector), away * np.sin(sector)
    # the edge from a tip (outer, 0) to a notch at angle `half`
    nx, ny = inner * np.sin(half), outer - inner * np.cos(half)
    return ((px - outer) * nx + py * ny) / np.hypot(nx, ny)


_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "star": _star}
