"""Where the networks of a run go: what each needs, what the device has, and what follows from it.

Bytes come from the files' headers and from the networks' own counts, so the answer is there before anything
is loaded: which blocks of a transformer or text encoder stay and which are streamed, or one line that says
how much the least is that works.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .checkpoints import Checkpoint, transformer_config, umt5_config, vae_config
from .checkpoints.mapping import DTYPES
from .checkpoints.quantization import is_plain
from .errors import WanError
from .memory import (
    RESERVE,
    Residence,
    Weights,
    choose,
    free_bytes,
    host_memory,
    least_bytes,
    shown_size,
    weigh,
)
from .models.activations import held_bytes, transformer_bytes
from .models.text_activations import text_bytes
from .models.transformer import TransformerConfig
from .models.vae_activations import decode_bytes, encode_bytes
from .models.vae_tiles import Tile, least_tiled_bytes, plan_tiles
from .quantization.weight import CHUNK_NUMBERS
from .speed import Speed, residual_dtype
from .text.tokenizer import MAX_TOKENS

# Tokens below which copying a 16-bit block over PCIe 4 (25 GB/s) takes longer than computing it on a card of
# 165 TFLOP/s; on others it is about as many. Half as many do for half the bytes: so many for a byte of each
# of a block's numbers.
BREAK_EVEN_TOKENS_PER_BYTE = 3150
# Latents in float32 that the loop holds while the network works: the noise, this step's and the last one's
# latent, the last velocity, the solver's two and the prompt's prediction; clean frames take one more, and
# their complement. A step cache keeps one more, too.
LOOP_LATENTS = 9
TEXTS = 2  # prompt and negative prompt, whose keys and values each block keeps over the steps
DECODING = 16 * CHUNK_NUMBERS  # bytes that unpacking a full chunk of numbers takes: integers, then float32
EMBEDDING = "token_embedding"  # of the text encoder; its rows are looked up on the host


@dataclass(frozen=True)
class Need:
    """What one network of a run takes on the device, in bytes: its weights, and beside them its work."""

    name: str
    weights: Weights
    work: int
    tokens: int | None = None  # a prediction's; None where a pass is short anyway
    break_even: float = 0.0  # of these, below which copying a block takes longer than computing it


@dataclass(frozen=True)
class Budget:
    """What a device may hold. `size`: bytes; None: no limit, as on a CPU, where files are mapped."""

    device: torch.device
    size: int | None
    asked: int | None = None  # the user's limit, reserve included

    def residence(self, need: Need) -> Residence:
        """Where a network's blocks go. Raises WanError that names the least that works."""
        found = choose(need.weights, need.work, self.size)
        if found is None:
            raise self._too_small([need])
        return found

    def holds(self, need: Need) -> bool:
        """Whether a network fits with all its weights."""
        return self.size is None or need.weights.total + need.work <= self.size

    def check(self, needs: Sequence[Need]) -> None:
        """Raises one WanError, for the network that needs most, if any does not fit."""
        if any(choose(need.weights, need.work, self.size) is None for need in needs):
            raise self._too_small(needs)

    def _too_small(self, needs: Sequence[Need]) -> WanError:
        worst = max(needs, key=lambda need: least_bytes(need.weights, need.work))
        least = least_bytes(worst.weights, worst.work) + reserve(self.device)
        here = (
            f"vram: {shown_size(self.asked)} are too few"
            if self.asked is not None
            else f"{self.device}: {shown_size(self.size or 0)} of free memory are too few"
        )
        return WanError(
            f"{here}: the {worst.name} needs {shown_size(least, up=True)} at this size; "
            "allow more, or choose fewer frames or a smaller size"
        )


def budget(device: torch.device, vram: int | None) -> Budget:
    """The limit a user set, which is believed, or what is free on the device."""
    if vram is None:
        return Budget(device, free_bytes(device))
    return Budget(device, max(0, vram - reserve(device)), vram)


def reserve(device: torch.device) -> int:
    """What of a limit no tensor gets; stated in `memory.RESERVE`."""
    return 0 if device.type == "cpu" else RESERVE


def text_need(checkpoint: Checkpoint, device: torch.device) -> Need:
    """The text encoder's; its embedding stays in the file."""
    sizes = checkpoint.stored_bytes()
    config = umt5_config(checkpoint.header)
    inside = {name: size for name, size in sizes.items() if not name.startswith(EMBEDDING)}
    kept = torch.float32 if checkpoint.inspection.quantization == "float32" else torch.bfloat16
    work = text_bytes(config, MAX_TOKENS, kept, device) + _decoding(checkpoint)
    return Need("text encoder", weigh(inside), work)


def expert_need(
    checkpoint: Checkpoint,
    latent_shape: Sequence[int],
    dtype: torch.dtype,
    speed: Speed,
    device: torch.device,
    lora: int = 0,
) -> Need:
    """A transformer's, for a latent (C, F, h, w); `lora`: bytes of what it wears."""
    config = transformer_config(checkpoint.header)
    weights = weigh(checkpoint.stored_bytes(checkpoint.rounding(dtype)))
    weights = dataclasses.replace(weights, fixed=weights.fixed + lora)
    residual = residual_dtype(speed, dtype)
    prediction = transformer_bytes(
        config, latent_shape, dtype, residual, kept_texts=TEXTS, device_type=device.type
    )
    loop = loop_bytes(config, latent_shape)
    tokens = math.prod(latent_shape[1:]) // math.prod(config.patch_size)
    return Need(
        "transformer",
        weights,
        prediction + loop + _held(checkpoint, dtype),
        tokens,
        _break_even(config, weights),
    )


def _break_even(config: TransformerConfig, weights: Weights) -> float:
    """Tokens below which copying a block takes longer than computing it; codes of few bits are few bytes."""
    numbers = config.dim * (8 * config.dim + 2 * config.ffn_dim)  # two attentions and the feed-forward
    return BREAK_EVEN_TOKENS_PER_BYTE * max(weights.blocks) / numbers


def loop_bytes(config: TransformerConfig, latent_shape: Sequence[int]) -> int:
    """What the loop holds for a latent (..., F, h, w); pictures' channels are there alone and joined.

    The text is `transformer_bytes`'.
    """
    channels = LOOP_LATENTS * config.out_channels
    if config.in_channels > config.out_channels:
        channels += 2 * config.in_channels - config.out_channels
    return channels * math.prod(latent_shape[-3:]) * torch.float32.itemsize


def _held(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """The numbers that are made of a block's matrices while it runs; none where they are kept as such."""
    if checkpoint.rounding(dtype) is not None:
        return 0
    inside = [info for name, info in checkpoint.header.items() if name.startswith("blocks.")]
    if all(DTYPES.get(info.dtype) is dtype for info in inside if len(info.shape) == 2):
        return 0
    return held_bytes(transformer_config(checkpoint.header), dtype) + _decoding(checkpoint)


def _decoding(checkpoint: Checkpoint) -> int:
    """What unpacking stored codes needs besides the numbers that come of them."""
    codes = (info for info in checkpoint.header.values() if not is_plain(info.dtype))
    most = max((info.elements for info in codes), default=0)
    return DECODING * min(most, CHUNK_NUMBERS) // CHUNK_NUMBERS


def encode_need(checkpoint: Checkpoint, height: int, width: int, lean: bool = False) -> Need:
    """The VAE's for pictures of height x width pixels; it computes in float32, and all its weights stay.

    lean: with its causal caches on the host, if that is less.
    """
    ways = (False, True) if lean else (False,)
    config = vae_config(checkpoint.header)
    work = min(encode_bytes(config, height, width, torch.float32, on_host) for on_host in ways)
    return Need("VAE encode", _vae_weights(checkpoint), work)


def encode_caches(budget: Budget, checkpoint: Checkpoint, height: int, width: int) -> str | None:
    """Where the causal caches of encoding lie: "cpu" when not all fits on the device, else None.

    Raises WanError when the rest does not fit either.
    """
    if budget.holds(encode_need(checkpoint, height, width)):
        return None
    budget.check([encode_need(checkpoint, height, width, lean=True)])
    return "cpu"


def decode_need(checkpoint: Checkpoint, height: int, width: int, lean: bool = False) -> Need:
    """The VAE's for frames of height x width latent cells, decoded whole.

    lean: in small tiles with its causal caches on the host, if that is less.
    """
    config = vae_config(checkpoint.header)
    work = decode_bytes(config, height, width, torch.float32)
    if lean:
        work = min(work, least_tiled_bytes(config, height, width, torch.float32))
    return Need("VAE decode", _vae_weights(checkpoint), work)


def decode_tiles(budget: Budget, checkpoint: Checkpoint, height: int, width: int) -> list[Tile] | None:
    """The tiles to decode in, with the causal caches on the host; None: whole frames, and all on the device.

    Raises WanError when not even small tiles fit.
    """
    need = decode_need(checkpoint, height, width)
    if budget.size is None or budget.holds(need):
        return None
    budget.check([decode_need(checkpoint, height, width, lean=True)])
    room = budget.size - need.weights.total
    return plan_tiles(vae_config(checkpoint.header), height, width, room, torch.float32)


def _vae_weights(checkpoint: Checkpoint) -> Weights:
    return Weights(sum(checkpoint.stored_bytes(torch.float32).values()), ())


def read_ahead_limit(in_use: int) -> int:
    """How much of the next file may be read while `in_use` bytes of another are: no more than RAM holds."""
    host = host_memory()
    return max(0, host.total * 9 // 10 - in_use) if host else 0


def describe(
    budget: Budget, experts: Sequence[Need], text: Need, pictures: Sequence[tuple[Need, str | None]]
) -> str:
    """The one line before loading: what the run needs, what there is, and what was chosen.

    pictures: the VAE's needs, each with what it works in if that is too much, its caches on the host.
    """
    transformer = max(experts, key=lambda need: least_bytes(need.weights, need.work))
    chosen = budget.residence(transformer)
    parts = [
        f"transformer {shown_size(transformer.weights.total)} + {shown_size(transformer.work)} of work, "
        f"{_there_is(budget)}: {_stays(budget, chosen)}{_dominated(transformer, chosen)}"
    ]
    for need, instead in pictures:
        too_much = f": too much, so {instead} with caches on the host" if instead else ""
        parts.append(f"{need.name} {shown_size(need.weights.total + need.work)}{too_much}")
    of_text = budget.residence(text)
    how = " streamed" if of_text.streamed else ""
    parts.append(f"text encoder {shown_size(text.weights.total + text.work)}{how}")
    parts.append(_ram(budget, max(chosen.slab_bytes, of_text.slab_bytes)))
    return "memory: " + "; ".join(part for part in parts if part)


def _there_is(budget: Budget) -> str:
    if budget.asked is not None:
        return f"{shown_size(budget.asked)} allowed on {budget.device}"
    if budget.size is not None:
        return f"{shown_size(budget.size)} free on {budget.device}"
    host = host_memory()
    return f"{shown_size(host.available)} of RAM free" if host else f"on {budget.device}"


def _stays(budget: Budget, chosen: Residence) -> str:
    if chosen.streamed:
        count = len(chosen.weights.blocks)
        return f"{count - len(chosen.streamed)} of {count} blocks stay, {len(chosen.streamed)} are streamed"
    return "weights are mapped from their files" if budget.size is None else "all blocks stay"


def _dominated(need: Need, chosen: Residence) -> str:
    """A warning where copying takes longer than computing."""
    if not chosen.streamed or need.tokens is None or need.tokens >= need.break_even:
        return ""
    return f" (of only {need.tokens:,} tokens: copying will take longer than computing)"


def _ram(budget: Budget, ring: int) -> str:
    """What a GPU's run takes of the host."""
    if budget.device.type == "cpu":
        return ""
    host = host_memory()
    there = f", {shown_size(host.available)} free" if host else ""
    return f"RAM {shown_size(ring)} pinned, files mapped{there}"
