"""Random weights in the built-in model's layout and dtypes, for graphs where only the plumbing matters."""

from __future__ import annotations

import io
import re
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.models.umt5 import UMT5Config, UMT5Encoder
from wan_core.models.vae import make_vae
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import VAE22Config
from wan_core.variants import I2V_A14B, T2V_A14B, TI2V_5B

SENTENCES = [
    f"a {color} {shape} moves {way} over a {ground} background"
    for color in ("red", "blue", "green", "yellow")
    for shape in ("circle", "square", "triangle", "star")
    for way in ("left", "right", "up", "down")
    for ground in ("dark", "light", "plain")
]
TRANSFORMERS = {
    T2V_A14B: ("wan_tiny_t2v_high_noise.safetensors", "wan_tiny_t2v_low_noise.safetensors"),
    I2V_A14B: ("wan_tiny_i2v_high_noise.safetensors", "wan_tiny_i2v_low_noise.safetensors"),
    TI2V_5B: ("wan_tiny_ti2v.safetensors",),
}
WIDTH = 256  # as the built-in ones, so that a LoRA for either fits both
# Released names to those of ComfyUI's text encoders.
COMFYUI_NAMES = (
    (r"^token_embedding\.", r"shared."),
    (r"^norm\.", r"encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.block.\1.layer.0.SelfAttention."),
    (
        r"^blocks\.(\d+)\.pos_embedding\.embedding\.",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)


def write_toy_weights(models: Path) -> list[Path]:
    """All of wan-tiny into the folders of a ComfyUI `models` folder; returns the files, relative to that."""
    for variant, names in TRANSFORMERS.items():
        channels = variant.in_channels, variant.out_channels
        config = TransformerConfig(*channels, dim=WIDTH, ffn_dim=512, num_heads=2, num_layers=2, text_dim=64)
        for seed, name in enumerate(names):
            network = random_weights(WanTransformer(config), seed)
            save(network, models / "diffusion_models" / name, torch.bfloat16)
    vaes = {
        "wan_tiny_vae.safetensors": VAEConfig(dim=8),
        "wan_tiny_vae_2_2.safetensors": VAE22Config(dim=8, decoder_dim=8),
    }
    for name, sizes in vaes.items():
        save(random_weights(make_vae(sizes), 2), models / "vae" / name, torch.float16)
    save(text_encoder(width=64), models / "text_encoders" / "wan_tiny_umt5.safetensors", torch.float16)
    for seed, expert in enumerate(("high", "low")):
        save(toy_lora(seed), models / "loras" / f"wan_tiny_purple_{expert}_noise.safetensors")
    return [path.relative_to(models) for path in models.rglob("*.safetensors")]


def toy_lora(seed: int) -> dict[str, Tensor]:
    """A change of rank 2 to one layer, under the names that most trainers write."""
    generator, layer = torch.Generator().manual_seed(seed), "diffusion_model.blocks.0.self_attn.q"
    return {
        f"{layer}.lora_A.weight": torch.randn(2, WIDTH, generator=generator) * WIDTH**-0.5,
        f"{layer}.lora_B.weight": torch.randn(WIDTH, 2, generator=generator),
    }


def write_wide_weights(models: Path) -> None:
    """An expert and a text encoder of the released text width, the only one that core's loader knows."""
    config = TransformerConfig(dim=128, ffn_dim=128, num_heads=1, num_layers=1, text_dim=4096)
    expert = models / "diffusion_models" / "wide_t2v_high_noise.safetensors"
    save(random_weights(WanTransformer(config), 4), expert)
    save(text_encoder(width=4096), models / "text_encoders" / "wide_umt5.safetensors")


def text_encoder(width: int, inner: int = 128) -> dict[str, Tensor]:
    """A text encoder with its tokenizer, as ComfyUI's files have them; inner: of the feed-forward."""
    spiece = toy_tokenizer()
    vocabulary = sentencepiece.SentencePieceProcessor(model_proto=spiece).vocab_size()
    config = UMT5Config(vocabulary, dim=width, dim_attn=64, dim_ffn=inner, num_heads=4, num_layers=2)
    tensors = {comfyui_name(name): value for name, value in random_weights(UMT5Encoder(config), 3).items()}
    return {**tensors, "spiece_model": torch.frombuffer(bytearray(spiece), dtype=torch.uint8)}


def random_weights(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Random weights that keep the size of what they are applied to; gains stay near one."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, parameter in network.state_dict().items():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("gamma") or (parameter.ndim == 1 and name.endswith("weight")):
            tensors[name] = 1 + 0.1 * noise
        else:
            tensors[name] = noise * (0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    return tensors


def save(tensors: dict[str, Tensor], path: Path, dtype: torch.dtype = torch.float32) -> None:
    """The tensors as a safetensors file, numbers in `dtype`, in a folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for name, value in tensors.items()
    }
    save_file(stored, path)


def toy_tokenizer() -> bytes:
    """A sentencepiece model with the special ids of the released one."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=64,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def comfyui_name(name: str) -> str:
    """The name that ComfyUI's files have for a released UMT5 name."""
    for pattern, replacement in COMFYUI_NAMES:
        name = re.sub(pattern, replacement, name)
    return name
