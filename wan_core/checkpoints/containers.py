"""A model's files opened: which container each one is, by its first bytes, and one line for what is none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from ..errors import WanError
from .gguf import read_gguf_header
from .header import LONGEST_HEADER, Header, shown, shown_file
from .mapping import map_tensors
from .pth import load_pth_tensors, read_pth_header
from .safetensors import read_safetensors_header
from .shards import find_parts, join

START = 512
MOST_TENSORS = 50_000  # a quantized 14B model has about 4,000
# (position, bytes, what begins with them) of files that end up in models folders
_SIGNS = (
    (0, b"\x89PNG", "a picture (PNG)"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)"),
    (4, b"ftyp", "a video (MP4)"),
    (0, b"7z\xbc\xaf", "a 7z archive to be unpacked"),
    (0, b"Rar!", "a RAR archive to be unpacked"),
    (0, b"\x1f\x8b", "a gzip archive to be unpacked"),
)
ZIP = b"PK\x03\x04"


def read_header(path: str | Path) -> Header:
    """The table of contents of a model.

    `path` is its file, any of its shards (which stands for them all), their .index.json, or a folder that
    holds one model. Raises WanError, one line, for anything else.
    """
    path = Path(path)
    try:
        _check_exists(path)
        parts = find_parts(path)
        header = join([_read_file(file) for file in parts.files], parts)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if len(header.tensors) > MOST_TENSORS:
        raise WanError(
            f"{shown_file(path)}: {len(header.tensors):,} tensors, and no model or LoRA has more than "
            f"{MOST_TENSORS:,}; choose a file from a source you trust"
        )
    return header


def map_stored(header: Header, names: Iterable[str]) -> dict[str, Tensor]:
    """The named tensors as they are stored, mapped from the files and not copied.

    Plain dtypes come in the header's shape; GGUF's quantized blocks and packed numbers come as uint8
    (..., bytes per row), or (blocks, bytes per block) where a row is no whole number of blocks. Writing to a
    tensor changes this process's copy of the page, never the file. Raises WanError when a file was cut short.
    """
    for problem in header.problems:
        raise WanError(problem)
    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(header.tensors[name].file, []).append(name)
    tensors: dict[str, Tensor] = {}
    for file, inside in by_file.items():
        try:
            tensors |= (
                load_pth_tensors(file, inside)
                if header.container == "pth"
                else map_tensors(file, {name: header.tensors[name] for name in inside})
            )
        except (OSError, ValueError) as error:
            raise _unreadable(file, error) from None
    return tensors


def _unreadable(path: Path, error: OSError | ValueError) -> WanError:
    reason = getattr(error, "strerror", None) or "not a usable path"
    return WanError(f"{shown_file(path)}: cannot be read ({reason}); check the path and its permissions")


def _check_exists(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise WanError(f"{shown(str(path))}: is a symbolic link that leads to no file; give the file itself")
    if not path.exists():
        raise WanError(f"{shown(str(path))}: there is no such file; check the spelling and the folder")


def _read_file(path: Path) -> Header:
    if not path.is_file():
        raise WanError(f"{shown(str(path))}: is not a regular file; give a .safetensors file")
    with path.open("rb") as file:
        start = file.read(START)
    if foreign := _foreign(start, path.stat().st_size):
        raise WanError(f"{shown_file(path)}: {foreign}")
    if start.startswith(b"GGUF"):
        return read_gguf_header(path)
    return read_pth_header(path) if start.startswith(ZIP) else read_safetensors_header(path)


def _foreign(start: bytes, size: int) -> str | None:
    """What the file is instead of weights, and what to do; None when it may be weights."""
    # First, because the eight length bytes of a good file can look like the beginning of anything below.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER:
        return None
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "is empty (0 bytes); download it again"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return (
            f"is a web page of {size:,} bytes saved under this name; download the file itself, not the page "
            "about it (a gated model needs a login first)"
        )
    if start.startswith(b"version https://git-lfs"):
        return _lfs_pointer(start, size)
    if start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return (
            "is a PyTorch file of the form before 2020, which can hold code and is not opened; choose "
            "the .safetensors of this model, or save it anew from torch.load(file, weights_only=True)"
        )
    if text.startswith((b"{", b"[")):
        return f"is a text file (JSON) of {size:,} bytes, not weights; choose the .safetensors file itself"
    if what := next((what for at, sign, what in _SIGNS if start[at:].startswith(sign)), None):
        return f"is {what}, not weights; choose the .safetensors file itself"
    if size <= START and (words := _words(start)):
        return f"is {size} bytes of text ({shown(words)!r}), not weights; download the file again"
    return None


def _words(start: bytes) -> str | None:
    """What a short file says when it is text, as servers answer in place of a file."""
    try:
        words = start.decode().strip()
    except UnicodeDecodeError:
        return None
    return words if words.isprintable() else None


def _lfs_pointer(start: bytes, size: int) -> str:
    promised = re.search(rb"\nsize (\d{1,18})\b", start)
    stands_for = f" standing in for {int(promised.group(1)):,} bytes" if promised else ""
    return f"is a Git LFS pointer ({size:,} bytes of text{stands_for}); fetch the weights with `git lfs pull`"
