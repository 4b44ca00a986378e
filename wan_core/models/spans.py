"""The tokens of a video in spans: what is as wide as the network exists for one span at a time.

Only the residual stream and one block's keys and values are ever held for the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Tokens that go through attention together, and through everything else. On a CPU torch's kernel wants at
# least 768 queries (at 512 it takes 1.16 times as long), and the feed-forward runs at full speed from 256
# rows on, in half the memory. A GPU wants matrices that fill it: 4096 rows by 5120 columns are five rounds of
# an H200's 132 processors with 3 % idle (2048 rows: 19 %).
CPU_SPANS = (1280, 512)
GPU_SPANS = (4096, 4096)
# Attention kernels work on tiles of 64 to 256 queries, so a span is a multiple of a tile.
TILE = 128


@dataclass(frozen=True)
class Span:
    """Tokens worked on together."""

    tokens: slice
    rows: Tensor | None  # (B, 1) or (B, n): the time row of each token; None: sample b has row b

    def take(self, time: Tensor) -> Tensor:
        """(R, D) time rows as they apply to these tokens: (B, 1, D), or (B, n, D) when tokens differ."""
        return time.unsqueeze(1) if self.rows is None else time[self.rows]


def sizes(batch: int, tokens: int, device_type: str) -> tuple[int, int]:
    """Tokens per span in attention, and elsewhere."""
    limits = CPU_SPANS if device_type == "cpu" else GPU_SPANS
    wide, narrow = (_even(tokens, max(1, limit // batch)) for limit in limits)
    return wide, min(wide, narrow)


def make_spans(tokens: int, size: int, index: Tensor | None, device: torch.device) -> tuple[Span, ...]:
    """Spans of `size` that cover `tokens`; index (B, tokens), on the CPU: the time row of each token."""
    spans = []
    for start in range(0, tokens, size):
        part, rows = slice(start, min(start + size, tokens)), None
        if index is not None:
            rows = index[:, part]
            if bool((rows == rows[:, :1]).all()):
                rows = rows[:, :1]
            rows = rows.to(device)
        spans.append(Span(part, rows))
    return tuple(spans)


def updated(x: Tensor, spans: tuple[Span, ...], step: Callable[[Tensor, Span], Tensor]) -> Tensor:
    """x (B, tokens, D) with every span's tokens replaced by `step(tokens, span)`.

    Of several spans each step must write to the tokens it is given; one span may give a new tensor.
    """
    if len(spans) == 1:
        return step(x, spans[0])
    for span in spans:
        step(x[:, span.tokens], span)
    return x


def collected(spans: tuple[Span, ...], step: Callable[[Span], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What `step` makes of each span, (B, heads, n, d) each, joined to (B, heads, tokens, d)."""
    if len(spans) == 1:
        return step(spans[0])
    tokens, whole = spans[-1].tokens.stop, None
    for span in spans:
        parts = step(span)
        if whole is None:
            whole = tuple(part.new_empty(*part.shape[:2], tokens, part.shape[3]) for part in parts)
        for out, part in zip(whole, parts, strict=True):
            out[:, :, span.tokens] = part
        del parts, part  # before the next are made
    assert whole is not None
    return whole


def _even(tokens: int, limit: int) -> int:
    """The size of nearly equal spans of at most `limit`, in whole tiles where that many fit."""
    tile = min(TILE, limit)
    count = -(-tokens // (limit // tile * tile))
    return -(-tokens // (count * tile)) * tile
