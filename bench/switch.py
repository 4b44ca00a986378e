"""Expert to expert with mapped weights: the first step after the switch beside a normal one.

Two experts are written once; each round walks a whole schedule in a new process, with the files in the page
cache and, where the system lets go of them, without.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from wan_core.checkpoints import open_checkpoint
from wan_core.models.transformer import TransformerConfig
from wan_core.pipeline import Pipeline, sample
from wan_core.request import Request
from wan_core.sampling import StepInfo
from wan_core.variants import T2V_A14B
from wan_core.variants.variant import HIGH_NOISE, LOW_NOISE

from . import machine, results
from .contest import clock, say
from .memory import anonymous, peak_anonymous
from .weights import write_weights

STEPS = 6
FRAMES = 13  # four latent frames
ROUNDS = 3
SLOWER = 1.15  # the first step after the switch, of a normal step
COPIED = 0.05  # of an expert's file, in anonymous memory


def describe(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--dim", type=int, default=1024, help="width; heads are 128 wide (default 1024)")
    parser.add_argument("--layers", type=int, default=16, help="16 make files of 1.1 GB in float32")
    parser.add_argument("--size", type=int, default=256, help=f"height and width of {FRAMES} frames")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, help="default: physical cores")
    parser.add_argument("--folder", type=Path, help="where the files are made (default: a temporary folder)")
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="where the JSON goes")


def run(options: argparse.Namespace) -> int:
    """Measure, print, write; 1 when the switch costs more than promised with a warm cache."""
    threads = options.threads or machine.cores()
    record = results.Record("switch", options.results, threads)
    config = TransformerConfig(
        dim=options.dim, ffn_dim=4 * options.dim, num_heads=options.dim // 128, num_layers=options.layers
    )
    kept = True
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        high = write_weights(Path(folder) / "high_noise.safetensors", config, seed=1)
        low = write_weights(Path(folder) / "low_noise.safetensors", config, seed=2)
        for name, warm in (("warm", True), ("cold", False)):
            row = _case(name, warm, (high, low), options, threads)
            record.add(row)
            for fact in row["facts"]:
                say(f"  {fact['words']}: {fact['value']:.3g} {fact.get('unit', '')}")
                kept = kept and not (warm and fact.get("target") and fact["value"] > fact["target"])
    return 0 if kept else 1


@dataclass(frozen=True)
class Walk:
    """One run through both experts."""

    steps: list[float]  # seconds
    switch: int  # the first step of the second expert
    before: int  # anonymous bytes after the last step of the first expert
    after: int  # and after the last of the second

    @property
    def normal(self) -> float:
        """The median of the steps that load nothing."""
        return statistics.median(self.steps[i] for i in range(1, len(self.steps)) if i != self.switch)


def walk(high: Path, low: Path, size: int, threads: int) -> tuple[Walk]:
    """Sample with two experts as the pipeline does."""
    torch.set_num_threads(threads)
    experts = {HIGH_NOISE: open_checkpoint(high), LOW_NOISE: open_checkpoint(low)}
    unused: Any = None  # sampling asks for the experts alone
    pipeline = Pipeline(T2V_A14B, experts, unused, unused, unused, torch.device("cpu"), torch.float32)
    request = Request.for_variant(
        T2V_A14B,
        "",
        frames=FRAMES,
        width=size,
        height=size,
        steps=STEPS,
        guidance_scale_high=1.0,
        guidance_scale_low=1.0,
    )
    context = torch.randn(1, 60, 4096, generator=torch.Generator().manual_seed(0))
    times, memory, names = [time.perf_counter()], [], []

    def on_step(info: StepInfo) -> None:
        times.append(time.perf_counter())
        memory.append(anonymous(os.getpid()))
        names.append(info.expert)

    sample(pipeline, request, context, context, on_step)
    switch = names.index(LOW_NOISE)
    steps = [later - earlier for earlier, later in pairwise(times)]
    return (Walk(steps, switch, memory[switch - 1], memory[-1]),)


def _case(
    name: str, warm: bool, files: tuple[Path, Path], options: argparse.Namespace, threads: int
) -> dict[str, Any]:
    size = files[0].stat().st_size
    cache = "in the page cache" if warm else "dropped from the page cache"
    words = f"two experts of {size / 1e9:.2f} GB each in float32, {cache}, {STEPS} steps"
    say(f"{clock()} {name}: {words}; {options.rounds} rounds")
    walks = []
    for number in range(options.rounds):
        for file in files:
            (_read if warm else _drop)(file)
        one, _ = peak_anonymous(walk, *files, options.size, threads)
        walks.append(one)
        steps = ", ".join(f"{seconds:.2f}" for seconds in one.steps)
        say(f"  {clock()} round {number + 1}: seconds {steps}; the switch is before step {one.switch + 1}")
    first = statistics.median(one.steps[one.switch] / one.normal for one in walks)
    added = statistics.median(one.after - one.before for one in walks)
    return {
        "name": name,
        "words": words,
        "rounds": options.rounds,
        "facts": [
            {"words": "first step after the switch, to a normal step", "value": first}
            | ({"target": SLOWER} if warm else {}),
            {"words": "a normal step", "value": statistics.median(one.normal for one in walks), "unit": "s"},
            {
                "words": "anonymous memory that the switch added, share of an expert",
                "value": max(0.0, added / size),
                "target": COPIED,
            },
        ],
    }


def _read(file: Path) -> None:
    """Bring a file into the page cache."""
    with file.open("rb") as stream:
        while stream.read(1 << 24):
            pass


def _drop(file: Path) -> None:
    """Ask the system to let go of a file's pages; it need not."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
