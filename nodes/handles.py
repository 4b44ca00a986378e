"""What travels on WanCore's own sockets: a model's two experts, a text encoder, a VAE."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ..wan_core.checkpoints import (
    Checkpoint,
    check_pair,
    latent_rgb,
    open_checkpoint,
    require,
    tokenizer_of,
    transformer_config,
    umt5_config,
    vae_config,
)
from ..wan_core.checkpoints.loras import Lora, load_lora
from ..wan_core.errors import WanError
from ..wan_core.lora import Change, change_bytes, with_changes
from ..wan_core.media.preview import LatentRgb
from ..wan_core.models.activations import held_bytes, transformer_bytes
from ..wan_core.models.text_activations import text_bytes
from ..wan_core.models.transformer import TransformerConfig, WanTransformer
from ..wan_core.models.umt5 import UMT5Encoder
from ..wan_core.models.vae import make_vae
from ..wan_core.models.vae_activations import decode_bytes, encode_bytes
from ..wan_core.models.vae_tiles import Tile, decode_tiled, even_tiles, plan_tiles, tiled_bytes
from ..wan_core.models.video_vae import to_frames
from ..wan_core.placement import loop_bytes, read_ahead_limit
from ..wan_core.sampling import GuidanceSchedule, KeepTexts, StepCache
from ..wan_core.sampling.experts import HIGH_NOISE, LOW_NOISE
from ..wan_core.speed import Speed, apply, residual_dtype
from ..wan_core.text.tokenizer import MAX_TOKENS, Tokenizer
from ..wan_core.variants import TI2V_5B, Variant, variant_for_task
from ..wan_core.variants.variant import DENSE
from .hosting import Hosted, Progress, StepProgress, could_be_free, expert_words, host, resting, say

WEIGHT_DTYPES = {
    "auto": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}

AS_RELEASED = "float32, as released"
VAE_PRECISIONS = {AS_RELEASED: torch.float32, "bfloat16, half the memory": torch.bfloat16}


@dataclass(frozen=True)
class ModelHandle:
    """The networks of one model by the name of the expert, each with a patcher of its own.

    files: of the experts whose weights stay in them. rgb: the colours of its latents, for previews.
    """

    variant: Variant
    config: TransformerConfig
    experts: dict[str, Hosted]
    files: dict[str, Checkpoint]
    rgb: LatentRgb
    loras: tuple[Lora, ...] = ()
    speed: Speed = field(default_factory=Speed)
    step_cache: StepCache | None = None
    guidance_schedule: GuidanceSchedule | None = None

    @property
    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """The patcher core looks at when it weighs what a node's output costs."""
        return self.get_models()[0]

    def get_models(self) -> list[comfy.model_patcher.ModelPatcher]:
        return [expert.patcher for expert in self.experts.values()]

    def is_dynamic(self) -> bool:
        return all(expert.is_dynamic() for expert in self.experts.values())

    def changes(self, expert: str) -> list[Change]:
        """What all LoRAs together do to one expert."""
        return [change for lora in self.loras for change in lora.changes[expert]]


def load_model(path: Path, low: Path | None, dtype: torch.dtype | None) -> ModelHandle:
    """The two experts of a model, or without `low` its only network. Raises WanError for what is neither."""
    files = checked_files(path, low)
    first = next(iter(files.values()))
    config = transformer_config(first.header)
    device, resting_device = mm.get_torch_device(), mm.unet_offload_device()
    compute = compute_dtype(device, dtype)
    kept = {role: dtype or file.rounding(compute) for role, file in files.items()}
    experts = {
        role: host(WanTransformer, config, file, device, resting_device, kept[role], compute)
        for role, file in files.items()
    }
    for expert in experts.values():
        expert.module.compute_dtype = compute
    mapped = {role: file for role, file in files.items() if kept[role] is None}
    variant = variant_for_task(first.inspection.task)
    rgb = latent_rgb(first.inspection.known, variant.latent_channels)
    return ModelHandle(variant, config, experts, mapped, rgb)


def add_lora(
    model: ModelHandle, path: Path, partner: Path | None, strength_high: float, strength_low: float
) -> ModelHandle:
    """The same model wearing one more LoRA. Raises WanError for a bad file and one of which nothing fits."""
    strengths = dict(zip(model.variant.experts, (strength_high, strength_low), strict=False))
    return replace(model, loras=(*model.loras, load_lora(path, model.config, strengths, partner)))


def checked_files(path: Path, low: Path | None) -> dict[str, Checkpoint]:
    """The files of one model by the name of the expert. Raises WanError for files that are no model."""
    if low is None:
        return {DENSE: require(open_checkpoint(path), DENSE, TI2V_5B)}
    high_file, low_file = open_checkpoint(path), open_checkpoint(low)
    require(high_file, HIGH_NOISE)
    require(low_file, LOW_NOISE, variant_for_task(high_file.inspection.task))
    check_pair(high_file, low_file)
    return {HIGH_NOISE: high_file, LOW_NOISE: low_file}


def compute_dtype(device: torch.device, chosen: torch.dtype | None) -> torch.dtype:
    """What a transformer computes in: as on the command line, unless the user chose the weights' type.

    That is bf16 where the device has it, and float32 on the CPU, whatever the file holds. A card without bf16
    gets float16.
    """
    wanted = chosen or torch.bfloat16
    supported = [torch.bfloat16, torch.float16, torch.float32]
    return mm.unet_manual_cast(wanted, device, supported) or wanted


class HostedExperts:
    """Hands the sampling loop each expert when its turn comes, and has it loaded then.

    Leaving the context ends what reading ahead may still go on.
    """

    def __init__(
        self, model: ModelHandle, latent_shape: torch.Size, rows: Sequence[int], progress: StepProgress
    ) -> None:
        """latent_shape: (1, C, F, h, w) of the noise; rows: of each prompt."""
        self.model = model
        self.latent_shape = latent_shape
        self.rows = rows
        self.progress = progress
        self._ahead = ExitStack()

    def __enter__(self) -> HostedExperts:
        return self

    def __exit__(self, *_: object) -> None:
        self._ahead.close()

    def expect(self, name: str) -> None:
        """Have the file of an expert read ahead, whose turn will come soon, unless it is on the device."""
        patcher, file = self.model.experts[name].patcher, self.model.files.get(name)
        if file is not None and patcher.loaded_size() < patcher.model_size():
            in_use = sum(model.model_size() for model in self.model.get_models() if model is not patcher)
            self._ahead.callback(file.read_ahead(read_ahead_limit(in_use)).stop)

    def at(self, name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The expert, on its device. Loaded alone: of two in one call core would keep the wrong one."""
        expert = self.model.experts[name]
        changes = self.model.changes(name)
        work = prediction_bytes(self.model, expert, self.latent_shape, self.rows)
        expert.load(expert_words(name), work + change_bytes(changes))
        self.progress.ready()
        apply(expert.module, self.model.speed, expert.device)
        return KeepTexts(with_changes(expert.module, changes, expert.device))


def prediction_bytes(
    model: ModelHandle, expert: Hosted, latent_shape: torch.Size, rows: Sequence[int]
) -> int:
    """What sampling with an expert holds on the device beside its weights, for core to keep free.

    rows: of each prompt. Layers of another type than they compute in make their weights anew each time, and
    core's dynamic layers lend theirs, which are copied (`CORE_LAYERS.Linear.lend`).
    """
    config, compute = model.config, expert.module.compute_dtype
    anew = expert.is_dynamic() or any(
        isinstance(layer, nn.Linear) and layer.weight.dtype != compute
        for layer in expert.module.blocks.modules()
    )
    return (
        transformer_bytes(
            config,
            latent_shape,
            compute,
            residual_dtype(model.speed, compute),
            text_rows=math.ceil(sum(rows) / len(rows)),
            kept_texts=len(rows),
            device_type=expert.device.type,
        )
        + anew * held_bytes(config, compute)
        + loop_bytes(config, latent_shape)
    )


@dataclass(frozen=True)
class TextEncoderHandle(Hosted):
    """A UMT5 encoder with its tokenizer."""

    tokenizer: Tokenizer

    def encode(self, field: str, text: str) -> list[list[object]]:
        """CONDITIONING as core makes it: (1, 512, D), zeros after the prompt. WanError for a long prompt."""
        check_length(field, self.tokenizer.count(text), MAX_TOKENS)
        ids, mask = self.tokenizer([text])
        kept = self.module.blocks[0].ffn.fc1.weight.dtype
        self.load("text encoder", text_bytes(self.module.config, int(mask.sum()), kept, self.device))
        say("encoding the prompt")
        context = self.module(ids.to(self.device), mask.to(self.device))
        return [[resting(context), {}]]


def check_length(field: str, count: int, most: int) -> None:
    """Refuse a prompt of more tokens than the model reads. Raises WanError."""
    if count > most:
        raise WanError(f"{field}: the prompt has {count} tokens, and {most} fit; shorten it")


def load_text_encoder(path: Path) -> TextEncoderHandle:
    """A UMT5 encoder. Raises WanError for a file that is none or has no tokenizer inside or beside it."""
    file = require(open_checkpoint(path), "text_encoder")
    tokenizer = tokenizer_of(file)
    config = umt5_config(file.header)
    hosted = host(UMT5Encoder, config, file, mm.text_encoder_device(), mm.text_encoder_offload_device())
    return TextEncoderHandle(hosted.patcher, tokenizer)


@dataclass(frozen=True)
class VAEHandle(Hosted):
    """A VAE of either kind. dtype: what it computes in."""

    dtype: torch.dtype = torch.float32

    @property
    def latent_channels(self) -> int:
        """16 of a Wan2.1 VAE, 48 of a Wan2.2 VAE; core's VAE has it under this name, too."""
        return self.module.config.latent_channels

    def encode(self, chunks: Iterable[Tensor]) -> Tensor:
        """A video in chunks (1, 3, 1 or 4, H, W) in -1..1 to the raw latent (1, C, chunks, h, w)."""
        chunks = list(chunks)  # between a first and a last picture it is one grey tensor again and again
        count = partial(encode_bytes, self.module.config, *chunks[0].shape[-2:], self.dtype, **self._counted)
        if self._fits(count()):
            caches = None
            self.load("VAE", count())
        else:
            caches = "cpu"
            self.load("VAE (its memory of earlier frames in RAM)", count(caches_on_host=True))
        progress = Progress(len(chunks), "encoding the picture")

        def moved() -> Iterator[Tensor]:
            for done, chunk in enumerate(chunks):
                progress.update(done)
                yield chunk.to(self.device, self.dtype)
            progress.update(len(chunks))

        return resting(self.module.encode_chunks(moved(), caches))

    @property
    def _counted(self) -> dict[str, Any]:
        """What its work depends on besides sizes."""
        cast = self.module.conv1.weight.dtype != self.dtype
        return {"device_type": self.device.type, "cast": cast}

    def check_channels(self, latent: Tensor) -> None:
        """Refuse a raw latent (1, C, F, h, w) of another model's VAE. Raises WanError."""
        channels = latent.shape[1]
        if channels != self.latent_channels:
            raise WanError(
                f"samples: {channels} channels, and this VAE decodes {self.latent_channels}; use the VAE of "
                "the model"
            )

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """Raw latent (1, C, F, h, w) to frames (n, H, W, 3) in 0..1, one latent frame at a time."""
        self.check_channels(latent)
        count, height, width = latent.shape[2:]
        progress, done = Progress(count, "decoding"), 0
        tiles = self._tiles(height, width)
        chunks, leaner = self._chunks(latent, tiles), self._leaner(tiles, height, width)
        while done < count:
            frames = next(chunks) if leaner is None else unless_out_of_memory(chunks)
            if frames is None:  # the causal caches are gone: again from the start, past what is out already
                again = self._chunks(latent, leaner, "memory ran out; ")
                chunks, leaner = itertools.islice(again, done, None), self._leaner(leaner, height, width)
                continue
            done += 1
            yield frames
            progress.update(done)

    def _chunks(self, latent: Tensor, tiles: list[Tile] | None, why: str = "") -> Iterator[Tensor]:
        """The frames of each latent frame; tiles: as `_tiles` says; why: said in front of how."""
        config, size = self.module.config, latent.shape[3:]
        if tiles is None:
            self.load("VAE", decode_bytes(config, *size, self.dtype, **self._counted))
            chunks = self.module.decode_chunks(latent.to(self.device, self.dtype))
        else:
            words = f"VAE ({why}frames in {len(tiles)} tiles, its memory of earlier ones in RAM)"
            self.load(words, tiled_bytes(config, *size, tiles, self.dtype))
            chunks = decode_tiled(self.module, latent.to(self.device, self.dtype), tiles, cache_device="cpu")
        for chunk in chunks:  # (1, 3, n, H, W) in -1..1
            yield resting(to_frames(chunk))

    def _tiles(self, height: int, width: int) -> list[Tile] | None:
        """What to decode a frame of so many cells in if it does not fit whole, with all that is remembered.

        None, too, where even small tiles do not fit beside the weights: core can still stream those.
        """
        if self._fits(decode_bytes(self.module.config, height, width, self.dtype, **self._counted)):
            return None
        return self._planned(height, width, self._room())

    def _fits(self, work: int) -> bool:
        """Whether so many bytes fit on the device beside all the weights."""
        return mm.is_device_cpu(self.device) or work <= self._room()

    def _room(self) -> int:
        return could_be_free(self.device) - mm.extra_reserved_memory() - self.patcher.model_size()

    def _leaner(self, tiles: list[Tile] | None, height: int, width: int) -> list[Tile] | None:
        """What takes less than `tiles`: for whole frames one tile, its caches in RAM. None: nothing does."""
        if tiles is None:
            return even_tiles(height, width, 1, 1)
        taken = tiled_bytes(self.module.config, height, width, tiles, self.dtype)
        return self._planned(height, width, taken - 1)

    def _planned(self, height: int, width: int, room: int) -> list[Tile] | None:
        with suppress(WanError):
            return plan_tiles(self.module.config, height, width, room, self.dtype)
        return None


def unless_out_of_memory(chunks: Iterator[Tensor]) -> Tensor | None:
    """The next of them, or None where the device's memory ran out; what was made by then is let go."""
    try:
        return next(chunks)
    except (mm.OOM_EXCEPTION, mm.ACCELERATOR_ERROR) as error:
        mm.raise_non_oom(error)
    return None  # outside of `except`, as what follows: the error holds all tensors of the failed chunk


def load_vae(path: Path, precision: str = AS_RELEASED) -> VAEHandle:
    """A VAE of either kind. Raises WanError for a file that is none.

    It computes in float32 where the device, or how ComfyUI was started, knows no other.
    """
    file = require(open_checkpoint(path), "vae")
    device = mm.vae_device()
    hosted = host(make_vae, vae_config(file.header), file, device, mm.vae_offload_device())
    return VAEHandle(hosted.patcher, mm.vae_dtype(device, [VAE_PRECISIONS[precision]]))
