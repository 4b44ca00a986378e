"""A sentencepiece model written from a vocabulary, as GGUF text encoders carry it in their metadata.

The fields and their numbers are those of sentencepiece_model.proto; only what a tokenizer needs is written.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

BYTE = 6  # the type of a piece that stands for one byte; 1 to 5: normal, unknown, control, user's, unused
UNIGRAM = 1
_VARINT, _BYTES, _FLOAT = 0, 2, 5


def spiece_model(
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    charsmap: bytes = b"",
    *,
    space_before: bool = True,
    trim_spaces: bool = True,
) -> bytes:
    """The serialized model.

    Args:
        tokens, scores, types: one of each per id
        charsmap: the compiled normalisation rules; b"" for none
        space_before: put a space before the first word
        trim_spaces: drop spaces at the ends and repeated ones
    """
    pieces = b"".join(
        _field(
            1,
            _field(1, token.encode()) + _key(2, _FLOAT) + struct.pack("<f", score) + _number(3, kind),
        )
        for token, score, kind in zip(tokens, scores, types, strict=True)
    )
    trainer = _number(3, UNIGRAM) + _number(4, len(tokens)) + _number(35, BYTE in types)
    normalizer = _field(2, charsmap) + _number(3, space_before) + _number(4, trim_spaces) + _number(5, True)
    return pieces + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _key(number, _VARINT) + _varint(int(value))


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the eighth says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
