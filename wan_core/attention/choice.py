"""Which attention kernel a network uses: the one its user names, or the fastest exact one that is there.

Optional kernels are trusted after they have shown that they are right: the first call on each shape is
compared with SDPA in float32 on some of its rows. One that is missing, wrong or raises is left out with one
line in the log, and the next takes its place; SDPA is the last.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ..errors import WanError
from . import cudnn, flash2, flash3, sage
from .backend import HALF, Backend, Kernel
from .sdpa import attention

log = logging.getLogger("wancore")

AUTO, SDPA = "auto", "sdpa"
SDPA_NAME = "SDPA"
BACKENDS = {module.BACKEND.name: module.BACKEND for module in (flash2, flash3, cudnn, sage)}
NAMES = (AUTO, SDPA, *BACKENDS)
# Fastest first, exact ones only. Without them SDPA, which takes FlashAttention 2 where it can.
EXACT = (flash3.BACKEND, cudnn.BACKEND)
# What a probe compares: rows spread over the queries, of the first and the last head.
PROBE_ROWS = 32


class Attention:
    """The first of some backends that is there and right; calls with a bias, and all others, go to SDPA."""

    def __init__(self, backends: Sequence[Backend], asked_for: bool) -> None:
        """`asked_for`: the user named the backend, so say when it is missing."""
        self._waiting = list(backends)
        # By this a compiled graph calls it: it cannot look inside such kernels, nor at how they fare.
        self._number = len(_by_number) if backends else None
        if backends:
            _by_number.append(self)
        self._asked_for = asked_for
        self._now: tuple[Backend, Kernel, str] | None = None
        self._probed: set[object] = set()
        self._named = False

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, H, Lq, d), twice (B, H, Lk, d), and a bias as SDPA takes it, to (B, H, Lq, d)."""
        if torch.compiler.is_compiling():
            if bias is not None or self._number is None:
                return attention(q, k, v, bias)
            return _call_numbered(q, k, v, self._number).transpose(1, 2)
        if bias is None:
            while self._now is not None or self._load_next():
                out = self._answer(q, k, v)
                if out is not None:
                    return out
            self.name(SDPA_NAME)
        return attention(q, k, v, bias)

    def _answer(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        """What the backend of now makes of it; None when it has been left out instead."""
        backend, kernel, label = self._now
        try:
            fault = backend.refuses(q)
            if fault is None:
                out = kernel(q, k, v)
                fault = self._probe(backend, q, k, v, out)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - a kernel of any make may raise anything
            fault = f"failed with {type(error).__name__}: {_first_line(error)}"
        if fault is not None:
            self._now = None
            self._probed.clear()
            log.warning("attention: %s %s; %s", label, fault, self._instead())
            return None
        self.name(label)
        return out

    def _load_next(self) -> bool:
        """Import the next backend that is there; False when there is none left."""
        while self._waiting:
            backend = self._waiting.pop(0)
            try:
                self._now = (backend, *backend.load())
                return True
            except Exception as error:  # noqa: BLE001 - a package built for another torch fails in many ways
                missing = isinstance(error, ModuleNotFoundError) and error.name == backend.package
                why = "is not installed" if missing else f"cannot be loaded: {_first_line(error)}"
                if self._asked_for or not missing:
                    log.warning("attention: %s %s; %s", backend.package or backend.name, why, self._instead())
        return False

    def _probe(self, backend: Backend, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> str | None:
        """What is wrong with an answer; None when it is right, or shapes like these were right before."""
        shapes = (q.shape[:2], k.shape, q.dtype, q.device)
        if shapes in self._probed:
            return None
        if out.shape != q.shape or out.dtype != q.dtype:
            return f"gave {out.dtype} {tuple(out.shape)} for {q.dtype} {tuple(q.shape)}"
        off = distance(q, k, v, out)
        if off is None:  # the input itself is not finite, which tells nothing
            return None
        if not off <= backend.tolerance:
            return f"is {off:.1%} off on keys of {tuple(k.shape)}, where {backend.tolerance:.0%} is allowed"
        self._probed.add(shapes)
        return None

    def _instead(self) -> str:
        return f"next is {self._waiting[0].name}" if self._waiting else "SDPA is used"

    def name(self, label: str) -> None:
        """Name the backend in the log, once."""
        if not self._named:
            self._named = True
            log.info("attention: %s", label)


_by_number: list[Attention] = []


@torch.library.custom_op("wancore::attention", mutates_args=())
def _call_numbered(q: Tensor, k: Tensor, v: Tensor, number: int) -> Tensor:
    """An Attention as one operation of a compiled graph; (B, Lq, H, d), as most kernels write it."""
    return _by_number[number](q, k, v).transpose(1, 2).contiguous()


@_call_numbered.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, number: int) -> Tensor:  # noqa: ARG001 - the signature is torch's
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3])


def choose(name: str, device: torch.device, dtype: torch.dtype) -> Attention:
    """The attention for a network that computes in `dtype` on `device`.

    name: "auto", the fastest exact one; "sdpa"; "flash2", "flash3", "cudnn"; or "sage", in 8 bits and not
    exact. A card or dtype that a backend is not for gets SDPA, with a line in the log if the user named it.
    The answer is the same object each time, so what was probed and said stays so. Raises WanError for others.
    """
    if name not in NAMES:
        raise WanError(f"attention: there is no {name!r}; choose one of {', '.join(NAMES)}")
    return _chosen(name, device, dtype)


@cache
def _chosen(name: str, device: torch.device, dtype: torch.dtype) -> Attention:
    capability = compute_capability(device) if dtype in HALF else None
    wanted = EXACT if name == AUTO else tuple(BACKENDS[one] for one in (name,) if one in BACKENDS)
    fitting = [one for one in wanted if capability is not None and one.matches(capability)]
    asked_for = name in BACKENDS
    if asked_for and not fitting:
        card = f"compute capability {capability[0]}.{capability[1]}" if capability else f"{dtype} on {device}"
        log.warning("attention: %s is not for %s; SDPA is used", name, card)
    chosen = Attention(fitting, asked_for)
    if not asked_for and not fitting:
        chosen.name(SDPA_NAME)  # now, because a compiled graph writes no log
    return chosen


def compute_capability(device: torch.device) -> tuple[int, int] | None:
    """Of an NVIDIA card, such as (8, 9); None for all else."""
    if device.type != "cuda" or torch.version.cuda is None:
        return None
    return torch.cuda.get_device_capability(device)


def distance(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> float | None:
    """Relative L2 of an attention's output from SDPA in float32, the largest of some rows of two heads.

    One head at a time: a head's keys and values in float32 are 77 MB at 720p. None when those are not finite.
    """
    rows = torch.linspace(0, q.shape[2] - 1, min(PROBE_ROWS, q.shape[2]), device=q.device).long()
    farthest = 0.0
    for head in {0, q.shape[1] - 1}:
        part = slice(head, head + 1)
        expected = attention(q[:1, part, rows].float(), k[:1, part].float(), v[:1, part].float())
        size = float(expected.norm())
        if not size < float("inf"):
            return None
        off = float((out[:1, part, rows].float() - expected).norm()) / max(size, 1e-30)
        farthest = off if not off <= farthest else farthest  # NaN counts as farthest
    return farthest


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
