"""What travels on WanCore's own sockets: a model's two experts, a text encoder, a VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management as mm
import comfy.model_patcher
import torch
from torch import Tensor

from ..wan_core.checkpoints import (
    check_pair,
    open_checkpoint,
    require,
    transformer_config,
    umt5_config,
    vae_config,
)
from ..wan_core.errors import WanError
from ..wan_core.models.transformer import TransformerConfig, WanTransformer
from ..wan_core.models.umt5 import UMT5Encoder
from ..wan_core.models.vae import make_vae
from ..wan_core.models.video_vae import to_frames
from ..wan_core.sampling.experts import HIGH_NOISE, LOW_NOISE
from ..wan_core.text.tokenizer import MAX_TOKENS, Tokenizer
from ..wan_core.variants import T2V_A14B
from .hosting import Hosted, Progress, StepProgress, host, resting

# The scores and their bias at 512 tokens of UMT5-XXL, and one layer's weights in float32.
TEXT_BYTES = 512 * 2**20

WEIGHT_DTYPES = {
    "auto": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


@dataclass(frozen=True)
class ModelHandle:
    """The two experts of one model by name, each with a patcher of its own."""

    config: TransformerConfig
    experts: dict[str, Hosted]

    @property
    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """The patcher core looks at when it weighs what a node's output costs."""
        return self.experts[HIGH_NOISE].patcher

    def get_models(self) -> list[comfy.model_patcher.ModelPatcher]:
        return [expert.patcher for expert in self.experts.values()]

    def is_dynamic(self) -> bool:
        return all(expert.is_dynamic() for expert in self.experts.values())


def load_model(high: Path, low: Path, dtype: torch.dtype | None) -> ModelHandle:
    """Both experts of a text-to-video model. Raises WanError for files that are no such pair."""
    files = {HIGH_NOISE: open_checkpoint(high), LOW_NOISE: open_checkpoint(low)}
    for role, file in files.items():
        require(file, role, T2V_A14B)
    check_pair(files[HIGH_NOISE], files[LOW_NOISE])
    config = transformer_config(files[HIGH_NOISE].header)
    device, resting_device = mm.get_torch_device(), mm.unet_offload_device()
    compute = compute_dtype(device, dtype)
    experts = {}
    for role, file in files.items():
        # float32 on a GPU would be 57 GB for each 14B expert; the command line rounds it, too.
        kept = compute if file.inspection.quantization == "float32" else None
        experts[role] = host(WanTransformer, config, file, device, resting_device, dtype or kept)
        experts[role].module.compute_dtype = compute
    return ModelHandle(config, experts)


def compute_dtype(device: torch.device, chosen: torch.dtype | None) -> torch.dtype:
    """What a transformer computes in: as on the command line, unless the user chose the weights' type.

    That is bf16 where the device has it, and float32 on the CPU, whatever the file holds. A card without bf16
    gets float16.
    """
    wanted = chosen or torch.bfloat16
    supported = [torch.bfloat16, torch.float16, torch.float32]
    return mm.unet_manual_cast(wanted, device, supported) or wanted


class HostedExperts:
    """Hands the sampling loop each expert when its turn comes, and has it loaded then."""

    def __init__(self, model: ModelHandle, latent_shape: torch.Size, progress: StepProgress) -> None:
        self.model = model
        self.latent_shape = latent_shape
        self.progress = progress

    def at(self, name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The expert, on its device. Loaded alone: of two in one call core would keep the wrong one."""
        expert = self.model.experts[name]
        with self.progress.loading(name):
            expert.load(activation_bytes(self.model.config, self.latent_shape, expert.module.compute_dtype))
        return expert.module


def activation_bytes(config: TransformerConfig, latent_shape: torch.Size, dtype: torch.dtype) -> int:
    """What one prediction holds beside the weights, for core to keep free.

    Per token: the float32 stream; in the type computed in, the hidden layer of the feed-forward twice, its
    input, the block's last update, and room for the kernels. 81 x 480 x 832 in the 14B model: 4.8 GB, where
    the tensors come to 3.2 GB.
    """
    _, _, frames, height, width = latent_shape
    tokens = frames * height * width // 4
    return tokens * (4 * config.dim + dtype.itemsize * (7 * config.dim + 2 * config.ffn_dim))


@dataclass(frozen=True)
class TextEncoderHandle(Hosted):
    """A UMT5 encoder with its tokenizer."""

    tokenizer: Tokenizer

    def encode(self, field: str, text: str) -> list[list[object]]:
        """CONDITIONING as core makes it: (1, 512, D), zeros after the prompt. WanError for a long prompt."""
        check_length(field, self.tokenizer.count(text), MAX_TOKENS)
        ids, mask = self.tokenizer([text])
        self.load(TEXT_BYTES)
        context = self.module(ids.to(self.device), mask.to(self.device))
        return [[resting(context), {}]]


def check_length(field: str, count: int, most: int) -> None:
    """Refuse a prompt of more tokens than the model reads. Raises WanError."""
    if count > most:
        raise WanError(f"{field}: the prompt has {count} tokens, and {most} fit; shorten it")


def load_text_encoder(path: Path) -> TextEncoderHandle:
    """A UMT5 encoder. Raises WanError for a file that is none or has no tokenizer inside."""
    file = require(open_checkpoint(path), "text_encoder")
    spiece = file.spiece_model()
    if spiece is None:
        raise WanError(
            f"{file.file}: holds no tokenizer (spiece_model); choose a umt5_xxl file made for ComfyUI"
        )
    tokenizer = Tokenizer.from_spiece(spiece, file.file)
    config = umt5_config(file.header)
    hosted = host(UMT5Encoder, config, file, mm.text_encoder_device(), mm.text_encoder_offload_device())
    return TextEncoderHandle(hosted.patcher, tokenizer)


@dataclass(frozen=True)
class VAEHandle(Hosted):
    """A Wan2.1 VAE."""

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """Raw latent (1, 16, F, h, w) to frames (n, 8h, 8w, 3) in 0..1, one latent frame at a time."""
        _, channels, count, height, width = latent.shape
        wanted = self.module.config.latent_channels
        if channels != wanted:
            raise WanError(
                f"samples: {channels} channels, and this VAE decodes {wanted}; use the VAE of the model"
            )
        progress = Progress(count)
        self.load(decode_bytes(self.module.config.dim, height, width))
        chunks = self.module.decode_chunks(latent.to(self.device, torch.float32))
        for done, chunk in enumerate(chunks, start=1):  # (1, 3, n, 8h, 8w) in -1..1
            yield resting(to_frames(chunk))
            progress.update(done)


def decode_bytes(dim: int, height: int, width: int) -> int:
    """What decoding one latent frame holds: its four frames at full width in float32, 12 times, and room."""
    return 15 * 4 * (4 * dim) * (8 * height) * (8 * width)


def load_vae(path: Path) -> VAEHandle:
    """A Wan2.1 VAE, computing in float32 as released. Raises WanError for a file that is none."""
    file = require(open_checkpoint(path), "vae", T2V_A14B)
    hosted = host(make_vae, vae_config(file.header), file, mm.vae_device(), mm.vae_offload_device())
    return VAEHandle(hosted.patcher)
