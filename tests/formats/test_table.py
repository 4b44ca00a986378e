"""The proof: a toy model in every container, layout and quantization gives what the plain model gives.

Twice each: against the plain model of the numbers that the codes stand for, to 1e-5, and against the model
before quantization, within what the quantization costs.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.formats import stored as forms
from tests.unit import checkpoint_files as files
from wan_core.checkpoints import (
    load_module,
    open_checkpoint,
    transformer_config,
    umt5_config,
    vae_config,
)
from wan_core.models.transformer import WanTransformer
from wan_core.models.umt5 import UMT5Encoder
from wan_core.models.vae import make_vae
from wan_core.quantization import QuantizedEmbedding, QuantizedLinear

EXACT = 1e-5
# How much more of an error the output of two layers may show than the weights have (relative L2 both).
GROWTH = 3
# ggml's blocks are of up to 256 numbers.
WIDE = {"dim": 256, "ffn_dim": 256, "num_heads": 2, "num_layers": 1, "text_dim": 256}
TRANSFORMER = forms.calm(files.transformer())
WIDE_TRANSFORMER = forms.calm(files.transformer(**WIDE))
UMT5 = forms.calm(files.umt5())
WIDE_UMT5 = forms.calm(
    files.weights(UMT5Encoder(replace(files.UMT5, dim=256, dim_attn=256, dim_ffn=256), device="meta"))
)

CELLS = [
    (container, quantization)
    for container in forms.CONTAINERS
    for quantization in forms.QUANTIZATIONS
    if not (container == "pth" and "metadata" in quantization)  # a .pth has none
]


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Relative L2."""
    return float((ours - theirs).norm() / theirs.norm())


def velocity(network: nn.Module) -> Tensor:
    config = network.config
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(1, config.in_channels, 2, 4, 6, generator=generator)
    context = torch.randn(1, 5, config.text_dim, generator=generator)
    with torch.no_grad():
        return network(latent, torch.tensor([500.0]), context)


def states(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network(torch.tensor([[7, 49, 0, 3, 3, 12]]))


def plain(kind: type[nn.Module], config: object, tensors: dict[str, Tensor]) -> nn.Module:
    """The model over float32 tensors under released names, without any of the loading code."""
    network = kind(config, device="meta")
    network.load_state_dict(tensors, assign=True)
    return network


def opened(path: Path, kind: type[nn.Module]) -> tuple[nn.Module, str]:
    """The model from a file by the public way, and the scheme the file is said to have."""
    checkpoint = open_checkpoint(path)
    config = (transformer_config if kind is WanTransformer else umt5_config)(checkpoint.header)
    return load_module(kind(config, device="meta"), checkpoint), checkpoint.inspection.quantization


def released(numbers: dict[str, Tensor], names: dict[str, Tensor], original: dict[str, Tensor]):
    """Numbers by stored names to released names: both tables are in the same order."""
    return {own: numbers[name] for own, name in zip(original, names, strict=True)}


def check(
    network: nn.Module, run, numbers: dict[str, Tensor], original: dict[str, Tensor] | None, error: float
) -> None:
    """The output equals that of the plain numbers; that of the original only as far as they do."""
    found = run(network)
    expected = run(plain(type(network), network.config, numbers))
    assert relative(found, expected) < EXACT
    assert (found - expected).abs().max() < EXACT * expected.abs().max()
    if original is not None:
        weights = [name for name, value in original.items() if forms.is_matrix(name, value)]
        assert max(relative(numbers[name], original[name]) for name in weights) <= error
        assert relative(found, run(plain(type(network), network.config, original))) <= GROWTH * error + EXACT


@pytest.mark.parametrize(("container", "quantization"), CELLS)
@pytest.mark.parametrize("names", forms.TRANSFORMER_NAMES)
def test_transformer(container: str, names: str, quantization: str, tmp_path: Path):
    quantize, word, error = forms.QUANTIZATIONS[quantization]
    named = forms.TRANSFORMER_NAMES[names](TRANSFORMER)
    stored = quantize(named)
    network, found = opened(forms.CONTAINERS[container](tmp_path, stored), WanTransformer)
    assert found == word
    check(network, velocity, released(stored.numbers, named, TRANSFORMER), TRANSFORMER, error)


@pytest.mark.parametrize(("container", "quantization"), CELLS)
@pytest.mark.parametrize("names", forms.UMT5_NAMES)
def test_text_encoder(container: str, names: str, quantization: str, tmp_path: Path):
    quantize, word, error = forms.QUANTIZATIONS[quantization]
    named = forms.UMT5_NAMES[names](UMT5)
    stored = quantize(named)
    network, found = opened(forms.CONTAINERS[container](tmp_path, stored), UMT5Encoder)
    assert found == word
    check(network, states, released(stored.numbers, named, UMT5), UMT5, error)


@pytest.mark.parametrize("names", ["released", "behind model.diffusion_model."])
@pytest.mark.parametrize("kind", forms.GGUF_TYPES)
def test_transformer_in_gguf(kind: str, names: str, tmp_path: Path):
    named = forms.TRANSFORMER_NAMES[names](WIDE_TRANSFORMER)
    numbers = forms.write_gguf(tmp_path / "model.gguf", named, kind)
    network, word = opened(tmp_path / "model.gguf", WanTransformer)
    error = forms.GGUF_TYPES[kind]
    plain_word = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    assert word == plain_word.get(kind, f"gguf_{kind.lower()}")
    original = None if error is None else WIDE_TRANSFORMER
    check(network, velocity, released(numbers, named, WIDE_TRANSFORMER), original, error or 0.0)


def test_a_patch_embedding_of_five_axes_in_gguf(tmp_path: Path):
    """More than ggml knows; the tools for Wan write it all the same."""
    numbers = forms.write_gguf(tmp_path / "model.gguf", WIDE_TRANSFORMER, "Q8_0", most_axes=5)
    network, _ = opened(tmp_path / "model.gguf", WanTransformer)
    check(network, velocity, numbers, WIDE_TRANSFORMER, 0.01)


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_axes_that_ggml_does_not_write(kind: str, tmp_path: Path):
    """Leading ones and a fifth axis, without a note of the shape that was."""
    lost = {
        name: value.flatten(0, 1) if value.ndim in (3, 5) else value
        for name, value in WIDE_TRANSFORMER.items()
    }
    numbers = forms.write_gguf(tmp_path / "model.gguf", lost, kind)
    network, _ = opened(tmp_path / "model.gguf", WanTransformer)
    numbers = {name: value.view(WIDE_TRANSFORMER[name].shape) for name, value in numbers.items()}
    check(network, velocity, numbers, WIDE_TRANSFORMER, forms.GGUF_TYPES[kind])


@pytest.mark.parametrize("kind", forms.GGUF_TYPES)
def test_text_encoder_in_gguf(kind: str, tmp_path: Path):
    named = forms.in_layout("umt5", "gguf")(WIDE_UMT5)
    numbers = forms.write_gguf(tmp_path / "model.gguf", named, kind, "t5encoder")
    network, _ = opened(tmp_path / "model.gguf", UMT5Encoder)
    error = forms.GGUF_TYPES[kind]
    original = None if error is None else WIDE_UMT5
    check(network, states, released(numbers, named, WIDE_UMT5), original, error or 0.0)


def test_what_is_quantized_stays_as_stored(tmp_path: Path):
    """The codes are what is resident: a quarter of float32, in the file's own pages."""
    quantize, _, _ = forms.QUANTIZATIONS["fp8 per row, no marker"]
    stored = quantize(UMT5)
    network, _ = opened(forms.write_safetensors(tmp_path, stored), UMT5Encoder)
    assert isinstance(network.blocks[0].attn.q, QuantizedLinear)
    assert isinstance(network.token_embedding, QuantizedEmbedding)
    assert network.blocks[0].attn.q.weight.dtype == torch.float8_e4m3fn
    assert network.blocks[0].norm1.weight.dtype == torch.bfloat16
    held = sum(value.nbytes for value in network.state_dict().values())
    assert held == sum(value.nbytes for value in stored.tensors.values())


@pytest.mark.parametrize("quantization", ["float16", "bfloat16", "fp8 e4m3"])
def test_vae(quantization: str, tmp_path: Path):
    """Convolutions have no quantized layer: a VAE in fp8 becomes numbers when it is loaded."""
    quantize, _, _ = forms.QUANTIZATIONS[quantization]
    stored = quantize(forms.calm(files.vae()))
    checkpoint = open_checkpoint(forms.write_safetensors(tmp_path, stored))
    config = vae_config(checkpoint.header)
    vae = load_module(make_vae(config, device="meta"), checkpoint)
    exact = make_vae(config, device="meta")
    exact.load_state_dict(stored.numbers, assign=True)
    latent = torch.randn(1, config.latent_channels, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert relative(vae.decode(latent), exact.decode(latent)) < EXACT


def test_a_float32_file_is_rounded_and_others_keep_their_few_float32_tensors(tmp_path: Path):
    """What both hosts ask: a 14B model is not computed with in float32, norms and modulation may stay."""
    for name, expected in (("float32", torch.bfloat16), ("float16", None), ("fp8 scaled, new", None)):
        quantize, _, _ = forms.QUANTIZATIONS[name]
        checkpoint = open_checkpoint(forms.write_safetensors(tmp_path, quantize(TRANSFORMER)))
        assert checkpoint.rounding(torch.bfloat16) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is mapped")
def test_what_is_copied_is_not_kept_mapped_as_well(tmp_path: Path):
    """A float32 file in bfloat16 is there once; a quantized one is there as its file's pages."""

    def is_mapped(path: Path) -> bool:
        return str(path) in Path("/proc/self/maps").read_text(encoding="utf-8")

    for name, kept in (("float32", False), ("fp8 per row, no marker", True)):
        quantize, _, _ = forms.QUANTIZATIONS[name]
        path = forms.write_safetensors(tmp_path, quantize(TRANSFORMER))
        checkpoint = open_checkpoint(path)
        network = WanTransformer(transformer_config(checkpoint.header), device="meta")
        load_module(network, checkpoint, checkpoint.rounding(torch.bfloat16))
        assert is_mapped(path) == kept
        assert velocity(network).isfinite().all()
        del network
        assert not is_mapped(path)
