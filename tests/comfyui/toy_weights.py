"""Random weights in the built-in model's layout, to run graphs where only the plumbing matters."""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.models.umt5 import UMT5Config, UMT5Encoder
from wan_core.models.vae_2_1 import VAEConfig, WanVAE

SENTENCES = [
    f"a {color} {shape} moves {way} over a {ground} background"
    for color in ("red", "blue", "green", "yellow")
    for shape in ("circle", "square", "triangle", "star")
    for way in ("left", "right", "up", "down")
    for ground in ("dark", "light", "plain")
]


def write_toy_weights(models: Path) -> None:
    """Two experts, a VAE and a text encoder into the folders of a ComfyUI `models` folder."""
    transformer = TransformerConfig(dim=256, ffn_dim=512, num_heads=2, num_layers=2, text_dim=64)
    for seed, expert in enumerate(("high", "low")):
        network = random_weights(WanTransformer(transformer), seed)
        save(network, models / "diffusion_models" / f"wan_tiny_t2v_{expert}_noise.safetensors")
    save(random_weights(WanVAE(VAEConfig(dim=8)), 2), models / "vae" / "wan_tiny_vae.safetensors")
    spiece = toy_tokenizer()
    vocab = sentencepiece.SentencePieceProcessor(model_proto=spiece).vocab_size()
    encoder = UMT5Encoder(UMT5Config(vocab, dim=64, dim_attn=64, dim_ffn=128, num_heads=4, num_layers=2))
    tokenizer = torch.frombuffer(bytearray(spiece), dtype=torch.uint8)
    path = models / "text_encoders" / "wan_tiny_umt5.safetensors"
    save(random_weights(encoder, 3), path, {"spiece_model": tokenizer})


def random_weights(network: nn.Module, seed: int) -> nn.Module:
    """The network with small random weights; gains stay near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            gain = name.endswith("gamma") or (parameter.ndim == 1 and name.endswith("weight"))
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_(
                1 + 0.1 * noise if gain else noise * fan_in**-0.5 * (1 if parameter.ndim > 1 else 0.1)
            )
    return network


def save(network: nn.Module, path: Path, more: dict[str, Tensor] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file({**tensors, **(more or {})}, path)


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
