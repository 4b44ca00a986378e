"""`inspect`: says what a file is by its tensors alone, and never falls over a bad one."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path

import pytest
import torch

from tests.unit import checkpoint_files as files
from wan_core.checkpoints import check_pair, expert_of, inspect, open_checkpoint, readable, require
from wan_core.errors import WanError
from wan_core.models.transformer import TransformerConfig, WanTransformer

FIELDS = ["file", "family", "task", "expert", "layout", "quantization", "parameters", "problems"]


def count(tensors: dict[str, torch.Tensor]) -> int:
    return sum(value.numel() for value in tensors.values())


def says(path: Path, **expected: object) -> None:
    """The inspection of a good file: exactly these fields, and nothing wrong with it."""
    found = inspect(path)
    assert found.problems == ()
    assert {name: getattr(found, name) for name in expected} == expected


def test_the_json_has_the_eight_fields_and_plain_values(tmp_path: Path):
    path = files.save(tmp_path / "wan_high_noise.safetensors", files.transformer())
    found = inspect(path).to_dict()
    assert list(found) == FIELDS
    assert json.loads(json.dumps(found)) == {
        "file": str(path),
        "family": "wan-transformer",
        "task": "t2v",
        "expert": "high_noise",
        "layout": "released",
        "quantization": "float32",
        "parameters": count(files.transformer()),
        "problems": [],
    }


@pytest.mark.parametrize(
    ("channels", "task", "expert"),
    [((16, 16), "t2v", None), ((36, 16), "i2v", None), ((48, 48), "ti2v", "dense")],
)
def test_task_by_channels_whatever_the_file_is_called(
    channels, task: str, expert: str | None, tmp_path: Path
):
    tensors = files.transformer(in_channels=channels[0], out_channels=channels[1])
    says(
        files.save(tmp_path / "some_vae.safetensors", tensors),
        family="wan-transformer",
        task=task,
        expert=expert,
    )


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (TransformerConfig(), 14_288_491_584),
        (TransformerConfig(in_channels=36), 14_288_901_184),
        (
            TransformerConfig(48, 48, dim=3072, ffn_dim=14336, num_heads=24, num_layers=30),
            4_999_787_712,
        ),
    ],
)
def test_full_size_models_are_counted_exactly(config: TransformerConfig, parameters: int, tmp_path: Path):
    header, end = {}, 0
    for name, value in WanTransformer(config, device="meta").state_dict().items():
        begin, end = end, end + 2 * value.numel()
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [begin, end]}
    path = files.raw_safetensors(tmp_path / "full.safetensors", header)
    os.truncate(path, path.stat().st_size + end)  # a sparse file: the size without the bytes
    says(path, family="wan-transformer", parameters=parameters, quantization="bfloat16")


def test_vaes_and_text_encoders(tmp_path: Path):
    save = files.save
    says(
        save(tmp_path / "a.safetensors", files.vae()),
        family="wan-vae-2.1",
        layout="released",
        task=None,
        expert=None,
    )
    prefixed = {f"model.{name}": value.half() for name, value in files.vae().items()}
    says(
        save(tmp_path / "b.safetensors", prefixed),
        family="wan-vae-2.1",
        layout="comfyui",
        quantization="float16",
    )
    says(save(tmp_path / "c.safetensors", files.vae_2_2()), family="wan-vae-2.2", layout="released")
    other = files.renamed(files.vae_2_2(), files.KEYMAPS["vae2_2"]["diffusers"])
    says(save(tmp_path / "d.safetensors", other), family="wan-vae-2.2", layout="diffusers")
    other = files.renamed(files.vae(), files.KEYMAPS["vae2_1"]["diffusers"])
    says(save(tmp_path / "e.safetensors", other), family="wan-vae-2.1", layout="diffusers")
    hf = files.renamed(files.umt5(), files.KEYMAPS["umt5"]["hf"])
    says(save(tmp_path / "f.safetensors", hf), family="umt5", layout="huggingface", parameters=count(hf))
    inside = {**hf, "spiece_model": torch.zeros(99, dtype=torch.uint8)}
    says(save(tmp_path / "g.safetensors", inside), family="umt5", layout="comfyui", parameters=count(hf))
    tied = {**hf, "encoder.embed_tokens.weight": hf["shared.weight"].clone()}
    says(save(tmp_path / "h.safetensors", tied), family="umt5", layout="huggingface", parameters=count(hf))
    says(save(tmp_path / "i.safetensors", files.umt5()), family="umt5", layout="released")


def linears(tensors: dict[str, torch.Tensor]) -> list[str]:
    return [
        name.removesuffix(".weight")
        for name, value in tensors.items()
        if name.endswith(".weight") and value.ndim == 2
    ]


def quantized(
    dtype: torch.dtype, suffix: str | None, per_row: bool = False, prefix: str = ""
) -> dict[str, torch.Tensor]:
    tensors = files.transformer()
    for layer in linears(tensors):
        weight = tensors[f"{layer}.weight"]
        tensors[f"{layer}.weight"] = weight.to(dtype)
        if suffix:
            tensors[layer + suffix] = torch.ones(len(weight), 1) if per_row else torch.ones([])
    return {prefix + name: value for name, value in tensors.items()}


def comfy_quant(kind: str) -> torch.Tensor:
    return torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)


def quantized_cases() -> dict[str, tuple[dict[str, torch.Tensor], dict[str, str] | None, str]]:
    e4m3, e5m2 = torch.float8_e4m3fn, torch.float8_e5m2
    layers = linears(files.transformer())
    old = quantized(e4m3, ".scale_weight") | {"scaled_fp8": torch.zeros(2).to(e4m3)}
    new = quantized(e4m3, ".weight_scale") | {
        f"{layer}.comfy_quant": comfy_quant("float8_e4m3fn") for layer in layers
    }
    noted = {
        "_quantization_metadata": json.dumps(
            {"layers": {layer: {"format": "float8_e5m2"} for layer in layers}}
        )
    }
    int8 = quantized(torch.int8, ".weight_scale")
    named = int8 | {f"{layer}.comfy_quant": comfy_quant("int8_tensorwise") for layer in layers}
    quanto = {
        name.replace(".weight", ".weight._data") if value.dtype == torch.int8 else name: value
        for name, value in quantized(torch.int8, ".weight._scale").items()
    }
    return {
        "plain e4m3": (quantized(e4m3, None), None, "fp8_e4m3fn"),
        "plain e5m2, prefixed": (quantized(e5m2, None, prefix="model.diffusion_model."), None, "fp8_e5m2"),
        "scaled, old spelling": (old, None, "fp8_e4m3fn_scaled"),
        "scaled, new spelling": (new, None, "fp8_e4m3fn_scaled"),
        "scaled, in the metadata": (quantized(e5m2, ".weight_scale"), noted, "fp8_e5m2_scaled"),
        "per row without a marker": (
            quantized(e4m3, ".weight_scale", per_row=True),
            None,
            "fp8_e4m3fn_scaled",
        ),
        "int8 per row": (quantized(torch.int8, ".weight_scale", per_row=True), None, "int8"),
        "int8 by ComfyUI": (named, None, "int8"),
        "quanto": (quanto, None, "quanto_int8"),
    }


@pytest.mark.parametrize("case", quantized_cases())
def test_quantizations_are_named_and_counted_without_scales(case: str, tmp_path: Path):
    tensors, metadata, expected = quantized_cases()[case]
    path = files.save(tmp_path / "model.safetensors", tensors, metadata)
    says(
        path,
        family="wan-transformer",
        task="t2v",
        quantization=expected,
        parameters=count(files.transformer()),
    )


def unreadable_cases() -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    """One layer in a scheme that does not load: its tensors, and how the refusal names it."""
    name = "blocks.1.ffn.0"
    codes = torch.ones(64, 128)
    e4m3, int8, bytes_ = codes.to(torch.float8_e4m3fn), codes.to(torch.int8), codes.to(torch.uint8)
    one, rotated = torch.ones([]), {"format": "int8_tensorwise", "convrot": True}
    note = torch.tensor(list(json.dumps(rotated).encode()), dtype=torch.uint8)
    return {
        "nvfp4": (
            {f"{name}.weight": bytes_[:, :64], f"{name}.weight_scale": torch.ones(64, 8).to(e4m3.dtype)},
            "nvfp4",
        ),
        "blocks of fp8": (
            {f"{name}.weight": e4m3, f"{name}.weight_scale": torch.ones(2, 4)},
            "fp8_e4m3fn_scaled with scales [2, 4] for [64, 128]",
        ),
        "scales the wrong way": (
            {f"{name}.weight": e4m3, f"{name}.weight_scale": torch.ones(1, 64)},
            "with scales [1, 64] for [64, 128]",
        ),
        "a second scale": (
            {
                f"{name}.weight": e4m3,
                f"{name}.weight_scale": one,
                f"{name}.weight_global_scale": torch.ones([1]),
            },
            "fp8_e4m3fn_scaled with weight_global_scale",
        ),
        "int8 alone": ({f"{name}.weight": int8}, "int8 without scales"),
        "rotated": (
            {f"{name}.weight": int8, f"{name}.weight_scale": one, f"{name}.comfy_quant": note},
            "int8 with rotated weights",
        ),
        "packed by quanto": (
            {f"{name}.weight._data": bytes_, f"{name}.weight._scale": one},
            "quanto_packed",
        ),
    }


@pytest.mark.parametrize("case", unreadable_cases())
def test_a_layer_that_cannot_become_numbers_is_refused_by_name(case: str, tmp_path: Path):
    tensors, scheme = unreadable_cases()[case]
    whole = files.transformer()
    del whole["blocks.1.ffn.0.weight"]
    path = files.save(tmp_path / "model.safetensors", whole | tensors)
    with pytest.raises(WanError, match=re.escape(scheme)) as refused:
        open_checkpoint(path)
    assert "model.safetensors: keeps 1 of its weights (blocks.1.ffn.0.weight" in str(refused.value)


def test_scales_without_a_marker_are_pointed_out(tmp_path: Path):
    path = files.save(tmp_path / "x.safetensors", quantized_cases()["per row without a marker"][0])
    assert "one per row" in readable(inspect(path))
    assert "without a marker" in readable(inspect(path))


def gguf_transformer(path: Path, **values: object) -> Path:
    """Q4_0 for every matrix, F32 for the rest; the patch embedding in four axes, as ggml has no fifth."""
    tensors = {}
    for name, value in files.transformer().items():
        shape = tuple(value.shape)
        if name == "patch_embedding.weight":
            values[f"comfy.gguf.orig_shape.{name}"] = list(shape)
            shape = (shape[0] * shape[1], *shape[2:])
        matrix = value.ndim == 2 and shape[-1] % 32 == 0
        size = value.numel() // 32 * 18 if matrix else value.numel() * 4
        tensors[name] = (shape, 2 if matrix else 0, size)
    return files.gguf(path, tensors, {"general.architecture": "wan", "tokens": ["a", "b"], **values})


def test_gguf_headers_are_read(tmp_path: Path):
    path = gguf_transformer(tmp_path / "wan-LowNoise-Q4_0.gguf")
    says(
        path,
        family="wan-transformer",
        task="t2v",
        expert="low_noise",
        layout="released",
        quantization="gguf_q4_0",
        parameters=count(files.transformer()),
    )
    assert set(open_checkpoint(path).header) == set(files.transformer())
    names = files.renamed(files.umt5(), files.KEYMAPS["umt5"]["gguf"])
    plain = {name: (tuple(value.shape), 1, value.numel() * 2) for name, value in names.items()}
    says(files.gguf(tmp_path / "u.gguf", plain, {}), family="umt5", layout="gguf", quantization="float16")


@pytest.mark.parametrize("keep", [0, 3, 4, 20, 100, 1000, 5000])
def test_a_cut_gguf_is_a_problem_and_no_crash(keep: int, tmp_path: Path):
    path = gguf_transformer(tmp_path / "cut.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    assert one_problem(path)


def test_gguf_with_absurd_counts(tmp_path: Path):
    path = tmp_path / "evil.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60) + b"\0" * 64)
    assert "cannot fit" in one_problem(path)


def one_problem(path: Path) -> str:
    """The only problem of a bad file: one line that begins with its name; opening it raises the same line."""
    found = inspect(path)
    assert len(found.problems) == 1, found.problems
    (text,) = found.problems
    assert "\n" not in text
    assert path.name[:20] in text
    assert "; " in text or " with " in text  # a remedy follows
    with pytest.raises(WanError) as caught:
        open_checkpoint(path)
    assert str(caught.value) == text
    assert found.to_dict()["problems"] == [text]
    assert text in readable(found)
    return text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x01\xff\x02", "too few"),
        (b"<!DOCTYPE html><html>Sign in</html>" * 9, "is a web page"),
        (b"\n  <html lang=en>" + b" " * 99, "is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 28577000000\n",
            "is a Git LFS pointer (76 bytes of text standing in for 28,577,000,000 bytes)",
        ),
        (b"PK\x03\x04" + b"\0" * 99, "has no sound table at its end"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\0" * 99, "weights_only=True"),
        (b'{"error": "repository not found"}', "is a text file (JSON)"),
        (b"Entry not found", "is 15 bytes of text ('Entry not found'), not weights"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 9000, "a picture (PNG)"),
        (b"\0\0\0\x20ftypisom" + b"\0" * 9000, "a video (MP4)"),
        (b"7z\xbc\xaf'\x1c" + b"noise" * 99, "a 7z archive"),
        (b"\0" * 4096, "begins with zeros"),
        (b"\x8f\x01random" + b"noise" * 99, "more than the 100,000,000 the format allows"),
    ],
)
def test_files_that_are_no_weights(content: bytes, words: str, tmp_path: Path):
    path = tmp_path / "wan_2.1_vae.safetensors"
    path.write_bytes(content)
    assert words in one_problem(path)
    assert inspect(path).family == "unknown"
    assert inspect(path).parameters is None


def test_missing_files_folders_and_odd_paths(tmp_path: Path):
    assert "no such file" in one_problem(tmp_path / "gone.safetensors")
    (tmp_path / "folder").mkdir()
    assert "is a folder" in one_problem(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in one_problem(tmp_path / "pipe")
    assert len(inspect("nul\0byte.safetensors").problems) == 1
    assert len(inspect("x" * 5000).problems) == 1
    assert len(inspect("").problems) == 1


@pytest.mark.parametrize("length", [640, 123, 91, 60])
def test_a_good_file_whose_length_bytes_look_like_something_else(length: int, tmp_path: Path):
    """640 is 0x80 0x02, as old PyTorch files begin; 123 is an opening brace, 91 a bracket, 60 a tag."""
    text = json.dumps(
        {"x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, separators=(",", ":")
    ).encode()
    path = files.raw_safetensors(tmp_path / "file.safetensors", text.ljust(length))
    assert "none of Wan's files" in one_problem(path)


def entry(shape: object = (2,), offsets: object = (0, 8), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD_HEADERS = {
    "not json": (b"{nope", "not valid JSON"),
    "not utf-8": (b'{"\xff\xfe": 1}', "not valid JSON"),
    "too deep": (b'{"a":' + b"[" * 200_000, "not valid JSON"),
    "a huge number": (
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 9000 + b'],"data_offsets":[0,8]}}',
        "not valid JSON",
    ),
    "a list": (b" [1, 2] ", "not a table"),
    "nan": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', "not valid JSON"),
    "twice": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', "lists 'a' twice"),
    "twice inside": (
        b'{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}',
        "lists 'dtype' twice",
    ),
    "metadata": ({"__metadata__": {"a": 1}, "a": entry()}, "metadata"),
    "no table": ({"a": 3}, "no plain dtype"),
    "extra field": ({"a": {**entry(), "more": 1}}, "no plain dtype"),
    "unknown dtype": ({"a": entry(dtype="F7")}, "unknown dtype 'F7'"),
    "dtype no word": ({"a": entry(dtype=[])}, "unknown dtype"),
    "negative shape": ({"a": entry([-2])}, "impossible shape"),
    "two negatives": ({"a": entry([-1, -2])}, "impossible shape"),
    "fractional shape": ({"a": entry([2.0])}, "impossible shape"),
    "true as a number": ({"a": entry([True, 2])}, "impossible shape"),
    "absurd shape": ({"a": entry([2**40, 2**40], [0, 2**82])}, "impossible shape"),
    "absurd axis": ({"a": entry([2**60, 0], [0, 0])}, "impossible shape"),
    "many axes": ({"a": entry([1] * 99, [0, 4])}, "impossible shape"),
    "backwards": ({"a": entry(offsets=[8, 0])}, "impossible byte range"),
    "negative range": ({"a": entry(offsets=[-8, 0])}, "impossible byte range"),
    "wrong size": ({"a": entry([3])}, "needs 12 bytes and is given 8"),
    "overlap": ({"a": entry(), "b": entry(offsets=[4, 12])}, "overlaps the one before it"),
    "same range": ({"a": entry(), "b": entry()}, "overlaps the one before it"),
    "gap": ({"a": entry(), "b": entry(offsets=[12, 20])}, "leaves a gap"),
    "late start": ({"a": entry(offsets=[4, 12])}, "leaves a gap"),
    "nasty name": ({"a\nb\x1b[31m" + "x" * 999: entry(dtype="?")}, "a?b?[31m"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_hostile_headers(case: str, tmp_path: Path):
    header, words = BAD_HEADERS[case]
    text = one_problem(files.raw_safetensors(tmp_path / "evil.safetensors", header, bytes(64)))
    assert words in text
    assert len(text) < 400


def test_a_header_longer_than_the_file(tmp_path: Path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(struct.pack("<Q", 5000) + b'{"a":')
    assert "needs 5,008 bytes and the file has 13" in one_problem(path)


def test_a_truncated_download_still_says_what_it_is(tmp_path: Path):
    path = files.save(tmp_path / "wan_low_noise.safetensors", files.transformer())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    text = one_problem(path)
    assert f"promises {len(whole):,} bytes and the file has {len(whole) // 2:,}" in text
    assert "download it again" in text
    assert inspect(path).to_dict()["task"] == "t2v"
    path.write_bytes(whole + b"more")
    assert "accounts for" in one_problem(path)


def test_a_shard_and_a_half_written_file(tmp_path: Path):
    tensors = files.transformer()
    shard = {name: value for name, value in tensors.items() if name.startswith("blocks.")}
    assert "one piece of a sharded model" in one_problem(files.save(tmp_path / "s.safetensors", shard))
    tensors.pop("blocks.0.ffn.0.bias")
    assert "lacks 1 of its weights (blocks.0.ffn.0.bias)" in one_problem(
        files.save(tmp_path / "h.safetensors", tensors)
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["double_blocks.0.img_attn.proj.weight"], "a Flux or Hunyuan transformer"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "a Stable Diffusion UNet"),
        (["model.diffusion_model.head.modulation", "vae.conv1.weight"], "all-in-one"),
        (["vision_model.embeddings.class_embedding"], "CLIP vision"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
        (
            [
                f"encoder.block.{block}.layer.0.SelfAttention.{part}.weight"
                for block, part in ((0, "q"), (1, "q"), (0, "relative_attention_bias"))
            ],
            "a T5 text encoder",
        ),
    ],
)
def test_other_models_are_told_apart(names: list[str], words: str, tmp_path: Path):
    path = files.save(tmp_path / "file.safetensors", {name: torch.ones(2, 2) for name in names})
    assert words in one_problem(path)
    assert inspect(path).family == "unknown"


def test_no_tensors_at_all(tmp_path: Path):
    assert "holds no weights" in one_problem(files.raw_safetensors(tmp_path / "file.safetensors", {}))


def test_loras_and_other_members_of_the_family_are_named_and_refused(tmp_path: Path):
    lora = {f"diffusion_model.blocks.0.self_attn.q.lora_{side}.weight": torch.ones(4, 4) for side in "AB"}
    path = files.save(tmp_path / "lora.safetensors", lora)
    says(path, family="lora", task=None)
    assert "Changes 1 layers, rank 4" in readable(inspect(path))
    with pytest.raises(WanError, match=r"is a LoRA, but the model slot needs a Wan transformer"):
        require(open_checkpoint(path), "dense")
    old = files.transformer(in_channels=36) | {"img_emb.proj.0.bias": torch.ones(4)}
    path = files.save(tmp_path / "wan21.safetensors", old)
    with pytest.raises(WanError, match=r"Wan2\.1 image-to-video"):
        open_checkpoint(path)
    whole = files.renamed(files.umt5(), files.KEYMAPS["umt5"]["hf"]) | {
        "decoder.final_layer_norm.weight": torch.ones(4)
    }
    path = files.save(tmp_path / "umt5.safetensors", whole)
    with pytest.raises(WanError, match=r"holds UMT5's decoder.*; choose the encoder alone"):
        open_checkpoint(path)
    path = files.save(tmp_path / "fun.safetensors", files.transformer(in_channels=52))
    says(path, family="wan-transformer", task=None)
    with pytest.raises(WanError, match="another variant"):
        open_checkpoint(path)


def test_wrong_number_of_axes_is_a_problem_not_a_crash(tmp_path: Path):
    for name in (
        "head.modulation",
        "patch_embedding.weight",
        "blocks.0.ffn.0.weight",
        "text_embedding.0.weight",
    ):
        for shape in ([], [0], [1, 1, 0], [1, 2, 3, 4, 5, 6]):
            tensors = files.transformer() | {name: torch.ones(shape)}
            found = inspect(files.save(tmp_path / "file.safetensors", tensors))
            assert found.family == "wan-transformer"
            assert found.problems or found.task is None, (name, shape)


def test_readable_speaks_to_a_newcomer(tmp_path: Path):
    text = readable(inspect(files.save(tmp_path / "wan_high_noise.safetensors", files.transformer())))
    assert "A Wan transformer for text to video" in text
    assert "Expert: high noise, going by its name" in text
    assert "the Wan2.1 VAE" in text
    assert "steps of 16" in text
    dense = files.transformer(in_channels=48, out_channels=48)
    text = readable(inspect(files.save(tmp_path / "model.safetensors", dense)))
    assert "the Wan2.2 VAE" in text
    assert "steps of 32" in text
    assert "TI2V-5B model only" in readable(inspect(files.save(tmp_path / "v.safetensors", files.vae_2_2())))


@pytest.mark.parametrize(
    ("prefix", "query", "width", "words"),
    [
        ("diffusion_model.", "self_attn.q", 5120, "the A14B models"),
        ("lora_unet_", "self_attn_q", 3072, "TI2V-5B"),
        ("transformer.", "attn1.to_q", 640, "none of the released ones"),
    ],
)
def test_a_lora_says_what_it_was_made_for(prefix: str, query: str, width: int, words: str, tmp_path: Path):
    block = "blocks_3_" if "_unet_" in prefix else "blocks.3."
    layer = f"{prefix}{block}{query}"
    tensors = {
        f"{layer}.lora_down.weight": torch.ones(8, width),
        f"{layer}.lora_up.weight": torch.ones(width, 8),
    }
    path = files.save(tmp_path / "style_low_noise.safetensors", tensors | {f"{layer}.alpha": torch.tensor(8)})
    says(path, family="lora", expert="low_noise")
    text = readable(inspect(path))
    assert "Changes 1 layers, rank 8." in text
    assert f"Made for a network {width:,} wide ({words})." in text
    assert "Cannot be loaded" not in text  # the alpha of some tools is an integer


BUILT_IN = sorted(
    (Path(__file__).resolve().parents[2] / "wan_core/tiny/weights/diffusion_models").glob("*_noise.*")
)


@pytest.mark.parametrize("path", BUILT_IN, ids=lambda path: path.stem)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_built_in_experts_are_known_by_their_numbers_whatever_their_name(
    path: Path, dtype: torch.dtype, tmp_path: Path
):
    tensors = {f"model.{name}": value.to(dtype) for name, value in open_checkpoint(path).load().items()}
    other = "low" if "high" in path.stem else "high"
    found = inspect(files.save(tmp_path / f"wan_{other}_noise.safetensors", tensors))
    numbers = tensors["model.head.modulation"].flatten()[:8].tolist()
    assert found.expert == expert_of(path.name), f"known.py lacks the row of {path.name}: {numbers}"
    assert "by its numbers, which are those of" in readable(found)


def test_a_swapped_pair_is_caught_though_its_files_are_renamed(tmp_path: Path):
    high, low = (path for path in BUILT_IN if "t2v" in path.stem)
    (tmp_path / "a_high_noise.safetensors").symlink_to(low)
    (tmp_path / "b_low_noise.safetensors").symlink_to(high)
    pair = [
        open_checkpoint(tmp_path / name) for name in ("a_high_noise.safetensors", "b_low_noise.safetensors")
    ]
    with pytest.raises(
        WanError, match=r"a_high_noise.safetensors is the other expert of .*; exchange the two files"
    ):
        check_pair(*pair)
    check_pair(*reversed(pair))
