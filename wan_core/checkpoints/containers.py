"""Which container a file is, by its first bytes, and one line for the many things that are none."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import WanError
from .gguf import read_gguf_header
from .header import Header, shown, shown_file
from .safetensors import LONGEST_HEADER, read_safetensors_header

START = 512


def read_header(path: str | Path) -> Header:
    """The table of contents of a weight file. Raises WanError, one line, for anything that has none."""
    path = Path(path)
    try:
        start = _first_bytes(path)
        foreign = _foreign(start, path.stat().st_size)
        if foreign:
            raise WanError(f"{shown_file(path)}: {foreign}")
        return read_gguf_header(path) if start.startswith(b"GGUF") else read_safetensors_header(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise WanError(
            f"{shown_file(path)}: cannot be read ({reason}); check the path and its permissions"
        ) from None


def _first_bytes(path: Path) -> bytes:
    if not path.exists():
        raise WanError(f"{shown(str(path))}: there is no such file; check the spelling and the folder")
    if path.is_dir():
        raise WanError(f"{shown(str(path))}: is a folder; give one weight file (.safetensors) inside it")
    if not path.is_file():
        raise WanError(f"{shown(str(path))}: is not a regular file; give a .safetensors file")
    with path.open("rb") as file:
        return file.read(START)


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
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return (
            "is a PyTorch archive (.pth, .pt) or another zip, which can hold code and is not opened; choose "
            "the .safetensors of this model, or convert the file once with torch.load(weights_only=True)"
        )
    if text.startswith((b"{", b"[")):
        return f"is a text file (JSON) of {size:,} bytes, not weights; choose the .safetensors file itself"
    return None


def _lfs_pointer(start: bytes, size: int) -> str:
    promised = re.search(rb"\nsize (\d{1,18})\b", start)
    stands_for = f" standing in for {int(promised.group(1)):,} bytes" if promised else ""
    return f"is a Git LFS pointer ({size:,} bytes of text{stands_for}); fetch the weights with `git lfs pull`"
