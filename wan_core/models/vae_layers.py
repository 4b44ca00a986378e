"""Layers of both Wan video VAEs: causal convolutions with a memory, residual, attention, resampling.

Source: the released `wan/modules/vae2_1.py` and `vae2_2.py`; attribute names are keys of the released files.
A clip goes through as a list of frames, channels last. With a `Memory` it comes in chunks and nothing is kept
that is not needed again; without one it comes whole and gradients flow. The numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..memory.streamer import is_card, pinned
from . import convolutions
from .layers import linear
from .winograd import Scratch, new_frame

Frames = list[Tensor]  # one (B, H, W, C) for each frame
Fetched = tuple[Frames, "torch.cuda.Event | None"]  # and when they are there

NORM_ELEMENTS = 2**18  # normalized at one time on a CPU: 1 MB, which its cache holds
NORM_ELEMENTS_ELSEWHERE = 2**22
QUERIES = 4096  # that look at a frame at one time, for kernels that write the scores down
LARGE_FRAME = 2**22  # bytes: layers that would hold several such frames take them one or two at a time


Layer = Callable[[Frames, "Memory | None"], Frames]


class Memory:
    """What each causal layer remembers between two chunks of one clip: its last one or two input frames.

    At 1280 x 720 in 16 bits that is 4.4 GB. With a `device` it lies there, such as on the host: then a CUDA
    device copies on a stream of its own, what the next layer needs while this one works.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.scratch = Scratch()
        self._device = device
        self._frames: dict[nn.Module, Frames] = {}
        self._fetched: dict[nn.Module, Fetched] = {}
        self._followers: dict[nn.Module, nn.Module] = {}
        self._last: nn.Module | None = None
        self._copies: torch.cuda.Stream | None = None
        self._left: torch.cuda.Event | None = None

    def __contains__(self, layer: nn.Module) -> bool:
        return layer in self._frames

    def keep(self, layer: nn.Module, frames: Frames) -> None:
        """Remember these until they are taken; they are the memory's now."""
        if self._device is not None and frames:
            frames = self._stored(frames)
        self._frames[layer] = frames

    def take(self, layer: nn.Module, like: Tensor) -> Frames:
        """What was kept, on `like`'s device and the caller's to overwrite; nothing at a clip's start."""
        if self._device is None:
            return self._frames.pop(layer, [])
        if self._last is not None:
            self._followers[self._last] = layer
        self._last = layer
        frames, arrived = self._fetched.pop(layer, None) or self._fetch(layer, like.device)
        self._frames.pop(layer, None)
        if arrived is not None:
            work = torch.cuda.current_stream(like.device)
            work.wait_event(arrived)  # and for nothing that goes the other way
            for frame in frames:  # made on the other stream: its memory is free when this one has read it
                frame.record_stream(work)
            follower = self._followers.get(layer)
            if follower is not None and follower not in self._fetched:
                self._fetched[follower] = self._fetch(follower, like.device)
        return frames

    def fork(self) -> Memory:
        """A memory of the same past, for another future."""
        if self._copies is not None:
            self._copies.synchronize()
        twin = Memory(self._device)
        twin._frames = {layer: [frame.clone() for frame in past] for layer, past in self._frames.items()}
        return twin

    def _stored(self, frames: Frames) -> Frames:
        if not is_card(frames[0].device):
            return [frame.to(self._device, copy=True) for frame in frames]
        # What leaves is not free before it has left, and the host is quick to ask for new: without waiting it
        # would have the frames of all layers on their way, which is what must not lie on the device.
        if self._left is not None:
            self._left.synchronize()
        if self._copies is None:
            self._copies = torch.cuda.Stream(frames[0].device)
        self._copies.wait_stream(torch.cuda.current_stream(frames[0].device))
        with torch.cuda.stream(self._copies):
            stored = [pinned(frame.shape, frame.dtype) for frame in frames]
            for to, frame in zip(stored, frames, strict=True):
                to.copy_(frame, non_blocking=True)
                frame.record_stream(self._copies)
            self._left = self._copies.record_event()
        return stored

    def _fetch(self, layer: nn.Module, device: torch.device) -> Fetched:
        frames = self._frames.get(layer, [])
        if self._copies is None:
            return [frame.to(device, copy=True) for frame in frames], None
        with torch.cuda.stream(self._copies):
            arriving = [frame.to(device, non_blocking=True, copy=True) for frame in frames]
            return arriving, self._copies.record_event()


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3x3, norm, SiLU, 3x3x3, plus a 1x1x1 shortcut where channels change."""

    def __init__(self, dim_in: int, dim_out: int, make: Maker) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            make.norm(dim_in, frames=True),
            nn.SiLU(),
            make.conv3d(dim_in, dim_out, 3),
            make.norm(dim_out, frames=True),
            nn.SiLU(),
            nn.Identity(),  # the released dropout's place: keys count it
            make.conv3d(dim_out, dim_out, 3),
        )
        self.shortcut = make.conv3d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(self, x: Frames, memory: Memory | None) -> Frames:
        norm1, _, conv1, norm2, _, _, conv2 = self.residual
        h = causal_conv(conv1, [norm1(frame, silu=True) for frame in x], memory)
        h = causal_conv(conv2, [norm2(frame, silu=True, over=memory is not None) for frame in h], memory)
        return [added(out, self._shortcut(frame), memory) for out, frame in zip(h, x, strict=True)]

    def _shortcut(self, frame: Tensor) -> Tensor:
        return frame if isinstance(self.shortcut, nn.Identity) else pointwise(self.shortcut, frame)


class AttentionBlock(nn.Module):
    """Single-head attention among the cells of each frame, no mask."""

    def __init__(self, dim: int, make: Maker) -> None:
        super().__init__()
        self.norm = make.norm(dim, frames=False)
        self.to_qkv = make.conv2d(dim, 3 * dim, 1)
        self.proj = make.conv2d(dim, dim, 1)

    def forward(self, x: Frames, memory: Memory | None) -> Frames:
        return [added(self._attend(frame), frame, memory) for frame in x]

    def _attend(self, frame: Tensor) -> Tensor:
        qkv = pointwise(self.to_qkv, self.norm(frame)).flatten(1, 2).unsqueeze(1)
        q, k, v = qkv.chunk(3, dim=-1)
        parts = [F.scaled_dot_product_attention(part, k, v) for part in q.split(QUERIES, dim=2)]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return pointwise(self.proj, out.view(frame.shape))


class Downsample(nn.Module):
    """Halve rows and columns; where `temporal`, frames too, but for the clip's first."""

    def __init__(self, dim: int, temporal: bool, make: Maker) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), make.conv2d(dim, dim, 3, stride=2))
        self.time_conv = make.time_conv(dim, dim, stride=2) if temporal else None

    def forward(self, x: Frames, memory: Memory | None) -> Frames:
        x = per_frame(self.resample, convolutions.downsampled, x, memory)
        if self.time_conv is None:
            return x
        before = [] if memory is None else memory.take(self, x[0])
        if memory is not None:
            memory.keep(self, x[-1:])
        if before:
            return self._halved([*before, *x], memory)
        return x[:1] + self._halved(x, memory)

    def _halved(self, x: Frames, memory: Memory | None) -> Frames:
        triples = [x[start : start + 3] for start in range(0, len(x) - 2, 2)]
        if memory is None:
            return [joined(self.time_conv, triple)[0] for triple in triples]
        with self.time_conv.borrow(x[0]) as (weight, bias):
            return [convolutions.single(triple, weight, bias, memory.scratch) for triple in triples]


class Upsample(nn.Module):
    """Double rows and columns; where `temporal`, all frames but the clip's first."""

    def __init__(self, dim_in: int, dim_out: int, temporal: bool, make: Maker) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest-exact"),
            make.conv2d(dim_in, dim_out, 3, padding=1),
        )
        self.time_conv = make.time_conv(dim_in, 2 * dim_in) if temporal else None

    def forward(self, x: Frames, memory: Memory | None) -> Frames:
        return through(self.parts(), x, memory)

    def parts(self) -> list[Layer]:
        """In time, then in space: what comes after the first may go on frame by frame."""
        return [self._enlarge] if self.time_conv is None else [self._double, self._enlarge]

    def _enlarge(self, x: Frames, memory: Memory | None) -> Frames:
        return per_frame(self.resample, convolutions.upsampled, x, memory)

    def _double(self, x: Frames, memory: Memory | None) -> Frames:
        # The clip's first latent frame stays one frame and is no history for the next: the released
        # decoder gives the second latent frame two frames of zeros before it.
        starts = memory is None or self not in memory
        first, rest = (x[:1], x[1:]) if starts else ([], x)
        if memory is not None and starts:
            memory.keep(self, [])
        if not rest:
            return first
        doubled = causal_conv(self.time_conv, rest, memory, owner=self)
        return first + [half for frame in doubled for half in frame.chunk(2, dim=-1)]


class RMSNorm(nn.Module):
    """x / ||x|| over channels, times sqrt(channels) and a learned gamma; computed in float32."""

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gamma)

    def forward(self, x: Tensor, silu: bool = False, over: bool = False) -> Tensor:
        """(..., C), with `silu` after it; `over` x itself, where no gradient is recorded."""
        gamma = self.gamma.to(device=x.device, dtype=torch.float32).flatten()
        if torch.is_grad_enabled():
            return self._whole(x, gamma, silu)
        out = x if over else new_frame(x.shape, x)
        rows = (NORM_ELEMENTS if x.device.type == "cpu" else NORM_ELEMENTS_ELSEWHERE) // len(gamma)
        for part, to in zip(*(t.view(-1, len(gamma)).split(rows) for t in (x, out)), strict=True):
            to.copy_(self._whole(part, gamma, silu))
        return out

    @staticmethod
    def _whole(x: Tensor, gamma: Tensor, silu: bool) -> Tensor:
        # The released 1e-12 is of the length, not of its mean square.
        y = F.rms_norm(x.float(), gamma.shape, gamma, eps=1e-24 / len(gamma))
        return (F.silu(y, inplace=not torch.is_grad_enabled()) if silu else y).to(x.dtype)


def causal_conv(conv: nn.Module, x: Frames, memory: Memory | None, owner: nn.Module | None = None) -> Frames:
    """A 3-frame convolution that sees the two frames before `x`: remembered, or zeros at the start.

    With a memory it keeps the frames of `x` or overwrites them: they are the caller's no more.
    """
    if memory is None:
        zeros = torch.zeros_like(x[0])
        return joined(conv, [zeros, zeros, *x])
    seen = [*memory.take(owner or conv, x[0]), *x]
    with conv.borrow(x[0]) as (weight, bias):
        convolutions.causal(seen, len(x), weight, bias, memory.scratch)
    memory.keep(owner or conv, seen[len(x) :])
    return seen[: len(x)]


def joined(conv: nn.Module, x: Frames) -> Frames:
    """A 3-dimensional convolution of all frames at once, without padding in time."""
    return list(conv(torch.stack(x, dim=1).movedim(-1, 1)).movedim(1, -1).unbind(1))


def pointwise(conv: nn.Module, frame: Tensor) -> Tensor:
    """A convolution of kernel 1: a linear layer over the channels."""
    with conv.borrow(frame) as (weight, bias):
        return linear(frame, weight.flatten(1), bias)


def per_frame(
    resample: nn.Sequential, kernel: Callable[..., Tensor], x: Frames, memory: Memory | None
) -> Frames:
    """A padding or upsampling with the convolution after it, frame by frame; `kernel` is both in one."""
    if memory is None:
        return [resample(frame.movedim(-1, 1)).movedim(1, -1) for frame in x]
    with resample[1].borrow(x[0]) as (weight, bias):
        return [kernel(frame, weight, bias, memory.scratch) for frame in x]


@contextmanager
def streaming(memory: Memory | None) -> Iterator[None]:
    """With a memory frames are overwritten: no gradients, no tensors of inference mode, frozen outside it."""
    if memory is None:
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def added(out: Tensor, x: Tensor, memory: Memory | None) -> Tensor:
    """out + x, in place unless gradients may flow."""
    return out + x if memory is None else out.add_(x)


def through(layers: Sequence[Layer], x: Frames, memory: Memory | None) -> Frames:
    """Layers one after the other."""
    for layer in layers:
        x = layer(x, memory)
    return x


def in_parts(layers: Sequence[Layer], x: Frames, memory: Memory | None) -> Frames:
    """`through`, but large frames of a chunk go through all the layers left, a few at a time.

    `x` is used up. For layers that need no frames but those before.
    """
    for index, layer in enumerate(layers):
        few = at_once(x, memory, x[0].shape[-1])
        if len(x) > few:
            memory.scratch.clear()  # the layers before have more channels, so they took 100 MB more of it
            rest, out = layers[index:], []
            while x:
                out += in_parts(rest, taken(x, few), memory)
            return out
        x = layer(x, memory)
    return x


def a_few_at_a_time(layers: Sequence[Layer], x: Frames, memory: Memory | None, channels: int) -> Frames:
    """`through`, so that at most a few large frames of `channels` are there at once. `x` is used up."""
    few, out = at_once(x, memory, channels), []
    if len(x) > few:
        memory.scratch.clear()  # as above: it is as the last layers of the chunk before left it
    while x:
        out += through(layers, taken(x, few), memory)
    return out


def at_once(x: Frames, memory: Memory | None, channels: int) -> int:
    """How many of these frames go together if they have `channels`: Winograd on a CPU is best at two."""
    if memory is None or x[0][..., 0].numel() * channels * x[0].element_size() < LARGE_FRAME:
        return len(x)
    return 2 if x[0].device.type == "cpu" else 1


def taken(x: Frames, count: int) -> Frames:
    """The first frames, which `x` then has no more."""
    part = x[:count]
    del x[:count]
    return part


def to_list(x: Tensor) -> Frames:
    """(B, C, T, H, W) to frames, in new memory."""
    return [frame.clone(memory_format=torch.contiguous_format) for frame in x.permute(2, 0, 3, 4, 1)]


def to_tensor(frames: Frames) -> Tensor:
    """Frames to (B, C, T, H, W)."""
    return torch.stack(frames, dim=2).permute(0, 4, 2, 1, 3)


@dataclass(frozen=True)
class Maker:
    """Builds layers from the injected namespace with one device and dtype."""

    ops: Any
    device: torch.device | str | None
    dtype: torch.dtype | None

    def conv3d(self, dim_in: int, dim_out: int, kernel: int) -> nn.Module:
        padding = (0, kernel // 2, kernel // 2)  # rows and columns only: time is padded by `causal_conv`
        return self._layer("Conv3d", dim_in, dim_out, kernel, padding=padding)

    def time_conv(self, dim_in: int, dim_out: int, stride: int = 1) -> nn.Module:
        kernel, strides = (3, 1, 1), (stride, 1, 1)
        return self._layer("Conv3d", dim_in, dim_out, kernel, stride=strides)

    def conv2d(self, dim_in: int, dim_out: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Module:
        return self._layer("Conv2d", dim_in, dim_out, kernel, stride=stride, padding=padding)

    def _layer(self, kind: str, *sizes: Any, **options: Any) -> nn.Module:
        layer = getattr(self.ops, kind)(*sizes, device=self.device, dtype=self.dtype, **options)
        layer.borrow = MethodType(self.ops.borrow, layer)
        return layer

    def norm(self, dim: int, frames: bool) -> RMSNorm:
        shape = (dim, 1, 1, 1) if frames else (dim, 1, 1)
        return RMSNorm(torch.ones(shape, device=self.device, dtype=self.dtype))


def middle(dim: int, make: Maker) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(dim, dim, make), AttentionBlock(dim, make), ResidualBlock(dim, dim, make)
    )


def head(dim_in: int, dim_out: int, make: Maker) -> nn.Sequential:
    return nn.Sequential(make.norm(dim_in, frames=True), nn.SiLU(), make.conv3d(dim_in, dim_out, 3))


def run_head(head: nn.Sequential, x: Frames, memory: Memory | None) -> Frames:
    norm, _, conv = head
    return causal_conv(conv, [norm(frame, silu=True, over=memory is not None) for frame in x], memory)
