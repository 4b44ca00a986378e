"""What two videos have in common, in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipFacts:
    """What a video is like without its pixels."""

    width: int
    height: int
    frames: int
    fps: float

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    def __str__(self) -> str:
        many = "frame" if self.frames == 1 else "frames"
        rate = f"{round(self.fps, 3):g} fps"
        return f"{self.frames} {many}, {self.width} x {self.height}, {rate}, {self.seconds:.1f} s"


def compare_clips(left: ClipFacts, right: ClipFacts) -> list[str]:
    """Lines for people: what both are, or in what they differ and how they are shown all the same."""
    if left == right:
        return [f"both: {left}"]
    lines = [f"left: {left}", f"right: {right}"]
    how = []
    if abs(left.seconds - right.seconds) > 0.5 / max(left.fps, right.fps):
        how.append(f"the {_lesser(left.seconds, right.seconds)} one waits on its last frame")
    if left.width * right.height != right.width * left.height:
        how.append("each is shown whole, in the shape of the left one")
    elif left.width != right.width:
        how.append(f"the {_lesser(left.width, right.width)} one is enlarged")
    return [*lines, "; ".join(how)] if how else lines


def _lesser(left: float, right: float) -> str:
    return "left" if left < right else "right"
