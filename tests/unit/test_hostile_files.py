"""Files made to break a reader: one line each, nothing run, nothing filled, and no hang."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.unit import checkpoint_files as files
from tests.unit.test_containers import index, refused, sharded
from wan_core.checkpoints import Checkpoint, inspect, open_checkpoint
from wan_core.checkpoints.containers import map_stored, read_header
from wan_core.errors import WanError


def fault(action: Callable[[], object]) -> str | None:
    """The line an action is refused with; None when it succeeds."""
    text = None
    try:
        action()
    except WanError as error:
        text = str(error)
    assert text is None or "\n" not in text
    return text


# --- indices and shards -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "../other.safetensors",
        "/etc/passwd",
        "..",
        "a/b.safetensors",
        "..\\x.safetensors",
        "C:x",
        "a\0b",
        "",
        7,
    ],
)
def test_an_index_points_nowhere_but_beside_itself(target: object, tmp_path: Path):
    files.save(tmp_path / "other.safetensors", files.transformer())
    (tmp_path / "model").mkdir()
    assert "expected the name of a file beside it" in refused(index(tmp_path / "model", {"a": target}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no valid JSON"),
        ("<html>", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ("[]", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
    ],
)
def test_an_index_that_is_none(text: str, words: str, tmp_path: Path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    assert words in refused(path)


def test_an_endless_index(tmp_path: Path):
    path = tmp_path / "model.safetensors.index.json"
    path.touch()
    os.truncate(path, 2**40)
    assert "an index of 1,099,511,627,776 bytes" in refused(path)
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in refused(path)


@pytest.mark.parametrize("with_index", [True, False])
def test_a_missing_shard_is_named(with_index: bool, tmp_path: Path):
    places = sharded(tmp_path, files.transformer())
    if with_index:
        index(tmp_path, places)
    (tmp_path / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    text = refused(tmp_path / "diffusion_pytorch_model-00001-of-00003.safetensors")
    assert "1 of the 3 files" in text
    assert "(diffusion_pytorch_model-00002-of-00003.safetensors)" in text


def test_a_cut_shard_is_the_one_that_is_named(tmp_path: Path):
    places = sharded(tmp_path, files.transformer())
    path = tmp_path / sorted(set(places.values()))[1]
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(
        WanError, match=r"^diffusion_pytorch_model-00002-of-00003\.safetensors: the header promises"
    ):
        open_checkpoint(tmp_path)


def test_an_index_and_shards_that_differ(tmp_path: Path):
    places = sharded(tmp_path, files.transformer())
    moved = {**places, "head.modulation": sorted(set(places.values()) - {places["head.modulation"]})[0]}
    with pytest.raises(
        WanError, match=r"1 of 69 tensors are not where it says \(head.modulation: expected in"
    ):
        open_checkpoint(index(tmp_path, moved))
    with pytest.raises(WanError, match=r"1 of 70 tensors are not where it says \(ghost: expected in"):
        open_checkpoint(index(tmp_path, {**places, "ghost": places["head.modulation"]}))


def test_a_tensor_in_two_shards(tmp_path: Path):
    for number in (1, 2):
        files.save(tmp_path / f"m-0000{number}-of-00002.safetensors", {"a": torch.ones(number)})
    assert "tensor 'a' is in m-00001-of-00002.safetensors too" in refused(
        tmp_path / "m-00001-of-00002.safetensors"
    )


@pytest.mark.parametrize(
    "name", ["m-00003-of-00002.safetensors", "m-00000-of-00002.safetensors", "m-00001-of-99999.gguf"]
)
def test_a_shard_number_that_cannot_be(name: str, tmp_path: Path):
    files.save(tmp_path / name, {"a": torch.ones(1)})
    assert "which cannot be" in refused(tmp_path / name)


def test_shards_of_two_kinds(tmp_path: Path):
    files.save(tmp_path / "m-00001-of-00002.bin", {"a": torch.ones(1)})
    torch.save({"b": torch.ones(1)}, tmp_path / "m-00002-of-00002.bin")
    assert "are pth and safetensors, expected one kind" in refused(tmp_path)


def test_folders_that_hold_no_model_or_several(tmp_path: Path):
    (tmp_path / "high_noise_model").mkdir()
    assert "without weight files (folders in it: high_noise_model)" in refused(tmp_path)
    files.save(tmp_path / "a.safetensors", files.vae())
    files.save(tmp_path / "b.safetensors", files.vae())
    assert "a folder of 2 models (a.safetensors, b.safetensors)" in refused(tmp_path)


def test_links_that_go_round_or_nowhere(tmp_path: Path):
    (tmp_path / "a.safetensors").symlink_to("b.safetensors")
    (tmp_path / "b.safetensors").symlink_to("a.safetensors")
    assert "leads to no file" in refused(tmp_path / "a.safetensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "folder").symlink_to(tmp_path / "folder")
    assert "without weight files" in refused(tmp_path / "folder")
    places = sharded(tmp_path / "model", {"a": torch.ones(1), "b": torch.ones(1)}, parts=2)
    path = tmp_path / "model" / places["b"]
    path.unlink()
    path.symlink_to(path.name)
    assert "are missing" in refused(tmp_path / "model")


def test_links_into_another_folder_are_how_caches_keep_files(tmp_path: Path):
    stored = files.save(tmp_path / "blobs" / "0123", files.vae())
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "vae.safetensors").symlink_to(stored)
    assert open_checkpoint(tmp_path / "snapshot").inspection.family == "wan-vae-2.1"


def test_a_million_little_tensors(tmp_path: Path):
    table = {str(n): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(50_001)}
    assert "50,001 tensors" in refused(files.raw_safetensors(tmp_path / "many.safetensors", table))


def test_a_note_that_is_no_text_is_passed_over(tmp_path: Path):
    tensors = files.transformer() | {"blocks.0.ffn.0.comfy_quant": torch.ones(3, dtype=torch.bfloat16)}
    assert inspect(files.save(tmp_path / "odd.safetensors", tensors)).quantization == "float32"


# --- PyTorch archives ---------------------------------------------------------------------------------------


class Code:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str, str]]:
        return io.open, (str(self.path), "w")


def archive(path: Path, program: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> Path:
    """A PyTorch archive of any pickle; torch's entries are stored, not compressed."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        for name, content in {"version": b"3\n", "byteorder": b"little", **more}.items():
            file.writestr(f"archive/{name}", content)
    return path


def test_code_in_a_pickle_is_named_and_never_run(tmp_path: Path):
    torch.save({"a": torch.ones(2), "b": Code(tmp_path / "made")}, tmp_path / "evil.pth")
    assert "asks for" in refused(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()
    assert open_is_named(tmp_path / "evil.pth")


def open_is_named(path: Path) -> bool:
    return "open" in refused(path)


def tuple_bomb(levels: int) -> bytes:
    """{t: 1} for t = (u, u), u = (v, v), ...: a few bytes a level, and 2**levels steps to hash."""
    out = b"\x80\x02})"
    for level in range(levels):
        out += b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86"
    return out + b"K\x01s."


PICKLES = {
    "exponential key": (tuple_bomb(60), "nests more than"),
    "deep key": (b"\x80\x02})" + b"\x85" * 2_000_000 + b"K\x01s.", "nests more than"),
    "cut": (pickle.dumps({"a": 1}, 2)[:-3], "its table is damaged or none"),
    "empty": (b"", "its table is damaged or none"),
    "a number": (pickle.dumps(7, 2), "no named tensors"),
    "a list of itself": (b"\x80\x02]q\x00h\x00a.", "no named tensors"),
    "a table in itself": (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "no named tensors"),
    "two tables": (pickle.dumps({"ema": {}, "other": {}}, 2), "holds 2 tables (ema, other)"),
    "a global of nowhere": (b"\x80\x02cno.such.module\nthing\n.", "asks for no.such.module.thing"),
    "system": (b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.", "asks for posix.system"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_hostile_pickles(case: str, tmp_path: Path):
    program, words = PICKLES[case]
    assert words in refused(archive(tmp_path / "evil.pth", program))


def test_archives_that_torch_does_not_write(tmp_path: Path):
    path = tmp_path / "evil.pth"
    assert "compressed" in refused(archive(path, b"\x80\x02}." + bytes(9_000_000), zipfile.ZIP_DEFLATED))
    assert "more than the 10,000,000" in refused(archive(path, bytes(11_000_000)))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "words")
    assert "a zip archive without weights in it (readme.txt)" in refused(path)


def test_a_tensor_larger_than_its_storage(tmp_path: Path):
    """A stride of 0 makes 2**40 numbers of four bytes."""
    torch.save({"a": torch.ones(1).expand(2**20, 2**20)}, tmp_path / "evil.pth")
    assert "needs 4,398,046,511,104 bytes, is given 4" in refused(tmp_path / "evil.pth")


def test_a_storage_that_the_archive_does_not_hold(tmp_path: Path):
    torch.save({"a": torch.ones(5)}, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as file:
        program = next(file.read(name) for name in file.namelist() if name.endswith("data.pkl"))
    short = archive(tmp_path / "short.pth", program.replace(b"K\x05", b"K\x7f"), **{"data/0": bytes(20)})
    text = fault(lambda: map_stored(read_header(short), ["a"]))
    assert text.startswith("short.pth: ")


def test_tensors_that_are_no_plain_numbers(tmp_path: Path):
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "sparse.pth")
    assert "sparse" in refused(tmp_path / "sparse.pth")


def test_wrapped_and_mixed_tables_are_read(tmp_path: Path):
    tensors = files.vae()
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "wrapped.pth")
    torch.save({**tensors, "step": 5}, tmp_path / "mixed.pth")
    trained = {"model": {"module": tensors}, "optimizer": {"state": {}, "groups": {}}, "step": torch.ones(1)}
    torch.save(trained, tmp_path / "trained.pth")
    torch.save({"ema": tensors, "model": tensors}, tmp_path / "ambiguous.pth")
    assert "holds 2 tables (ema, model)" in refused(tmp_path / "ambiguous.pth")
    for name in ("wrapped.pth", "mixed.pth", "trained.pth"):
        assert open_checkpoint(tmp_path / name).header.keys() == tensors.keys()


# --- GGUF ---------------------------------------------------------------------------------------------------


def word(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    """One entry of the table, the shape fastest axis first."""
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return word(name) + axes + struct.pack("<IQ", kind, offset)


def gguf_file(
    path: Path, values: list[bytes], tensors: list[bytes], version: int = 3, size: int = 4096
) -> Path:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values)) + b"".join(values + tensors)
    path.write_bytes(head + bytes(size))
    return path


NUMBER = word("a") + struct.pack("<II", 4, 7)
SHAPE = word("comfy.gguf.orig_shape.t") + struct.pack("<IIQ", 9, 5, 2)
PLAIN = gguf_tensor("t", (8,), 0, 0)
BAD_GGUF = {
    "version": ([], [PLAIN], {"version": 99}, "version 99 is not known"),
    "the other byte order": ([], [PLAIN], {"version": 3 << 24}, "version 50331648 is not known"),
    "metadata twice": ([NUMBER, NUMBER], [PLAIN], {}, "lists 'a' twice"),
    "metadata of no type": ([word("a") + struct.pack("<I", 77)], [], {}, "unknown type 77"),
    "an array of arrays": ([word("a") + struct.pack("<IIQ", 9, 9, 3)], [], {}, "unknown type 9"),
    "an endless array": ([word("a") + struct.pack("<IIQ", 9, 4, 2**62)], [], {}, "runs past the end"),
    "endless strings": ([word("a") + struct.pack("<IIQ", 9, 8, 2**60)], [], {}, "cannot fit"),
    "an endless name": ([struct.pack("<Q", 2**63)], [], {}, "runs past the end"),
    "tensor twice": ([], [PLAIN, PLAIN], {}, "tensor 't' is listed twice"),
    "many axes": ([], [gguf_tensor("t", (1,) * 9, 0, 0)], {}, "has 9 axes"),
    "no such type": ([], [gguf_tensor("t", (8,), 4, 0)], {}, "the unknown type 4"),
    "half a block": ([], [gguf_tensor("t", (16, 2), 2, 0)], {}, "impossible shape [2, 16]"),
    "absurd shape": ([], [gguf_tensor("t", (2**40, 2**40), 0, 0)], {}, "impossible shape"),
    "absurd axis": ([], [gguf_tensor("t", (2**60, 0), 0, 0)], {}, "impossible shape"),
    "overlap": ([], [PLAIN, gguf_tensor("u", (8,), 0, 4)], {}, "overlaps the one before it"),
    "beyond the end": ([], [gguf_tensor("t", (8,), 0, 2**40)], {}, "was cut short"),
    "another original shape": ([SHAPE + struct.pack("<2i", 3, 3)], [PLAIN], {}, "and a note says [3, 3]"),
    "a negative original shape": (
        [SHAPE + struct.pack("<2i", -2, -4)],
        [PLAIN],
        {},
        "and a note says [-2, -4]",
    ),
    "alignment": ([word("general.alignment") + struct.pack("<II", 4, 0)], [PLAIN], {}, "the alignment is 0"),
}


@pytest.mark.parametrize("case", BAD_GGUF)
def test_hostile_gguf(case: str, tmp_path: Path):
    values, tensors, more, words = BAD_GGUF[case]
    (text,) = inspect(gguf_file(tmp_path / "evil.gguf", values, tensors, **more)).problems[:1]
    assert text.startswith("evil.gguf: ")
    assert words in text
    assert "; " in text
    assert "\n" not in text


def test_a_gguf_header_has_an_end_even_in_a_file_without_one(tmp_path: Path):
    """A sparse file of 1 TB of zeros costs nothing, and is 2**37 empty strings."""
    endless = word("a") + struct.pack("<IIQ", 9, 8, 2**36)
    path = gguf_file(tmp_path / "evil.gguf", [endless], [])
    os.truncate(path, 2**40)
    assert "cannot fit" in refused(path)
    path = gguf_file(tmp_path / "long.gguf", [word("a") + struct.pack("<IQ", 8, 2**39)], [])
    os.truncate(path, 2**40)
    assert "runs past 32,000,000 bytes" in refused(path)


# --- random damage ------------------------------------------------------------------------------------------


def good_files(folder: Path) -> dict[str, Path]:
    tensors = {"spiece_model": torch.arange(9, dtype=torch.uint8), **files.umt5()}
    torch.save(tensors, folder / "good.pth")
    table = {name: (tuple(value.shape), 0, value.nbytes) for name, value in files.umt5().items()}
    return {
        "safetensors": files.save(folder / "good.safetensors", tensors),
        "pth": folder / "good.pth",
        "gguf": files.gguf(folder / "good.gguf", table, {"general.architecture": "t5", "tokens": ["a", "b"]}),
    }


def use(checkpoint: Checkpoint) -> None:
    checkpoint.load()
    checkpoint.spiece_model()


@pytest.mark.parametrize("container", ["safetensors", "gguf", "pth"])
def test_damaged_bytes_give_one_line_or_a_file_that_opens(container: str, tmp_path: Path):
    rng = random.Random(container)
    good = good_files(tmp_path)[container].read_bytes()
    path = tmp_path / f"damaged.{container}"
    # A zip's table lies at its end, the other headers at the beginning.
    places = [*range(min(len(good), 3000)), *range(max(0, len(good) - 2000), len(good))]
    refusals = 0
    for _ in range(120):
        damaged = bytearray(good)
        for place in rng.choices(places, k=rng.randint(1, 4)):
            damaged[place] = rng.choice((0, 0xFF, rng.randrange(256), damaged[place] ^ 1 << rng.randrange(8)))
        if rng.random() < 0.2:
            del damaged[rng.choice(places) :]
        path.write_bytes(damaged)
        json.dumps(inspect(path).to_dict())
        refusals += fault(lambda: use(open_checkpoint(path))) is not None
    assert 0 < refusals < 120
