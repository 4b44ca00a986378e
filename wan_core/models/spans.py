"""The tokens of a video in spans: what is as wide as the network exists for one span at a time.

Only the residual stream and one block's keys and values are ever held for the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

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
# A clean first frame is one change of time in a video; spans are not cut to bits where a mask has hundreds.
MOST_CHANGES = 8


@dataclass(frozen=True)
class Span:
    """Tokens worked on together."""

    tokens: slice
    rows: Tensor | None  # (B, 1) or (B, n): the time row of each token; None: sample b has row b

    def take(self, time: Tensor) -> Tensor:
        """(R, D) time rows as they apply to these tokens: (B, 1, D), or (B, n, D) when tokens differ."""
        return time.unsqueeze(1) if self.rows is None else time[self.rows]


def limits(batch: int, device_type: str) -> tuple[int, int]:
    """The most tokens per span in attention, and elsewhere."""
    wide, narrow = CPU_SPANS if device_type == "cpu" else GPU_SPANS
    return max(1, wide // batch), max(1, narrow // batch)


def make_spans(tokens: int, limit: int, index: Tensor | None, device: torch.device) -> tuple[Span, ...]:
    """Nearly equal spans of at most `limit` that cover `tokens`.

    `index` (B, tokens), on the CPU, is the time row of each token. Spans end where it changes, so that one
    row serves a span: a row for each token would be as large as the span in float32, three times.
    """
    if index is None:
        return tuple(Span(part, None) for part in _slices(0, tokens, limit))
    changes = ((index[:, 1:] != index[:, :-1]).any(0).nonzero().flatten() + 1).tolist()
    edges = [0, *(changes if len(changes) <= MOST_CHANGES else []), tokens]
    parts = [part for start, stop in pairwise(edges) for part in _slices(start, stop, limit)]
    return tuple(Span(part, _rows(index[:, part]).to(device)) for part in parts)


def _slices(start: int, stop: int, limit: int) -> list[slice]:
    size = even_size(stop - start, limit)
    return [slice(i, min(i + size, stop)) for i in range(start, stop, size)]


def _rows(index: Tensor) -> Tensor:
    return index[:, :1] if bool((index == index[:, :1]).all()) else index


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


def even_size(tokens: int, limit: int) -> int:
    """The size of nearly equal spans of at most `limit`, in whole tiles where that many fit."""
    tile = min(TILE, limit)
    count = -(-tokens // (limit // tile * tile))
    return -(-tokens // (count * tile)) * tile
