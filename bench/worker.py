"""One contestant in a process of its own: built, warmed up, then a round each time the parent says so."""

from __future__ import annotations

import ctypes
import gc
import time
import traceback
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from .work import Inputs, Output, Run, Task, contestant

FAR = 16  # a streamed clip is compared on every 16th row and column


@dataclass(frozen=True)
class Round:
    """One measured run."""

    wall: float  # seconds
    cpu: float  # seconds of all threads
    peak: int  # bytes above the process as it was with its weights and inputs


def serve(
    pipe: Connection, name: str, task: Task, files: tuple[Path, Path | None, Path], threads: int
) -> None:
    """The process: answers "go" with a round, ends at None. `files`: inputs, those of the warm-up, output."""
    try:
        pipe.recv()  # "start": one builds at a time
        torch.set_num_threads(threads)
        inputs, warm_up, output = files
        run = contestant(name).WORKS[task.work](task)
        given = torch.load(inputs)
        level = _rest()
        far = task.work == "stream"
        _consume(run(torch.load(warm_up) if warm_up else given), far)
        pipe.send("ready")
        first = True
        while pipe.recv() is not None:
            result, kept = _measure(run, given, level, far)
            if first:
                torch.save(kept, output)
            first = False
            del kept
            pipe.send(asdict(result))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent prints it as this contestant's result
        traceback.print_exc()
        pipe.send(f"failed: {type(error).__name__}: {error}")


def _measure(run: Run, given: Inputs, level: int, far: bool) -> tuple[Round, Tensor]:
    _rest()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    cpu, wall = time.process_time(), time.perf_counter()
    kept = _consume(run(given), far)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = _memory()
    # Pages of files are code and libraries: they come in once and are nobody's choice.
    return Round(round(wall, 5), round(cpu, 5), max(0, memory["VmHWM"] - memory["RssFile"] - level)), kept


def _consume(output: Output, far: bool) -> Tensor:
    """The result; where clips are streamed only what compares them is kept, as if the rest went to a file."""
    if isinstance(output, Tensor):
        return output[..., ::FAR, ::FAR].clone() if far else output
    pieces = []
    for piece in output:
        pieces.append(piece[..., ::FAR, ::FAR].clone())
        del piece
    return torch.cat(pieces, dim=2)


def _rest() -> int:
    """Hand free memory back to the system; bytes that the process has written and still holds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _memory()["RssAnon"]


def _memory() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}
