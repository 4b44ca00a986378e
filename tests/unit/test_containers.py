"""Containers: one header over however many files a model has, and its tensors mapped as they are stored."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor

from tests.unit import checkpoint_files as files
from wan_core.checkpoints.containers import map_stored, read_header
from wan_core.errors import WanError


def assert_stored(path: Path, tensors: dict[str, Tensor], container: str = "safetensors") -> None:
    """The path leads to exactly these tensors, by header and by content."""
    header = read_header(path)
    assert header.container == container
    assert header.problems == ()
    assert {name: info.shape for name, info in header.tensors.items()} == {
        name: tuple(value.shape) for name, value in tensors.items()
    }
    stored = map_stored(header, header.tensors)
    assert all(stored[name].dtype == value.dtype for name, value in tensors.items())
    assert all(torch.equal(stored[name], value) for name, value in tensors.items())


def refused(path: Path) -> str:
    """The one line a path is refused with."""
    with pytest.raises(WanError) as caught:
        read_header(path)
    text = str(caught.value)
    assert "\n" not in text
    assert "; " in text
    assert len(text) < 500
    return text


def sharded(
    folder: Path, tensors: dict[str, Tensor], parts: int = 3, stem: str = "diffusion_pytorch_model"
) -> dict[str, str]:
    """Write shards without an index; returns the weight map that an index would hold."""
    places = {}
    for part in range(parts):
        name = f"{stem}-{part + 1:05}-of-{parts:05}.safetensors"
        inside = dict(list(tensors.items())[part::parts])
        files.save(folder / name, inside)
        places |= dict.fromkeys(inside, name)
    return places


def index(folder: Path, places: object, stem: str = "diffusion_pytorch_model") -> Path:
    path = folder / f"{stem}.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return path


@pytest.mark.parametrize("with_index", [True, False])
def test_any_piece_of_a_sharded_model_stands_for_all_of_it(with_index: bool, tmp_path: Path):
    tensors = files.transformer()
    folder = tmp_path / "high_noise_model"
    places = sharded(folder, tensors)
    if with_index:
        assert_stored(index(folder, places), tensors)
    (folder / "config.json").write_text("{}")
    assert_stored(folder, tensors)
    for name in set(places.values()):
        assert_stored(folder / name, tensors)


def test_a_folder_with_one_file_is_that_file(tmp_path: Path):
    tensors = files.vae()
    files.save(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", tensors)
    assert_stored(tmp_path / "vae", tensors)
    # Hugging Face keeps the same weights in the older form beside it
    torch.save(tensors, tmp_path / "vae" / "pytorch_model.bin")
    assert_stored(tmp_path / "vae", tensors)


def test_dtypes_come_as_they_are_stored(tmp_path: Path):
    tensors = {
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64)
    }
    tensors |= {"one": torch.tensor(3.0), "none": torch.ones(0, 4)}
    assert_stored(files.save(tmp_path / "a.safetensors", tensors), tensors)
    torch.save(tensors, tmp_path / "a.pth")
    assert_stored(tmp_path / "a.pth", tensors, "pth")
    fp8 = {"e": torch.ones(2, 2).to(torch.float8_e4m3fn), "f": torch.ones(2, 2).to(torch.float8_e5m2)}
    header = read_header(files.save(tmp_path / "b.safetensors", fp8))
    assert [value.dtype for value in map_stored(header, "ef").values()] == [
        value.dtype for value in fp8.values()
    ]


def test_a_file_larger_than_memory_is_mapped(tmp_path: Path):
    """Linux refuses a private mapping larger than memory unless told not to count it."""
    size = 2**30 * (4 + os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30)
    table = {"a": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}
    path = files.raw_safetensors(tmp_path / "large.safetensors", table)
    os.truncate(path, path.stat().st_size + size)
    value = map_stored(read_header(path), ["a"])["a"]
    assert value.shape == (size // 2,)
    assert value[-1] == 0


def test_what_torch_says_of_a_pth_is_told_without_its_folders(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(4)}, path)

    def load(*_: object, **__: object) -> None:
        raise RuntimeError(f"unable to open file <{path}> in read-only mode")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(
        WanError, match=r"a\.pth: torch cannot read it \(unable to open file <a\.pth>"
    ) as error:
        read_header(path)
    assert str(tmp_path) not in str(error.value)


def test_a_pth_larger_than_memory_says_what_to_choose(tmp_path: Path):
    """torch maps it in the way that Linux counts; a hole in the archive makes it large."""
    torch.save({"a": torch.ones(4)}, tmp_path / "a.pth")
    size = 2**30 * (4 + os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30)
    whole = (tmp_path / "a.pth").read_bytes()
    with (tmp_path / "large.pth").open("wb") as file:
        file.write(whole)
        file.seek(size)
        file.write(whole)
    with pytest.raises(WanError, match=r"large\.pth: .*; choose the \.safetensors"):
        read_header(tmp_path / "large.pth")


def test_numbers_at_odd_positions_come_out_right(tmp_path: Path):
    data = torch.tensor([1.5, -2.0]).numpy().tobytes()
    text = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    for spaces in range(4):
        path = files.raw_safetensors(tmp_path / "odd.safetensors", text + b" " * spaces, data)
        assert map_stored(read_header(path), ["a"])["a"].tolist() == [1.5, -2.0]


def test_gguf_tensors_come_in_torchs_order_and_blocks_as_bytes(tmp_path: Path):
    """Written by the gguf package; a fifth axis is noted in the metadata, as tools for ComfyUI do."""
    patch = torch.randn(4, 2, 1, 2, 2)
    plain = {
        "norm": torch.randn(32),
        "half": torch.randn(3, 64).half(),
        "brain": torch.randn(2, 4).bfloat16(),
    }
    matrix = torch.randn(6, 64)
    blocks = gguf.quantize(matrix.numpy(), gguf.GGMLQuantizationType.Q4_0)
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "wan")
    writer.add_array("comfy.gguf.orig_shape.patch", list(patch.shape))
    writer.add_tensor("patch", patch.reshape(8, 1, 2, 2).numpy())
    writer.add_tensor("norm", plain["norm"].numpy())
    writer.add_tensor("half", plain["half"].numpy())
    brain = plain["brain"].view(torch.int16).numpy().view("uint8").reshape(2, 8)
    writer.add_tensor("brain", brain, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.add_tensor("matrix", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(tmp_path / "m.gguf")
    assert header.tensors["matrix"].shape == (6, 64)
    stored = map_stored(header, header.tensors)
    assert torch.equal(stored.pop("matrix"), torch.from_numpy(blocks))
    expected = plain | {"patch": patch}
    assert stored.keys() == expected.keys()
    assert all(value.dtype == expected[name].dtype for name, value in stored.items())
    assert all(torch.equal(value, expected[name]) for name, value in stored.items())


def test_a_file_that_shrank_since_it_was_read_is_one_line(tmp_path: Path):
    path = files.save(tmp_path / "a.safetensors", {"a": torch.ones(4096)})
    header = read_header(path)
    os.truncate(path, 100)
    with pytest.raises(WanError, match=r"a\.safetensors: has 100 bytes now and had 16,\d+ or more .*; wait"):
        map_stored(header, ["a"])
