"""The tokenizer of a text encoder: in its tensors, in GGUF metadata, in a folder beside it, or asked for."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor

from tests.unit import checkpoint_files as files
from wan_core.checkpoints import inspect, open_checkpoint, readable, tokenizer_of
from wan_core.checkpoints.gguf import read_gguf_arrays
from wan_core.errors import WanError
from wan_core.text.tokenizer import Tokenizer

TINY = Path(__file__).resolve().parents[2] / "wan_core/tiny/weights/text_encoders/wan_tiny_umt5.safetensors"
PROMPTS = (
    "a red circle moves left",
    "  Two  spaces,\tand ﬁne ligatures, ①②③ ｆｕｌｌ width ",
    "中文提示词 with emoji 🎬 and \x00 control",
    "",
)


@pytest.fixture(scope="module")
def spiece() -> bytes:
    return open_checkpoint(TINY).spiece_model()


def fields(message: bytes) -> list[tuple[int, bytes | int]]:
    """The fields of a protocol buffer message, one level deep: (number, content)."""
    at, found = 0, []

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            found.append((key >> 3, varint()))
        else:
            length = 4 if key & 7 == 5 else varint()
            found.append((key >> 3, message[at : at + length]))
            at += length
    return found


def gguf_encoder(path: Path, spiece: bytes, **changes: object) -> Path:
    """A toy encoder as a GGUF file by the gguf package, with the vocabulary of a sentencepiece model."""
    pieces = [dict(fields(content)) for number, content in fields(spiece) if number == 1]
    rules = dict(fields(dict(fields(spiece))[3]))
    table = {
        "tokens": [piece[1].decode() for piece in pieces],
        "scores": [struct.unpack("<f", piece[2])[0] for piece in pieces],
        "types": [piece.get(3, 1) for piece in pieces],
        "charsmap": rules[2],
        **changes,
    }
    writer = gguf.GGUFWriter(str(path), "t5encoder")
    writer.add_tokenizer_model("t5")
    writer.add_token_list(table["tokens"])
    writer.add_token_scores(table["scores"])
    writer.add_token_types(table["types"])
    writer.add_precompiled_charsmap(table["charsmap"])
    writer.add_add_space_prefix(bool(rules.get(3, 1)))
    writer.add_remove_extra_whitespaces(bool(rules.get(4, 1)))
    for name, value in files.renamed(files.umt5(), files.KEYMAPS["umt5"]["gguf"]).items():
        writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def plain_encoder(path: Path, **more: Tensor) -> Path:
    return files.save(path, {**files.renamed(files.umt5(), files.KEYMAPS["umt5"]["hf"]), **more})


def assert_same_ids(found: Tokenizer, spiece: bytes) -> None:
    expected = Tokenizer.from_spiece(spiece)
    assert found.vocab_size == expected.vocab_size
    assert [found.encode(prompt) for prompt in PROMPTS] == [expected.encode(prompt) for prompt in PROMPTS]


def test_inside_the_tensors(spiece: bytes):
    assert_same_ids(tokenizer_of(open_checkpoint(TINY)), spiece)


def test_the_vocabulary_in_gguf_metadata_gives_the_same_ids(spiece: bytes, tmp_path: Path):
    path = gguf_encoder(tmp_path / "umt5.gguf", spiece)
    assert_same_ids(tokenizer_of(open_checkpoint(path)), spiece)
    assert "its tokenizer is inside" in readable(inspect(path))


def test_the_arrays_of_gguf_metadata_are_those_the_gguf_package_reads(spiece: bytes, tmp_path: Path):
    path = gguf_encoder(tmp_path / "umt5.gguf", spiece)
    keys = ["tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "nothing"]
    reader = gguf.GGUFReader(str(path))
    assert read_gguf_arrays(path, keys) == {key: reader.get_field(key).contents() for key in keys[:3]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": [0.0]}, "1 scores"),
        ({"scores": [float("nan")] * 172}, "expected as many of each and sound ones"),
        ({"types": [-1] * 172}, "expected as many of each and sound ones"),
        ({"types": [7] * 172}, "expected as many of each and sound ones"),
        ({"tokens": ["x"] * 172}, "no sentencepiece model"),
    ],
)
def test_a_damaged_vocabulary_is_one_line(changes: dict, words: str, spiece: bytes, tmp_path: Path):
    path = gguf_encoder(tmp_path / "umt5.gguf", spiece, **changes)
    with pytest.raises(WanError, match=f"umt5.gguf: .*{words}.*; ") as caught:
        tokenizer_of(open_checkpoint(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "tokenizer"),
    [
        ("umt5.safetensors", "spiece.model"),
        ("umt5.safetensors", "tokenizer/spiece.model"),
        ("models_t5_umt5-xxl-enc-bf16.safetensors", "google/umt5-xxl/spiece.model"),
        ("text_encoder/model.safetensors", "tokenizer/spiece.model"),
    ],
)
def test_beside_the_file_as_the_known_releases_have_it(
    encoder: str, tokenizer: str, spiece: bytes, tmp_path: Path
):
    path = plain_encoder(tmp_path / encoder)
    (tmp_path / tokenizer).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / tokenizer).write_bytes(spiece)
    assert_same_ids(tokenizer_of(open_checkpoint(path)), spiece)
    if path.parent != tmp_path:
        assert_same_ids(tokenizer_of(open_checkpoint(path.parent)), spiece)


def test_a_file_without_one_asks_for_it(spiece: bytes, tmp_path: Path):
    path = plain_encoder(tmp_path / "models" / "umt5.safetensors")
    (tmp_path / "spiece.model").write_bytes(spiece)  # another model's, a folder above
    with pytest.raises(
        WanError, match=r"umt5.safetensors: holds no tokenizer.*put spiece.model of google/umt5"
    ):
        tokenizer_of(open_checkpoint(path))


def test_another_model_s_tokenizer_is_refused(spiece: bytes, tmp_path: Path):
    """Such as T5's beside UMT5: 32,100 tokens for 256,384."""
    encoder = {**files.umt5(), "token_embedding.weight": torch.zeros(1000, files.UMT5.dim)}
    path = files.save(tmp_path / "umt5.safetensors", encoder)
    (tmp_path / "spiece.model").write_bytes(spiece)
    with pytest.raises(
        WanError, match=r"umt5.safetensors: knows 1,000 tokens and the tokenizer with it 172:"
    ):
        tokenizer_of(open_checkpoint(path))


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "U8"])
def test_a_tokenizer_of_another_dtype_or_without_end_is_one_line(dtype: str, tmp_path: Path):
    table, end = {}, 0
    for name, value in files.umt5().items():
        table[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [end, end + value.nbytes]}
        end += value.nbytes
    table["spiece_model"] = {"dtype": dtype, "shape": [2**40], "data_offsets": [end, end]}
    width = 2 if dtype == "BF16" else 1
    table["spiece_model"]["data_offsets"][1] += width * 2**40
    path = files.raw_safetensors(tmp_path / "umt5.safetensors", table)
    os.truncate(path, path.stat().st_size + end + width * 2**40)
    with pytest.raises(
        WanError, match=rf"spiece_model is {dtype} \[1099511627776\], expected at most 64,000,000"
    ):
        tokenizer_of(open_checkpoint(path))


def test_a_tokenizer_that_is_none_is_one_line(tmp_path: Path):
    path = plain_encoder(tmp_path / "umt5.safetensors", spiece_model=torch.zeros(99, dtype=torch.uint8))
    with pytest.raises(WanError, match=r"umt5.safetensors: 99 bytes that are no sentencepiece model; use"):
        tokenizer_of(open_checkpoint(path))
