"""Loading both 14B-shaped experts costs address space, not memory.

Makes two experts of A14B's shapes, at least 3 GB each in every kind of file, loads both by the public loader,
and prints the anonymous memory that took at most, as a share of the two files. Under 5 % is the promise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from wan_core.checkpoints import check_pair, load_module, open_checkpoint, transformer_config
from wan_core.models.transformer import WanTransformer

from .files import SUFFIXES, WRITERS, a14b
from .memory import peak_anonymous

# Layers that make each kind of file larger than 3 GB; a released expert has 40.
LAYERS = {"bf16": 5, "fp8_scaled": 10, "gguf_q4_0": 16}
PROMISE = 0.05


def describe(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--kind", action="append", choices=LAYERS, help="only these (default: all)")
    parser.add_argument("--layers", type=int, help="layers of each expert (default: enough for 3 GB)")
    parser.add_argument("--folder", type=Path, help="where the files are made (default: a temporary folder)")


def run(options: argparse.Namespace) -> int:
    """Measure and print; 1 when a kind of file takes more than promised."""
    kept = True
    _say(f"{'kind':<12}{'both files':>12}{'anonymous':>12}{'share':>9}{'time':>9}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for kind in options.kind or LAYERS:
            size, memory, seconds = measure(kind, options.layers or LAYERS[kind], Path(folder))
            kept = kept and memory < PROMISE * size
            amounts = f"{size / 1e9:>9.2f} GB{memory / 1e6:>9.1f} MB"
            _say(f"{kind:<12}{amounts}{memory / size:>9.2%}{seconds:>7.1f} s")
    _say(f"promised: under {PROMISE:.0%} of the files; {'kept' if kept else 'BROKEN'}")
    return 0 if kept else 1


def measure(kind: str, layers: int, folder: Path) -> tuple[int, int, float]:
    """(bytes of both files, bytes of anonymous memory at most, seconds) of loading two experts."""
    config = a14b(layers)
    high, low = (folder / f"{kind}_{name}{SUFFIXES[kind]}" for name in ("high_noise", "low_noise"))
    WRITERS[kind](high, config, telltale=1)
    WRITERS[kind](low, config, telltale=2)
    size = high.stat().st_size + low.stat().st_size
    seconds, memory = peak_anonymous(load_both, high, low)
    high.unlink()
    low.unlink()
    return size, memory, seconds


def load_both(high: Path, low: Path) -> tuple[float, list[WanTransformer]]:
    """Open, check and load a pair, and hold it; the seconds it took."""
    begin = time.perf_counter()
    pair = [open_checkpoint(path) for path in (high, low)]
    check_pair(*pair)
    experts = [
        load_module(WanTransformer(transformer_config(one.header), device="meta"), one) for one in pair
    ]
    return time.perf_counter() - begin, experts


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
