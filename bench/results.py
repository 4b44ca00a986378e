"""The JSON of a suite, written after every case, and the table of a case."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from . import machine

FOLDER = Path(__file__).parent / "results"
OURS = "wan_core"
PLACES = {"--folder", "--results"}


class Record:
    """One suite's file. Cases that were measured before stay until they are measured again."""

    def __init__(self, suite: str, folder: Path, threads: int) -> None:
        self.path = folder / f"{suite}.json"
        stored = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.cases: list[dict[str, Any]] = stored.get("cases", [])
        self.head = {
            "suite": suite,
            "machine": machine.describe_machine(),
            "threads": threads,
            "versions": machine.versions(),
            "gemm": machine.gemm_rate(threads),
        }
        self.about = {
            "command": _command(sys.argv[1:]),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }

    def add(self, row: dict[str, Any]) -> None:
        """Put a case in its place, or at the end, and write the file."""
        row = row | self.about
        places = [index for index, one in enumerate(self.cases) if one["name"] == row["name"]]
        if places:
            self.cases[places[0]] = row
        else:
            self.cases.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.head | {"cases": self.cases}, indent=1) + "\n")


def _command(words: list[str]) -> str:
    """How it was called, without the folders of this machine."""
    kept = [word for before, word in zip(["", *words], words, strict=False) if not {before, word} & PLACES]
    return "python -m bench " + " ".join(kept)


def best_peer(row: dict[str, Any], key: str) -> float | None:
    """The smallest median of a measure among the peers that have one."""
    peers = [one for name, one in row["contestants"].items() if not name.startswith(OURS)]
    values = [middle(one, key) for one in peers]
    return min((value for value in values if value is not None), default=None)


def ratio(row: dict[str, Any], key: str) -> float | None:
    """Ours to the best peer's; None when either is missing."""
    ours, best = middle(row["contestants"].get(OURS, {}), key), best_peer(row, key)
    return None if ours is None or not best else ours / best


def middle(one: dict[str, Any], key: str) -> float | None:
    """The median of a contestant's rounds."""
    return statistics.median(one[key]) if one.get(key) else None


def table(row: dict[str, Any]) -> str:
    """A case in fixed columns, the ratios to the best peer beside ours."""
    lines = [f"  {'':<12}{'time':>10}{'CPU':>10}{'peak':>12}{'GFLOP/s':>10}{'error':>10}"]
    for name, one in row["contestants"].items():
        if "failed" in one:
            lines.append(f"  {name:<12}{'failed':>10}")
            continue
        wall, cpu, peak = (middle(one, key) or 0.0 for key in ("wall", "cpu", "peak"))
        rate = f"{row['flops'] / wall / 1e9:.0f}" if row.get("flops") and wall else ""
        error = f"{one['error']:.1e}" if "error" in one else ""
        lines.append(f"  {name:<12}{wall:>8.3f} s{cpu:>8.3f} s{peak / 1e6:>9.1f} MB{rate:>10}{error:>10}")
    ratios = {words: ratio(row, key) for words, key in (("time", "wall"), ("CPU", "cpu"), ("peak", "peak"))}
    said = ", ".join(f"{words} {value:.2f}" for words, value in ratios.items() if value is not None)
    return "\n".join([*lines, f"  ours to the best peer: {said or 'no peer'}"])
