"""Memory that a piece of work takes, seen from outside its process."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def peak_anonymous(
    work: Callable[..., Result], *arguments: object, prepare: Callable[..., object] | None = None
) -> tuple[Result, int]:
    """What `work` returns, and the bytes of anonymous memory it needed at most.

    Anonymous memory is what the process has written: copies of weights are, pages of a mapped file are not.
    The work runs in a new process, from what that one has after its imports, and after `prepare` of the same
    arguments where it is given; all must be picklable. Linux only.
    """
    if sys.platform != "linux":
        raise SystemExit("bench: memory is measured through /proc, which only Linux has")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_worker, args=(theirs, work, arguments, prepare))
    process.start()
    theirs.close()
    try:
        ours.recv()  # it has imported what it needs
        before = peak = anonymous(process.pid)
        ours.send(None)
        while not ours.poll(0.001):
            peak = max(peak, anonymous(process.pid))
        result = ours.recv()
        peak = max(peak, anonymous(process.pid))  # it holds everything until it is let go
        ours.send(None)
    finally:
        process.join()
    return result, peak - before


def _worker(
    pipe: Connection,
    work: Callable[..., Result],
    arguments: tuple[object, ...],
    prepare: Callable[..., object] | None,
) -> None:
    if prepare is not None:
        prepare(*arguments)
    pipe.send(None)
    pipe.recv()
    kept = work(*arguments)
    pipe.send(kept[0])
    pipe.recv()


def anonymous(pid: int) -> int:
    """Anonymous bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
