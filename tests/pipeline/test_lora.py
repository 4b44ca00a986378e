"""LoRAs through the whole pipeline: each strength acts on its own expert only, and nothing else changes."""

from __future__ import annotations

import json

import av
import pytest
import torch
from safetensors.torch import save_file

from wan_core.__main__ import main, parse_lora
from wan_core.errors import WanError
from wan_core.models.transformer import WanTransformer
from wan_core.pipeline import encode_prompts, load_pipeline, sample, with_lora
from wan_core.request import Request

from .conftest import TRANSFORMER


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The two files of a LoRA on every linear layer of the toy model's blocks."""
    folder = tmp_path_factory.mktemp("loras")
    shapes = WanTransformer(TRANSFORMER, device="meta").state_dict()
    layers = [name for name, value in shapes.items() if name.startswith("blocks.") and value.ndim == 2]
    for seed, expert in enumerate(("high", "low")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name in layers:
            out, wide = shapes[name].shape
            stem = f"diffusion_model.{name.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = 0.2 * torch.randn(4, wide, generator=generator)
            tensors[f"{stem}.lora_B.weight"] = 0.2 * torch.randn(out, 4, generator=generator)
        save_file(tensors, folder / f"toy_{expert}_noise.safetensors")
    return folder / "toy_high_noise.safetensors", folder / "toy_low_noise.safetensors"


@pytest.fixture(scope="module")
def pipeline(model_folder):
    return load_pipeline(model_folder)


@pytest.fixture(scope="module")
def latents(pipeline):
    """Samples four steps, two by each expert; the latent after each."""
    request = Request.for_variant(
        pipeline.variant, "a red circle", steps=4, shift=5.0, width=32, height=32, frames=5, seed=3
    )
    contexts = encode_prompts(pipeline, ["a red circle", "blur"])

    def run(dressed):
        steps = []
        sample(dressed, request, *contexts, on_step=lambda info: steps.append((info.expert, info.latent)))
        assert [expert for expert, _ in steps] == ["high_noise"] * 2 + ["low_noise"] * 2
        return [latent for _, latent in steps]

    return run


def test_each_strength_acts_on_its_own_side_only(pipeline, pair, latents):
    plain = latents(pipeline)
    high = latents(with_lora(pipeline, pair[0], 1.0, 0.0))
    low = latents(with_lora(pipeline, pair[0], 0.0, 1.0))
    both = latents(with_lora(pipeline, pair[0], 1.0))
    assert [torch.equal(a, b) for a, b in zip(low, plain, strict=True)] == [True, True, False, False]
    assert [torch.equal(a, b) for a, b in zip(high, plain, strict=True)] == [False] * 4
    assert [torch.equal(a, b) for a, b in zip(high, both, strict=True)] == [True, True, False, False]
    assert all(torch.equal(a, b) for a, b in zip(latents(pipeline), plain, strict=True))


def test_loras_add_up(pipeline, pair, latents):
    once = latents(with_lora(pipeline, pair[0], 0.6, 0.2))
    twice = latents(with_lora(with_lora(pipeline, pair[0], 0.5, 0.3), pair[1], 0.1, -0.1))
    assert (once[-1] - twice[-1]).abs().max() < 1e-4


def test_generate_with_a_lora(model_folder, pair, tmp_path, capsys):
    out = tmp_path / "video.mp4"
    size = ["--width", "32", "--height", "32", "--frames", "5", "--steps", "2", "--shift", "5"]
    loras = ["--lora", f"{pair[1]}:0.5", "--lora", f"{pair[0]}:0:2"]
    status = main(["generate", "a circle", "--out", str(out), "--model", str(model_folder), *size, *loras])
    assert status == 0
    table = capsys.readouterr().err
    assert "high-noise      0.50       20        0          0  toy_high_noise.safetensors" in table
    assert "skipped 20 of toy_high_noise.safetensors: strength 0" in table
    with av.open(out) as container:
        noted = json.loads(container.metadata["wancore"])["loras"]
    assert noted == [
        {expert: [f"toy_{expert}.safetensors", strength] for expert, strength in strengths.items()}
        for strengths in ({"high_noise": 0.5, "low_noise": 0.5}, {"high_noise": 0.0, "low_noise": 2.0})
    ]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("style.safetensors", ("style.safetensors", 1.0, None)),
        ("style.safetensors:.8", ("style.safetensors", 0.8, None)),
        ("style.safetensors:1:-0.5", ("style.safetensors", 1.0, -0.5)),
        ("C:/loras/style.safetensors:2", ("C:/loras/style.safetensors", 2.0, None)),
        ("style:v2.safetensors", ("style:v2.safetensors", 1.0, None)),
    ],
)
def test_the_option_s_spelling(text, parsed):
    path, *strengths = parse_lora(text)
    assert (str(path), *strengths) == parsed


@pytest.mark.parametrize(
    ("lora", "words"), [("", "the name of the file is missing"), ("no.safetensors", "there is no such file")]
)
def test_a_bad_lora_is_one_line(model_folder, tmp_path, capsys, lora, words):
    arguments = ["generate", "x", "--out", str(tmp_path / "a.mp4"), "--model", str(model_folder)]
    assert main([*arguments, "--lora", lora]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_a_lora_for_another_model_is_refused(pipeline, tmp_path):
    name = "diffusion_model.blocks.0.ffn.0"
    path = tmp_path / "wide.safetensors"
    save_file({f"{name}.lora_A.weight": torch.ones(4, 5120), f"{name}.lora_B.weight": torch.ones(8, 4)}, path)
    with pytest.raises(WanError, match=r"wide\.safetensors: none of its 2 tensors fits .*8 x 5120"):
        with_lora(pipeline, path)
