"""A small picture of a noise schedule: which expert takes which step."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 640, 360
LEFT, TOP, RIGHT, BOTTOM = 48, 44, 16, 34
SUPERSAMPLING = 3  # Pillow draws without antialiasing; drawing large and shrinking gives it

BACKGROUND, INK, FAINT = "#1c1e22", "#d7dae0", "#3a3e46"
COLORS = {"high_noise": "#f0883e", "low_noise": "#4c9bf5", "dense": "#8fbf6f"}
WORDS = {"high_noise": "high noise", "low_noise": "low noise", "dense": "one model"}


def draw_sigma_plot(sigmas: Sequence[float], experts: Sequence[str], boundary: float | None) -> Image.Image:
    """RGB picture, 640 x 360, of N + 1 sigmas (1 is pure noise) and the N experts that step between them.

    `boundary` is the timestep / 1000 at which the experts take turns; None where there is one network.
    """
    large = Image.new("RGB", (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING), BACKGROUND)
    canvas = _Canvas(ImageDraw.Draw(large), len(experts))
    for sigma in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas.line((0, sigma), (len(experts), sigma), FAINT, 1)
        canvas.text((0, sigma), f"{sigma:g}", INK, "rm", dx=-8)
    for step, expert in enumerate(experts):
        canvas.area(step, sigmas[step], sigmas[step + 1], COLORS[expert])
    if boundary is not None:
        canvas.line((0, boundary), (len(experts), boundary), INK, 1)
        canvas.text((len(experts), boundary), f"boundary {boundary:g}", INK, "rd", dy=-3)
    for step, expert in enumerate(experts):
        canvas.line((step, sigmas[step]), (step + 1, sigmas[step + 1]), COLORS[expert], 3)
        canvas.dot((step, sigmas[step]), COLORS[expert])
    _labels(canvas, experts)
    return large.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _labels(canvas: _Canvas, experts: Sequence[str]) -> None:
    """Step numbers below; above, how many steps each expert takes."""
    count = len(experts)
    for step in sorted({0, count // 4, count // 2, 3 * count // 4, count}):
        canvas.text((step, 0.0), str(step), INK, "ma", dy=8)
    x = LEFT
    for expert in dict.fromkeys(experts):
        steps = list(experts).count(expert)
        label = f"{WORDS[expert]}: {steps} {'step' if steps == 1 else 'steps'}"
        x = canvas.legend(x, label, COLORS[expert]) + 24


class _Canvas:
    """Draws in plot coordinates: x counts steps from 0 to `count`, y is sigma from 0 to 1."""

    def __init__(self, draw: ImageDraw.ImageDraw, count: int) -> None:
        self.draw, self.count = draw, count
        self.font = ImageFont.load_default(13 * SUPERSAMPLING)

    def at(self, point: tuple[float, float], dx: float = 0, dy: float = 0) -> tuple[float, float]:
        step, sigma = point
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / self.count + dx
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - sigma) + dy
        return x * SUPERSAMPLING, y * SUPERSAMPLING

    def line(self, a: tuple[float, float], b: tuple[float, float], color: str, width: int) -> None:
        self.draw.line([self.at(a), self.at(b)], color, width * SUPERSAMPLING)

    def dot(self, point: tuple[float, float], color: str) -> None:
        self.draw.circle(self.at(point), 4 * SUPERSAMPLING, color)

    def area(self, step: int, left: float, right: float, color: str) -> None:
        corners = [(step, 0.0), (step, left), (step + 1, right), (step + 1, 0.0)]
        shade = Image.blend(Image.new("RGB", (1, 1), BACKGROUND), Image.new("RGB", (1, 1), color), 0.25)
        self.draw.polygon([self.at(corner) for corner in corners], shade.getpixel((0, 0)))

    def text(
        self, point: tuple[float, float], text: str, color: str, anchor: str, dx: float = 0, dy: float = 0
    ) -> None:
        self.draw.text(self.at(point, dx, dy), text, color, self.font, anchor)

    def legend(self, x: float, label: str, color: str) -> float:
        """A coloured dot and its meaning in the top margin, from `x` on; returns where it ends."""
        y = TOP / 2
        self.draw.circle((x * SUPERSAMPLING + 18, y * SUPERSAMPLING), 5 * SUPERSAMPLING, color)
        start = (x + 18) * SUPERSAMPLING
        self.draw.text((start, y * SUPERSAMPLING), label, INK, self.font, "lm")
        return x + 18 + self.draw.textlength(label, self.font) / SUPERSAMPLING
