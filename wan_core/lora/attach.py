"""A network that wears LoRAs: their changes are added beside its layers, and its weights stay as they are."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fit import Change


def with_changes(network: nn.Module, changes: Sequence[Change], device: torch.device) -> nn.Module | Dressed:
    """The network, computing with the changes; they are copied to the device once.

    Nothing stays attached between calls, so the network can be shared with others who want it plain.
    """
    if not changes:
        return network
    moved = [dataclasses.replace(change, delta=change.delta.to(device)) for change in changes]
    return Dressed(network, moved)


class Dressed:
    """A transformer that wears changes on its device, for as long as each call takes."""

    def __init__(self, network: nn.Module, changes: Sequence[Change]) -> None:
        self._network, self._changes = network, changes

    def __call__(self, *arguments: Any) -> Tensor:
        with attached(self._network, self._changes):
            return self._network(*arguments)

    def read_text(self, *arguments: Any) -> Any:
        """What the network makes of a prompt; its layers may have changes for that, too."""
        with attached(self._network, self._changes):
            return self._network.read_text(*arguments)


@contextmanager
def attached(network: nn.Module, changes: Sequence[Change]) -> Iterator[None]:
    """While the context lasts, the network computes with the changes, which must be on its device."""
    by_layer: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        by_layer[change.layer].append(change)
    handles = []
    try:
        for name, own in by_layer.items():
            layer = network.get_submodule(name)
            if own[0].part == "modulation":  # of a block or the head, which hold no other parameter
                handles.append(layer.register_forward_pre_hook(_shifted(own)))
            else:
                handles.append(layer.register_forward_hook(_added(own)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def change_bytes(changes: Sequence[Change]) -> int:
    """The memory the changes take on the device."""
    return sum(change.delta.nbytes for change in changes)


def _added(changes: list[Change]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """A hook that adds to a layer's output, in place, what the changes of its parameters add to it."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        for change in changes:
            _add(layer, change, inputs[0].to(out.dtype), out)

    return hook


def _add(layer: nn.Module, change: Change, x: Tensor, out: Tensor) -> None:
    delta, strength = change.delta, change.strength
    if isinstance(layer, nn.Conv3d):
        if change.part == "bias":
            out.add_(delta.value.to(x.dtype).view(-1, 1, 1, 1), alpha=strength)
        else:
            weight = delta.dense(x.dtype).view(layer.out_channels, layer.in_channels, *layer.kernel_size)
            out.add_(F.conv3d(x, weight, None, layer.stride, layer.padding), alpha=strength)
    elif change.part == "bias":
        out.add_(delta.value.to(x.dtype), alpha=strength)
    elif isinstance(layer, nn.RMSNorm):
        out.add_(F.rms_norm(x, layer.normalized_shape, delta.value.to(x.dtype), layer.eps), alpha=strength)
    elif isinstance(layer, nn.LayerNorm):
        weight = delta.value.to(x.dtype)
        out.add_(F.layer_norm(x, layer.normalized_shape, weight, None, layer.eps), alpha=strength)
    else:
        # a view, never a copy: a layer's output that is not contiguous must fail here, not lose the change
        delta.add_to(out.view(-1, out.shape[-1]), x.reshape(-1, x.shape[-1]), strength)


def _shifted(changes: list[Change]) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """A hook for a block or the head: it adds its modulation to the time rows, so a change can go there."""

    def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x, given, *rest = inputs
        time = given if isinstance(given, Tensor) else given.time
        for change in changes:
            time = time + change.strength * change.delta.value.to(time.dtype)
        given = time if isinstance(given, Tensor) else dataclasses.replace(given, time=time)
        return x, given, *rest

    return hook
