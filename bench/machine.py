"""The machine and the programs, in general words: no names of hosts or people."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path

import torch

from .work import CONTESTANTS, contestant


def describe_machine() -> str:
    """As "2 cores of an AMD EPYC with AVX-512, 24 GB"."""
    text = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in text.splitlines() if "model name" in line), "a CPU")
    words = "AVX-512" if "avx512f" in text else "AVX2" if "avx2" in text else "no AVX2"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{cores()} cores of an {model} with {words}, {memory / 2**30:.0f} GB"


def cores() -> int:
    """Physical cores that this process may use."""
    allowed = os.sched_getaffinity(0)
    siblings = (Path(f"/sys/devices/system/cpu/cpu{one}/topology/thread_siblings_list") for one in allowed)
    lists = {file.read_text() for file in siblings if file.is_file()}
    return len(lists) or len(allowed)


def versions() -> dict[str, str]:
    """Of Python, torch, and every contestant that is installed."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    if contestant("diffusers").version():
        found["transformers"] = importlib.metadata.version("transformers")
    for name in CONTESTANTS:
        if version := contestant(name).version():
            found[name] = version
    return found


def gemm_rate(threads: int, size: int = 2048, rounds: int = 7) -> float:
    """Floating-point operations per second of a large float32 matrix product: the most of a few rounds."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = 0.0
    for _ in range(rounds):
        begin = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    torch.set_num_threads(before)
    return best
