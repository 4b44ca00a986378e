"""A whole model folder at toy size: the real classes with random weights, stored under the released names."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file

from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.models.umt5 import UMT5Config, UMT5Encoder
from wan_core.models.vae_2_1 import VAEConfig, WanVAE
from wan_core.models.vae_2_2 import VAE22Config, WanVAE22

TRANSFORMER = TransformerConfig(dim=128, ffn_dim=128, num_heads=1, num_layers=1, text_dim=32)
UMT5 = UMT5Config(vocab_size=300, dim=32, dim_attn=32, dim_ffn=32, num_heads=2, num_layers=1)
VAE = VAEConfig(dim=4)
VAE_2_2 = VAE22Config(dim=4, decoder_dim=4)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """Both experts, a text encoder with its tokenizer inside, and a VAE, as in ComfyUI's models folder."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save(WanTransformer(TRANSFORMER), folder / "diffusion_models/toy_t2v_high_noise.safetensors")
    save(WanTransformer(TRANSFORMER), folder / "diffusion_models/toy_t2v_low_noise.safetensors")
    save(WanVAE(VAE), folder / "vae/toy_vae.safetensors")
    spiece = torch.frombuffer(bytearray(toy_tokenizer()), dtype=torch.uint8)
    save(UMT5Encoder(UMT5), folder / "text_encoders/toy_umt5.safetensors", spiece_model=spiece)
    return folder


@pytest.fixture(scope="session")
def every_model(model_folder, tmp_path_factory) -> Path:
    """The same folder with an I2V pair, a TI2V transformer and its VAE besides."""
    folder = tmp_path_factory.mktemp("every_model")
    for file in model_folder.rglob("*.safetensors"):
        link = folder / file.relative_to(model_folder)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(file)
    torch.manual_seed(1)
    i2v, ti2v = replace(TRANSFORMER, in_channels=36), replace(TRANSFORMER, in_channels=48, out_channels=48)
    save(WanTransformer(i2v), folder / "diffusion_models/toy_i2v_high_noise.safetensors")
    save(WanTransformer(i2v), folder / "diffusion_models/toy_i2v_low_noise.safetensors")
    save(WanTransformer(ti2v), folder / "diffusion_models/toy_ti2v.safetensors")
    save(WanVAE22(VAE_2_2), folder / "vae/toy_vae_2_2.safetensors")
    return folder


@pytest.fixture
def copy_of_model(model_folder, tmp_path) -> Callable[[], Path]:
    """Makes a folder of links to the same files, to add to or take from."""

    def make() -> Path:
        folder = tmp_path / "model"
        for file in model_folder.rglob("*.safetensors"):
            link = folder / file.relative_to(model_folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
        return folder

    return make


def save(module: torch.nn.Module, path: Path, **more: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Small weights everywhere: constructors leave some parameters empty, and a toy must stay finite.
    tensors = {name: torch.randn_like(value) * 0.05 for name, value in module.state_dict().items()}
    save_file(tensors | more, path)


def toy_tokenizer() -> bytes:
    words = ["a", "red", "blue", "circle", "square", "moves", "to", "the", "right", "over", "background"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[i:] + words[:i]) for i in range(len(words))]),
        model_writer=model,
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()
