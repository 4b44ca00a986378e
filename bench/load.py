"""Loading both 14B-shaped experts costs address space, not memory.

Makes two experts of A14B's shapes, at least 3 GB each in every kind of file, loads both by the public loader,
and prints the anonymous memory that took at most, as a share of the two files. Under 5 % is the promise. Then
every contestant loads one such file in bfloat16, in turn, each time in a new process, imports not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from wan_core.checkpoints import check_pair, load_module, open_checkpoint, transformer_config
from wan_core.models.transformer import TransformerConfig, WanTransformer

from . import machine, results
from .contest import ROUNDS, clock, say, turned
from .files import SUFFIXES, WRITERS, a14b, shapes, write_plain
from .memory import peak_anonymous
from .peers import diffusers
from .work import CONTESTANTS, contestant

# Layers that make each kind of file larger than 3 GB; a released expert has 40.
LAYERS = {"bf16": 5, "fp8_scaled": 10, "gguf_q4_0": 16}
PROMISE = 0.05


def describe(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--kind", action="append", choices=LAYERS, help="only these (default: all)")
    parser.add_argument("--layers", type=int, help="layers of each expert (default: enough for 3 GB)")
    parser.add_argument("--folder", type=Path, help="where the files are made (default: a temporary folder)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="loads by each contestant (0: none)")
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="where the JSON goes")


def run(options: argparse.Namespace) -> int:
    """Measure and print; 1 when a kind of file takes more than promised."""
    kept, record = True, results.Record("load", options.results, machine.cores())
    say(f"{'kind':<12}{'both files':>12}{'anonymous':>12}{'share':>9}{'time':>9}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for kind in options.kind or LAYERS:
            size, memory, seconds = measure(kind, options.layers or LAYERS[kind], Path(folder))
            kept = kept and memory < PROMISE * size
            amounts = f"{size / 1e9:>9.2f} GB{memory / 1e6:>9.1f} MB"
            say(f"{kind:<12}{amounts}{memory / size:>9.2%}{seconds:>7.1f} s")
            record.add(_promise(kind, size, memory, seconds))
        say(f"promised: under {PROMISE:.0%} of the files; {'kept' if kept else 'BROKEN'}")
        if options.rounds:
            row = beside_peers(options.layers or LAYERS["bf16"], options.rounds, Path(folder))
            record.add(row)
            say(results.table(row))
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


def beside_peers(layers: int, rounds: int, folder: Path) -> dict[str, Any]:
    """One file in bfloat16, loaded by each in turn; the first time, which warms the disk, is not kept."""
    names = [name for name in CONTESTANTS if contestant(name).version()]
    files = write_for(names, a14b(layers), folder)
    size = files["wan_core"].stat().st_size
    say(f"{clock()} load: {size / 1e9:.2f} GB in bfloat16; {rounds} rounds")
    measured: dict[str, dict[str, Any]] = {name: {"wall": [], "peak": []} for name in names}
    for number in range(rounds + 1):
        for name in turned(names, number):
            seconds, memory = peak_anonymous(load_by, name, files[name], prepare=import_by)
            if number:
                measured[name]["wall"].append(round(seconds, 5))
                measured[name]["peak"].append(memory)
            say(f"  {clock()} {name}: {seconds:.3f} s, {memory / 1e6:.0f} MB")
    return {
        "name": "load",
        "words": f"a file of {size / 1e9:.2f} GB in bfloat16, pages in the cache; anonymous memory",
        "rounds": rounds,
        "contestants": measured,
    }


def write_for(names: list[str], config: TransformerConfig, folder: Path) -> dict[str, Path]:
    """The same tensors for each contestant, under the names it loads."""
    released = write_plain(folder / "released.safetensors", shapes(config), 1)
    files = dict.fromkeys(names, released)
    if "diffusers" in names:
        with torch.device("meta"):
            theirs = diffusers.transformer(config)
        named = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
        files["diffusers"] = write_plain(folder / "diffusers.safetensors", named, 1, "scale_shift_table")
    return files


def import_by(name: str, _path: Path) -> None:
    """Have imported what loading needs."""
    contestant(name).loader()


def load_by(name: str, path: Path) -> tuple[float, Any]:
    """Load a file as a contestant does, and hold it; the seconds it took."""
    load = contestant(name).loader()
    begin = time.perf_counter()
    loaded = load(path)
    return time.perf_counter() - begin, loaded


def _promise(kind: str, size: int, memory: int, seconds: float) -> dict[str, Any]:
    words = "anonymous memory, share of both files"
    facts = [
        {"words": words, "value": memory / size, "target": PROMISE},
        {"words": "time for both", "value": seconds, "unit": "s"},
    ]
    return {"name": kind, "words": f"two experts, {size / 1e9:.2f} GB together", "facts": facts}
