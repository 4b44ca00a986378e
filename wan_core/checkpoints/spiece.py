"""The tokenizer inside a text encoder's file: ComfyUI's uint8 tensor, or the words in GGUF's metadata."""

from __future__ import annotations

from ..errors import WanError
from ..text.spiece import spiece_model
from .containers import map_stored
from .detect import SPIECE_MODEL
from .gguf import read_gguf_arrays
from .header import Header, shown_file

TOKENS, SCORES = "tokenizer.ggml.tokens", "tokenizer.ggml.scores"
TYPES, CHARSMAP = "tokenizer.ggml.token_type", "tokenizer.ggml.precompiled_charsmap"
NORMAL = 1


def stored_spiece_model(header: Header) -> bytes | None:
    """The serialized sentencepiece model; None when the file has none."""
    if SPIECE_MODEL in header.tensors:
        return map_stored(header, [SPIECE_MODEL])[SPIECE_MODEL].numpy().tobytes()
    return _from_vocabulary(header) if header.container == "gguf" else None


def _from_vocabulary(header: Header) -> bytes | None:
    path = next(iter(header.tensors.values())).file
    found = read_gguf_arrays(path, (TOKENS, SCORES, TYPES, CHARSMAP))
    if TOKENS not in found or SCORES not in found:
        return None
    tokens, scores = found[TOKENS], found[SCORES]
    types = found.get(TYPES, [NORMAL] * len(tokens))
    numbers = (*scores, *types, *found.get(CHARSMAP, []))
    if len({len(tokens), len(scores), len(types)}) > 1 or any(isinstance(value, str) for value in numbers):
        raise WanError(
            f"{shown_file(path)}: {len(tokens):,} tokens, {len(scores):,} scores and {len(types):,} types in "
            "its tokenizer, expected as many of each; download it again"
        )
    return spiece_model(
        [str(token) for token in tokens],
        [float(score) for score in scores],
        [int(kind) for kind in types],
        bytes(int(value) % 256 for value in found.get(CHARSMAP, [])),
        space_before=_flag(header, "tokenizer.ggml.add_space_prefix"),
        trim_spaces=_flag(header, "tokenizer.ggml.remove_extra_whitespaces"),
    )


def _flag(header: Header, key: str) -> bool:
    return header.metadata.get(key, "True") == "True"
