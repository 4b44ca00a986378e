"""The UMT5 tokenizer: cleaned prompts to token ids, ended by </s>, padded or truncated to 512.

Source: wan/modules/tokenizers.py with google/umt5-xxl. Its options (normalisation, the space put before the
first word) are stored inside the sentencepiece model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import WanError
from .cleaning import clean_prompt

MAX_TOKENS = 512
PAD, END, UNKNOWN = 0, 1, 2


class Tokenizer:
    """Prompts to ids, for a sentencepiece model (`from_spiece`) or a tokenizer.json (`from_json`).

    Args:
        split: clean text to ids, without </s>
        vocab_size: number of ids; the encoder's embedding must have at least as many rows
    """

    def __init__(self, split: Callable[[str], list[int]], vocab_size: int) -> None:
        self._split = split
        self.vocab_size = vocab_size

    @classmethod
    def from_spiece(cls, model: bytes | Tensor, source: str = "spiece_model") -> Tokenizer:
        """From a serialized sentencepiece model, or the uint8 tensor (N,) of it in ComfyUI's text encoders.

        Raises WanError, naming `source`, when this is no such model or has other ids than UMT5's.
        """
        try:
            import sentencepiece
        except ImportError as error:
            raise WanError(
                f"{source}: needs the package sentencepiece, not installed; pip install sentencepiece"
            ) from error
        if isinstance(model, Tensor):
            model = model.cpu().numpy().tobytes()
        try:
            pieces = sentencepiece.SentencePieceProcessor()
            pieces.LoadFromSerializedProto(model)
        except (RuntimeError, ValueError) as error:
            raise WanError(
                f"{source}: {len(model)} bytes that are no sentencepiece model; "
                "use the spiece.model of google/umt5-xxl"
            ) from error
        _check_ids(source, pieces.pad_id(), pieces.eos_id(), pieces.unk_id())
        return cls(lambda text: pieces.encode(text, add_bos=False, add_eos=False), pieces.vocab_size())

    @classmethod
    def from_json(cls, text: str, source: str = "tokenizer.json") -> Tokenizer:
        """From the content of a Hugging Face tokenizer.json; raises WanError as `from_spiece` does."""
        try:
            import tokenizers
        except ImportError as error:
            raise WanError(
                f"{source}: needs the package tokenizers, not installed; pip install tokenizers"
            ) from error
        try:
            tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # all that the package raises
            raise WanError(
                f"{source}: {len(text)} characters that are no tokenizer.json; use that of google/umt5-xxl"
            ) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        _check_ids(source, *(tokenizer.token_to_id(token) for token in ("<pad>", "</s>", "<unk>")))
        return cls(
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.get_vocab_size()
        )

    @classmethod
    def from_path(cls, path: Path) -> Tokenizer:
        """From a spiece.model or tokenizer.json file, or a folder that holds one of them."""
        names = ("spiece.model", "tokenizer.json")
        files = [path / name for name in names] if path.is_dir() else [path]
        for file in filter(Path.is_file, files):
            if file.suffix == ".json":
                return cls.from_json(file.read_text("utf-8"), str(file))
            return cls.from_spiece(file.read_bytes(), str(file))
        raise WanError(f"{path}: no {' or '.join(names)} here; copy it from google/umt5-xxl")

    def count(self, text: str) -> int:
        """Tokens of a prompt with its </s>, before truncation: above MAX_TOKENS, `encode` drops the rest."""
        return len(self._split(clean_prompt(text))) + 1

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt, 1 to 512 of them, the last one </s>; what lies beyond is dropped, as released."""
        return [*self._split(clean_prompt(text))[: MAX_TOKENS - 1], END]

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Prompts to ids (B, 512) and mask (B, 512), both int64; the mask is 1 on the ids of the prompt."""
        ids = torch.full((len(texts), MAX_TOKENS), PAD)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            tokens = self.encode(text)
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return ids, mask


def _check_ids(source: str, *found: int | None) -> None:
    if found != (PAD, END, UNKNOWN):
        raise WanError(
            f"{source}: its pad, </s> and unknown ids are {found}, UMT5's are {(PAD, END, UNKNOWN)}; "
            "use the tokenizer of google/umt5-xxl"
        )
