"""The tokenizer that goes with a text encoder: inside its file, or in a folder beside it."""

from __future__ import annotations

from ..errors import WanError
from ..text.tokenizer import Tokenizer
from .checkpoint import Checkpoint
from .configs import umt5_config

# Beside the file, or beside its folder: google/umt5-xxl as released, tokenizer as diffusers has it.
FOLDERS = ("", "tokenizer", "google/umt5-xxl", "umt5-xxl")
NAMES = ("spiece.model", "tokenizer.json")


def tokenizer_of(text_encoder: Checkpoint) -> Tokenizer:
    """The tokenizer that goes with a text encoder. Raises WanError that asks for one when there is none.

    T5's tokenizer looks the same and has an eighth of UMT5's words: its ids would be those of other words.
    """
    tokenizer, rows = _found(text_encoder), umt5_config(text_encoder.header).vocab_size
    if tokenizer.vocab_size < rows // 2:
        raise WanError(
            f"{text_encoder.file}: knows {rows:,} tokens and the tokenizer with it {tokenizer.vocab_size:,}: "
            "it is another model's, such as T5's; use spiece.model of google/umt5-xxl"
        )
    return tokenizer


def _found(text_encoder: Checkpoint) -> Tokenizer:
    spiece = text_encoder.spiece_model()
    if spiece is not None:
        return Tokenizer.from_spiece(spiece, text_encoder.file)
    folder = text_encoder.path if text_encoder.path.is_dir() else text_encoder.path.parent
    for place in (folder, folder.parent):
        for name in FOLDERS:
            # Not loose in the folder above: what lies there belongs to another model.
            if (name or place == folder) and any((place / name / file).is_file() for file in NAMES):
                return Tokenizer.from_path(place / name)
    raise WanError(
        f"{text_encoder.file}: holds no tokenizer, which turns words into numbers, and none lies beside it; "
        f"put spiece.model of google/umt5-xxl into {folder}, or choose umt5_xxl_fp16.safetensors, which has "
        "it inside"
    )
