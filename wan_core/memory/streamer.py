"""Blocks that do not fit are copied to the device one ahead of the computation, and never back.

Two slabs on the device hold a block each: while one computes, the next is copied into the other. A worker
thread reads the weights where they lie, as a rule in the pages of a mapped file, into a pinned ring as large
as the slabs, and a stream of its own carries them over; no copy of the network is ever made on the host. On a
CPU the same code copies straight into slabs in memory, which is of use to tests only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from .choice import SLABS, aligned

log = logging.getLogger("wancore")


class Streamer:
    """A network's weights brought to a device: all that stay at once, the others as their block's turn comes.

    Args:
        network: a module whose weights lie on the host; it is changed, and computes on the device from now on
        blocks: those of its modules that it calls one after the other, in this order
        streamed: indices of the blocks that do not stay
        device: where it computes
        dtype: what to round the weights to on the way; None: as they are
        on_host: layers that look up rows, such as an embedding: they do so on the host, in the pages of the
            file, and only their answer goes to the device

    Between its turns a streamed block has its weights on the host. `close` ends it: the worker is stopped and
    the slabs are let go; call it also when a run is broken off.
    """

    def __init__(
        self,
        network: nn.Module,
        blocks: Sequence[nn.Module],
        streamed: Sequence[int],
        device: torch.device,
        dtype: torch.dtype | None = None,
        on_host: Sequence[nn.Module] = (),
    ) -> None:
        self._device = device
        self._blocks = {index: _places(blocks[index], dtype) for index in streamed}
        self._order = list(streamed)
        left = {id(place.source) for places in self._blocks.values() for place in places}
        for layer in on_host:
            left |= {id(value) for value in layer.parameters()}
            _look_up_on_host(layer, device)
        for owner, name, value in _parameters(network):
            if id(value) not in left:
                _set(owner, name, value.to(device=device, dtype=dtype or value.dtype))
        self._closed = False
        self._slabs: list[_Slab] = []
        if not streamed:
            return
        self._stream = torch.cuda.Stream(device) if is_card(device) else None
        size = max(places[-1].end for places in self._blocks.values())
        self._slabs = [_Slab(size, device, self._stream is not None) for _ in range(SLABS)]
        if self._stream is not None:  # the slabs' memory may have had another use that still runs
            self._stream.wait_stream(torch.cuda.current_stream(device))
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="wancore-stream")
        self._hooks = [
            handle
            for index in streamed
            for handle in (
                blocks[index].register_forward_pre_hook(partial(self._before, index)),
                blocks[index].register_forward_hook(partial(self._after, index), always_call=True),
            )
        ]
        self._fill_from(self._order[0])

    def close(self) -> None:
        """Stop copying and let the slabs go. The network cannot run any more; a second call does nothing."""
        if self._closed or not self._slabs:
            return
        self._closed = True
        for handle in self._hooks:
            handle.remove()
        self._worker.shutdown(wait=True, cancel_futures=True)
        if self._stream is not None:  # a copy under way may not outlive what it writes to
            self._stream.synchronize()
        self._slabs.clear()

    def _before(self, index: int, *_: Any) -> None:
        """Have a block's weights on the device before it runs."""
        slab = next((slab for slab in self._slabs if slab.block == index), None)
        if slab is None:  # the run before this one was broken off on the way
            slab = self._fill_from(index)
        slab.copying.result()
        if slab.arrived is not None:
            torch.cuda.current_stream(self._device).wait_event(slab.arrived)
        for place, value in zip(
            self._blocks[index], slab.parameters(index, self._blocks[index]), strict=True
        ):
            _set(place.owner, place.name, value)

    def _after(self, index: int, *_: Any) -> None:
        """A block has run: its slab takes the block after the next, which at the end is one of the first."""
        for place in self._blocks[index]:
            _set(place.owner, place.name, place.source)
        slab = next((slab for slab in self._slabs if slab.block == index), None)
        if slab is None:
            return
        if slab.used is not None:
            slab.used.record(torch.cuda.current_stream(self._device))
        following = self._follower(index, SLABS)
        if all(other.block != following for other in self._slabs):
            self._copy(following, slab)

    def _follower(self, index: int, steps: int) -> int:
        return self._order[(self._order.index(index) + steps) % len(self._order)]

    def _fill_from(self, index: int) -> _Slab:
        """Begin anew at a block: it and its followers go into the slabs, in order."""
        for slab in self._slabs:
            slab.block = None
        for steps, slab in enumerate(self._slabs[: len(self._order)]):
            self._copy(self._follower(index, steps), slab)
        return self._slabs[0]

    def _copy(self, index: int, slab: _Slab) -> None:
        slab.block = index
        slab.copying = self._worker.submit(self._fetch, slab, self._blocks[index])

    def _fetch(self, slab: _Slab, places: Sequence[_Place]) -> None:
        """The worker's part: a block's weights from the host into a slab."""
        if self._stream is None:
            for place in places:
                if not self._closed:
                    place.view(slab.room).copy_(place.source)
            return
        slab.arrived.synchronize()  # the staging may still be on its way to the device
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(slab.used)
            for place in places:
                if not self._closed:
                    staged = place.view(slab.staging)
                    staged.copy_(place.source)
                    place.view(slab.room).copy_(staged, non_blocking=True)
            slab.arrived.record(self._stream)


class _Slab:
    """Room for one block on the device; for a GPU, pinned room on the host, and events that keep the order.

    arrived: the copy is done, so a block may compute, and the staging be written to. used: the block that was
    here has computed, so the room may be overwritten. Events never recorded count as past.
    """

    def __init__(self, size: int, device: torch.device, staged: bool) -> None:
        self.room = torch.empty(size, dtype=torch.uint8, device=device)
        self.staging = pinned((size,), torch.uint8) if staged else None
        self.arrived = torch.cuda.Event() if staged else None
        self.used = torch.cuda.Event() if staged else None
        self.block: int | None = None
        self.copying: Future[None] = Future()
        self._views: dict[int, list[nn.Parameter]] = {}

    def parameters(self, index: int, places: Sequence[_Place]) -> list[nn.Parameter]:
        """A block's weights as they lie here."""
        if index not in self._views:
            self._views[index] = [_parameter(place.view(self.room)) for place in places]
        return self._views[index]


def is_card(device: torch.device) -> bool:
    """Whether copies to a device can go on beside its work."""
    return device.type == "cuda"


def pinned(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Host memory that a card reads by itself; where no more may be pinned, ordinary and slower memory."""
    try:
        return torch.empty(shape, dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        _say_once(f"memory: RAM could not be pinned ({str(error).splitlines()[0]}); copying will be slower")
        return torch.empty(shape, dtype=dtype)


@cache
def _say_once(message: str) -> None:
    log.warning(message)


@dataclass(frozen=True)
class _Place:
    """One weight of a block: whose it is, where it lies on the host, and where in a slab."""

    owner: nn.Module
    name: str
    source: nn.Parameter = field(repr=False)
    dtype: torch.dtype
    begin: int
    end: int

    def view(self, room: Tensor) -> Tensor:
        """The weight's part of a slab or of its staging."""
        size = self.source.numel() * self.dtype.itemsize
        return room[self.begin : self.begin + size].view(self.dtype).view(self.source.shape)


def _places(block: nn.Module, dtype: torch.dtype | None) -> list[_Place]:
    places, begin = [], 0
    for owner, name, value in _parameters(block):
        kind = dtype or value.dtype
        end = begin + aligned(value.numel() * kind.itemsize)
        places.append(_Place(owner, name, value, kind, begin, end))
        begin = end
    return places


def _look_up_on_host(layer: nn.Module, device: torch.device) -> None:
    layer.register_forward_pre_hook(lambda _, inputs: tuple(value.cpu() for value in inputs))
    layer.register_forward_hook(lambda _, __, out: out.to(device))


def _parameters(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """(owner, its name there, parameter) of a module's every weight."""
    for owner in module.modules():
        for name, value in list(owner.named_parameters(recurse=False)):
            yield owner, name, value


def _set(owner: nn.Module, name: str, value: Tensor) -> None:
    setattr(owner, name, value if isinstance(value, nn.Parameter) else _parameter(value))


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
