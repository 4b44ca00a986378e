"""Which of a network's blocks stay on the device, and which are streamed through two slabs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

ALIGNMENT = 256  # bytes; what every CUDA kernel may ask of a tensor's first byte
SLABS = 2  # one computes while the other is filled


@dataclass(frozen=True)
class Weights:
    """Bytes of a network as it computes: each block's, and what belongs to none and always stays."""

    fixed: int
    blocks: tuple[int, ...]

    @property
    def total(self) -> int:
        """All of them."""
        return self.fixed + sum(self.blocks)


@dataclass(frozen=True)
class Residence:
    """Where a network's blocks are: on the device, or streamed to it (their indices)."""

    weights: Weights
    streamed: tuple[int, ...] = ()

    @property
    def device_bytes(self) -> int:
        """What stays on the device, slabs included."""
        return device_bytes(self.weights, self.streamed)

    @property
    def slab_bytes(self) -> int:
        """Of all slabs, and of the pinned ring on the host that feeds them."""
        return SLABS * max((self.weights.blocks[index] for index in self.streamed), default=0)


def aligned(size: int) -> int:
    """A tensor's bytes as it lies among others."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def weigh(sizes: Mapping[str, int], blocks: str = "blocks") -> Weights:
    """Sum tensors' bytes by name: "blocks.3.ffn.0.weight" belongs to the fourth block, others to none."""
    fixed, by_block = 0, dict[int, int]()
    for name, size in sizes.items():
        inside = re.match(rf"{re.escape(blocks)}\.(\d+)\.", name)
        if inside is None:
            fixed += aligned(size)
        else:
            by_block[int(inside[1])] = by_block.get(int(inside[1]), 0) + aligned(size)
    return Weights(fixed, tuple(by_block[index] for index in sorted(by_block)))


def choose(weights: Weights, work: int, budget: int | None) -> Residence | None:
    """As many blocks resident as fit beside `work` bytes of activations; None when not even two slabs do.

    budget: bytes, None for no limit.
    """
    if budget is None or weights.total + work <= budget:
        return Residence(weights)
    for count in range(SLABS + 1, len(weights.blocks) + 1):
        streamed = streamed_indices(len(weights.blocks), count)
        if device_bytes(weights, streamed) + work <= budget:
            return Residence(weights, streamed)
    return None


def least_bytes(weights: Weights, work: int) -> int:
    """The smallest budget that `choose` has an answer for."""
    return min(device_bytes(weights, every(weights)), weights.total) + work


def every(weights: Weights) -> tuple[int, ...]:
    """All blocks."""
    return tuple(range(len(weights.blocks)))


def device_bytes(weights: Weights, streamed: tuple[int, ...]) -> int:
    """On the device when these blocks are streamed: all the others, and slabs for the largest of these."""
    moving = [weights.blocks[index] for index in streamed]
    return weights.total - sum(moving) + SLABS * max(moving, default=0)


def streamed_indices(blocks: int, streamed: int) -> tuple[int, ...]:
    """Which blocks are streamed: spread evenly, so that each copy has the resident ones' time as well."""
    return tuple(i for i in range(blocks) if (i + 1) * streamed // blocks > i * streamed // blocks)
