"""Write bench/RESULTS.md from the stored results and the notes."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .contest import say
from .results import FOLDER, middle, ratio

HERE = Path(__file__).parent
ORDER = (
    "transformer",
    "vae21",
    "vae22",
    "text",
    "load",
    "switch",
    "schedule",
    "end_to_end",
    "activations",
    "gpu",
)
OPENING = """# What the library takes, beside its peers

Measured and written by `python -m bench all`, a suite at a time by `python -m bench SUITE`; `python -m bench
report` writes this page again from `bench/results/*.json` and `bench/NOTES.md`. Every contestant has a
process of its own, the same random weights and inputs, the same threads and the same torch; rounds are
interleaved, and the figures are medians. Time is wall time. Peak memory is what the process held at most
above its weights and inputs. A ratio is ours to the best peer's in the same run. GFLOP/s are a case's
arithmetic by formula, over its time; the floor is the machine's own rate on a large float32 matrix product.
A convolution can need less than its formula says, so a VAE can exceed it.
"""


@dataclass(frozen=True)
class Target:
    """What is asked of one case: ours to the best peer's, at most."""

    suite: str
    case: str
    time: float | None = None
    peak: float | None = None


TARGETS = (
    *(Target("transformer", case, 0.85, 0.45) for case in ("T2V", "TI2V", "CFG")),
    *(Target(suite, "decode", 0.65, 0.40) for suite in ("vae21", "vae22")),
    *(Target(suite, "encode", 0.75, 0.50) for suite in ("vae21", "vae22")),
    Target("text", "20_tokens", 0.08, 0.15),
    Target("text", "77_tokens", 0.18, 0.15),
    Target("text", "200_tokens", 0.45, 0.15),
    Target("load", "load", 1.0),
    *(
        Target("schedule", f"{solver}_{size}", 1.0)
        for solver in ("euler", "unipc")
        for size in ("480p", "720p")
    ),
)
SAME_PEAK = 1.1  # "the same" for 17 and 81 frames when streamed
ERROR = 1e-5


def describe(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--results", type=Path, default=FOLDER, help="where the JSON lies")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md")


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    options.out.write_text(page(options.results, HERE / "NOTES.md"))
    say(f"wrote {options.out}")
    return 0


def page(results: Path, notes: Path) -> str:
    """RESULTS.md as text."""
    stored = {file.stem: json.loads(file.read_text()) for file in results.glob("*.json")}
    known = [name for name in ORDER if name in stored]
    parts = [OPENING, *_targets(stored), *(_suite(stored[name]) for name in known)]
    if "gpu" not in stored:
        parts.append("## gpu\n\nNot measured: no run on a CUDA device yet (`python -m bench gpu`).\n")
    if notes.is_file():
        parts.append(notes.read_text())
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _targets(stored: dict[str, Any]) -> Iterator[str]:
    lines = ["## Targets\n", "| work | measure | asked | found | |", "|---|---|---|---|---|"]
    for target in TARGETS:
        row = _case(stored, target.suite, target.case)
        for key, words, asked in (("wall", "time", target.time), ("peak", "peak memory", target.peak)):
            if asked is not None:
                found = ratio(row, key) if row else None
                lines.append(
                    _line(f"{target.suite}: {target.case}", f"{words}, to the best peer", asked, found)
                )
    for suite in ("vae21", "vae22"):
        lines.append(
            _line(f"{suite}: stream", "peak memory, long clip to short", SAME_PEAK, _growth(stored, suite))
        )
    for suite in ORDER:
        for row in stored.get(suite, {}).get("cases", []):
            for fact in row.get("facts", []):
                if fact.get("target") is not None:
                    words = fact["words"] + (f", {fact['unit']}" if fact.get("unit") else "")
                    lines.append(_line(f"{suite}: {row['name']}", words, fact["target"], fact["value"]))
    errors = [
        one["error"]
        for suite in stored.values()
        for row in suite["cases"]
        for name, one in row.get("contestants", {}).items()
        if name == "wan_core" and "error" in one
    ]
    lines.append(
        _line("all of these", "largest relative error to the reference", ERROR, max(errors, default=None))
    )
    yield "\n".join(lines) + "\n"


def _line(work: str, measure: str, asked: float, found: float | None) -> str:
    if found is None:
        return f"| {work} | {measure} | {asked:g} | | not measured |"
    verdict = "reached" if found <= asked else "**not reached**"
    return f"| {work} | {measure} | {asked:g} | {found:.3g} | {verdict} |"


def _case(stored: dict[str, Any], suite: str, case: str) -> dict[str, Any] | None:
    rows = stored.get(suite, {}).get("cases", [])
    return next((row for row in rows if row["name"] == case), None)


def _growth(stored: dict[str, Any], suite: str) -> float | None:
    """Our streamed peak of the long clip to that of the short one."""
    rows = [_case(stored, suite, case) for case in ("stream_long", "stream_short")]
    peaks = [middle(row["contestants"].get("wan_core", {}), "peak") for row in rows if row]
    return peaks[0] / peaks[1] if len(peaks) == 2 and peaks[0] and peaks[1] else None


def _suite(stored: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in stored["versions"].items())
    lines = [f"## {stored['suite']}\n", f"{stored['machine']}; {stored['threads']} threads; {versions}."]
    if stored.get("gemm"):
        lines.append(f"Float32 matrix products: {stored['gemm'] / 1e9:.0f} GFLOP/s.")
    for row in stored["cases"]:
        lines.append(f"\n**{row['name']}**: {row['words']} (`{row['command']}`, {row['date']})\n")
        if row.get("contestants"):
            lines.extend(_contestants(row, stored.get("gemm")))
        lines.extend(_facts(row))
    return "\n".join(lines) + "\n"


def _contestants(row: dict[str, Any], gemm: float | None) -> Iterator[str]:
    yield "| | time (fastest to slowest) | CPU time | peak memory | GFLOP/s | of the matrix rate | error |"
    yield "|---|---|---|---|---|---|---|"
    for name, one in row["contestants"].items():
        if "failed" in one:
            yield f"| {name} | {one['failed']} | | | | | |"
            continue
        wall = statistics.median(one["wall"])
        spread = f"{wall:.3g} s ({min(one['wall']):.3g} to {max(one['wall']):.3g})"
        cpu = middle(one, "cpu")
        rate = row.get("flops", 0) / wall
        done = f"{rate / 1e9:.0f} | {rate / gemm:.0%}" if rate and gemm else " | "
        error = (
            f"{one['error']:.1e}" if "error" in one else "reference" if name == row.get("reference") else ""
        )
        peak = middle(one, "peak")
        cells = (f"{cpu:.3g} s" if cpu else "", f"{peak / 1e6:.1f} MB" if peak is not None else "")
        yield f"| {name} | {spread} | {cells[0]} | {cells[1]} | {done} | {error} |"
    said = {"time": ratio(row, "wall"), "CPU time": ratio(row, "cpu"), "peak memory": ratio(row, "peak")}
    yield (
        "\nOurs to the best peer: "
        + ", ".join(f"{k} {v:.2f}" for k, v in said.items() if v is not None)
        + "."
    )


def _facts(row: dict[str, Any]) -> Iterator[str]:
    if row.get("facts"):
        yield "| | |"
        yield "|---|---|"
    for fact in row.get("facts", []):
        yield f"| {fact['words']} | {fact['value']:.4g} {fact.get('unit', '')} |"
