"""The tokenizer inside a text encoder's file: ComfyUI's uint8 tensor, or the words in GGUF's metadata."""

from __future__ import annotations

from ..errors import WanError
from ..text.spiece import BYTE, spiece_model
from .containers import map_stored
from .detect import SPIECE_MODEL
from .gguf import read_gguf_arrays
from .header import Header, shown_file

TOKENS, SCORES = "tokenizer.ggml.tokens", "tokenizer.ggml.scores"
TYPES, CHARSMAP = "tokenizer.ggml.token_type", "tokenizer.ggml.precompiled_charsmap"
NORMAL = 1
LARGEST_SCORE = 1e30
LONGEST_MODEL = 64_000_000  # bytes; that of google/umt5-xxl has 4.5 million


def stored_spiece_model(header: Header) -> bytes | None:
    """The serialized sentencepiece model; None when the file has none. WanError when it is damaged."""
    info = header.tensors.get(SPIECE_MODEL)
    if info is None:
        return _from_vocabulary(header) if header.container == "gguf" else None
    if info.dtype not in ("U8", "I8") or info.elements > LONGEST_MODEL:
        raise WanError(
            f"{shown_file(info.file)}: {SPIECE_MODEL} is {info.dtype} {list(info.shape)}, expected at most "
            f"{LONGEST_MODEL:,} bytes (U8); choose umt5_xxl_fp16.safetensors"
        )
    return map_stored(header, [SPIECE_MODEL])[SPIECE_MODEL].numpy().tobytes()


def _from_vocabulary(header: Header) -> bytes | None:
    path = next(iter(header.tensors.values())).file
    found = read_gguf_arrays(path, (TOKENS, SCORES, TYPES, CHARSMAP))
    if TOKENS not in found or SCORES not in found:
        return None
    tokens, scores, charsmap = found[TOKENS], found[SCORES], found.get(CHARSMAP, [])
    types = found.get(TYPES, [NORMAL] * len(tokens))
    sound = (
        len(tokens) == len(scores) == len(types)
        and all(isinstance(token, str) for token in tokens)
        and all(isinstance(score, float) and abs(score) < LARGEST_SCORE for score in scores)
        and all(type(kind) is int and NORMAL <= kind <= BYTE for kind in types)
        and all(type(byte) is int for byte in charsmap)
    )
    if not sound:
        raise WanError(
            f"{shown_file(path)}: the tokenizer in its metadata is damaged ({len(tokens):,} tokens, "
            f"{len(scores):,} scores, {len(types):,} types, expected as many of each and sound ones); "
            "download it again"
        )
    return spiece_model(
        tokens,
        scores,
        types,
        bytes(byte % 256 for byte in charsmap),  # some writers keep the bytes as signed numbers
        space_before=_flag(header, "tokenizer.ggml.add_space_prefix"),
        trim_spaces=_flag(header, "tokenizer.ggml.remove_extra_whitespaces"),
    )


def _flag(header: Header, key: str) -> bool:
    return header.metadata.get(key, "True") == "True"
