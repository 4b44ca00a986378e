"""Toy weight files for the checkpoint tests: the real classes' names and shapes, at toy size."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.models.umt5 import UMT5Config, UMT5Encoder
from wan_core.models.vae_2_1 import VAEConfig, WanVAE

GOLDEN = Path(__file__).resolve().parents[1] / "parity" / "golden"
KEYMAPS = json.loads((GOLDEN / "keymaps.json").read_text())

TRANSFORMER = TransformerConfig(dim=128, ffn_dim=64, num_heads=1, num_layers=2, text_dim=32)
UMT5 = UMT5Config(vocab_size=50, dim=32, dim_attn=32, dim_ffn=48, num_heads=4, num_layers=2)
VAE = VAEConfig(dim=4)


def weights(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Seeded numbers for every tensor of a module built on the meta device."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) for name, value in module.state_dict().items()
    }


def transformer(seed: int = 0, **changes: int) -> dict[str, Tensor]:
    return weights(WanTransformer(TransformerConfig(**{**vars(TRANSFORMER), **changes}), device="meta"), seed)


def umt5(seed: int = 0) -> dict[str, Tensor]:
    return weights(UMT5Encoder(UMT5, device="meta"), seed)


def vae(seed: int = 0) -> dict[str, Tensor]:
    return weights(WanVAE(VAE, device="meta"), seed)


def vae_2_2() -> dict[str, Tensor]:
    """Names of the real file with every axis cut to at most 4, the latent channels apart."""
    shapes = KEYMAPS["vae2_2"]["shapes"]
    return {name: torch.ones([min(axis, 4) for axis in shape]) for name, shape in shapes.items()}


def renamed(tensors: dict[str, Tensor], released_to_other: dict[str, str]) -> dict[str, Tensor]:
    """The tensors under another layout's names; block numbers follow those of block 0."""
    table = dict(released_to_other)
    for name, other in released_to_other.items():
        if name.startswith("blocks.0."):
            table[name.replace("blocks.0.", "blocks.1.", 1)] = other.replace(".0.", ".1.", 1)
    return {table[name]: value for name, value in tensors.items()}


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, str(path), metadata)
    return path


def raw_safetensors(path: Path, header: object, data: bytes = b"") -> Path:
    """A safetensors file with whatever header: a table, or text to be written as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def gguf(path: Path, tensors: dict[str, tuple[tuple[int, ...], int, int]], values: dict[str, object]) -> Path:
    """A GGUF file of zeros: name -> (shape in torch's order, ggml type, bytes)."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text.encode())) + text.encode()

    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    for key, value in values.items():
        out += string(key)
        if isinstance(value, str):
            out += struct.pack("<I", 8) + string(value)
        elif isinstance(value, list) and isinstance(value[0], str):
            out += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(string(word) for word in value)
        else:
            out += struct.pack("<IIQ", 9, 5, len(value)) + b"".join(
                struct.pack("<i", number) for number in value
            )
    offset = 0
    for name, (shape, kind, size) in tensors.items():
        out += string(name) + struct.pack("<I", len(shape))
        out += b"".join(struct.pack("<Q", axis) for axis in reversed(shape))
        out += struct.pack("<IQ", kind, offset)
        offset += -(-size // 32) * 32
    out += b"\0" * (-len(out) % 32)
    path.write_bytes(out + b"\0" * offset)
    return path
