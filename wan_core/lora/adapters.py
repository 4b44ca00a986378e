"""What an adapter adds to a weight, kept in the small form it is stored in.

A layer is linear in its weight, so its output with `weight + delta` is its output plus that of the delta
alone. The weight itself is never touched, whatever it is stored as.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Self = TypeVar("Self", bound="Stored")


class Delta(Protocol):
    """A change of a weight seen as a matrix (O, I), a convolution's as (O, I * kernel)."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def nbytes(self) -> int: ...

    def to(self, device: torch.device | str) -> Delta: ...

    def add_to(self, out: Tensor, x: Tensor, strength: float) -> None:
        """out (N, O) += strength * x (N, I) @ delta.T, in place and in the dtype of x."""
        ...

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The whole matrix (O, I)."""
        ...


class Stored:
    """A dataclass of tensors, other such values and numbers: moved and counted as one."""

    def to(self: Self, device: torch.device | str) -> Self:
        """The same, with every tensor on the device."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in held.items() if isinstance(value, Tensor | Stored)}
        return replace(self, **moved)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        held = (getattr(self, field.name) for field in fields(self))
        return sum(value.nbytes for value in held if isinstance(value, Tensor | Stored))


@dataclass(frozen=True, eq=False)
class Dense(Stored):
    """The change itself, in the parameter's own shape (`.diff`, `.diff_b`)."""

    value: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.value.shape[0], self.value[0].numel()

    def add_to(self, out: Tensor, x: Tensor, strength: float) -> None:
        out.addmm_(x, self.dense(x.dtype).t(), alpha=strength)

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.value.flatten(1).to(dtype)


@dataclass(frozen=True, eq=False)
class LowRank(Stored):
    """scale * up @ down, with up (O, r) and down (r, I): LoRA."""

    up: Tensor
    down: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    def add_to(self, out: Tensor, x: Tensor, strength: float) -> None:
        hidden = F.linear(x, self.down.to(x.dtype))  # (N, r)
        out.addmm_(hidden, self.up.to(x.dtype).t(), alpha=self.scale * strength)

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.scale * (self.up.to(dtype) @ self.down.to(dtype))


@dataclass(frozen=True, eq=False)
class Hadamard(Stored):
    """first * second, element by element: LoHa. Its rank is the product of the two, so it is used in full."""

    first: LowRank
    second: LowRank

    @property
    def shape(self) -> tuple[int, int]:
        return self.first.shape

    def add_to(self, out: Tensor, x: Tensor, strength: float) -> None:
        out.addmm_(x, self.dense(x.dtype).t(), alpha=strength)

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.first.dense(dtype).mul_(self.second.dense(dtype))


@dataclass(frozen=True, eq=False)
class Kronecker(Stored):
    """outer (a, c) by inner (b, d), a matrix (a * b, c * d): LoKr."""

    outer: Dense | LowRank
    inner: Dense | LowRank

    @property
    def shape(self) -> tuple[int, int]:
        (a, c), (b, d) = self.outer.shape, self.inner.shape
        return a * b, c * d

    def add_to(self, out: Tensor, x: Tensor, strength: float) -> None:
        # (outer x inner) @ x is inner applied to each of the c pieces of x, then outer across the pieces.
        (a, c), (b, d) = self.outer.shape, self.inner.shape
        pieces = x.new_zeros(x.shape[0] * c, b)
        self.inner.add_to(pieces, x.reshape(-1, d), 1.0)
        across = F.linear(pieces.view(-1, c, b).transpose(1, 2), self.outer.dense(x.dtype))  # (N, b, a)
        out.view(-1, a, b).add_(across.transpose(1, 2), alpha=strength)

    def dense(self, dtype: torch.dtype) -> Tensor:
        return torch.kron(self.outer.dense(dtype), self.inner.dense(dtype))


def tucker(core: Tensor, out_side: Tensor, in_side: Tensor) -> Tensor:
    """A convolution's weight (O, I, *kernel) from core (r, r, *kernel), out_side (r, O), in_side (r, I)."""
    return torch.einsum("ij...,ip,jq->pq...", core.float(), out_side.float(), in_side.float())
