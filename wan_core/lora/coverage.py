"""Which tensors of a LoRA file an expert took, which it left, and why: as a table and as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import shown
from .fit import UNMATCHED, Outcome

AT_ZERO = "strength 0"


@dataclass(frozen=True)
class ExpertCoverage:
    """One file and one expert. Names are the stored tensors; together they are all of the file's for it."""

    expert: str
    file: str
    strength: float
    applied: tuple[str, ...]
    skipped: dict[str, tuple[str, ...]]  # by reason
    unmatched: tuple[str, ...]

    @classmethod
    def of(cls, expert: str, file: str, strength: float, outcomes: Iterable[Outcome]) -> ExpertCoverage:
        """Count what became of a file's tensors."""
        applied: list[str] = []
        left: dict[str, list[str]] = {}
        for outcome in outcomes:
            if outcome.reason is None and strength:
                applied += outcome.names
            else:
                left.setdefault(outcome.reason or AT_ZERO, []).extend(outcome.names)
        unmatched = tuple(left.pop(UNMATCHED, ()))
        skipped = {reason: tuple(names) for reason, names in left.items()}
        return cls(expert, file, strength, tuple(applied), skipped, unmatched)


@dataclass(frozen=True)
class Coverage:
    """What became of a LoRA: a row for each expert it feeds, and what else there is to say."""

    rows: tuple[ExpertCoverage, ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """The table, a line for each reason, and the notes."""
        lines = [f"{'expert':10}  {'strength':>8}  {'applied':>7}  {'skipped':>7}  {'unmatched':>9}  file"]
        reasons: list[str] = []
        for row in self.rows:
            skipped = sum(map(len, row.skipped.values()))
            lines.append(
                f"{row.expert.replace('_', '-'):10}  {row.strength:8.2f}  {len(row.applied):7}  {skipped:7}  "
                f"{len(row.unmatched):9}  {row.file}"
            )
            for reason, names in row.skipped.items():
                reasons.append(f"skipped {len(names):,} of {row.file}: {reason} ({_some(names)})")
            if row.unmatched:
                reasons.append(f"unmatched {len(row.unmatched):,} of {row.file}: {_some(row.unmatched)}")
        return "\n".join([*lines, *dict.fromkeys(reasons), *self.notes])

    def to_dict(self) -> dict[str, object]:
        """The same as data, with every name."""
        rows = [
            {
                "expert": row.expert,
                "file": row.file,
                "strength": row.strength,
                "applied": list(row.applied),
                "skipped": {reason: list(names) for reason, names in row.skipped.items()},
                "unmatched": list(row.unmatched),
            }
            for row in self.rows
        ]
        return {"experts": rows, "notes": list(self.notes)}


def _some(names: tuple[str, ...]) -> str:
    return shown(names[0]) if len(names) == 1 else f"{shown(names[0])} and {len(names) - 1:,} more"
