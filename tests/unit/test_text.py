"""Prompt cleaning as recorded from the released code, and the tokenizer's ids, limits and refusals."""

from __future__ import annotations

import io
import json
import random
import sys

import pytest
import sentencepiece
import tokenizers
import torch

from wan_core.errors import WanError
from wan_core.text.cleaning import clean_prompt
from wan_core.text.tokenizer import Tokenizer

WORDS = "a red circle moves left, a blue square moves right, up, down, slowly, under warm light"


def train_spiece(pad=0, end=1, unknown=2):
    rng, model = random.Random(0), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(rng.choices(WORDS.split(), k=8)) for _ in range(300)]),
        model_writer=model,
        vocab_size=36,
        pad_id=pad,
        eos_id=end,
        unk_id=unknown,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def spiece():
    return train_spiece()


@pytest.fixture(scope="module")
def tokenizer(spiece):
    return Tokenizer.from_spiece(spiece)


def test_recorded_cleaning(root):
    cases = json.loads((root / "tests/parity/golden/clean_prompts.json").read_text("utf-8"))
    assert len(cases) == 14
    for case in cases:
        assert clean_prompt(case["raw"]) == case["cleaned"]


def test_encode_cleans_and_ends_with_eos(spiece, tokenizer):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    want = [*pieces.encode("a red circle"), 1]
    assert tokenizer.encode("a red circle") == want
    assert tokenizer.encode("  a\n red&#32;circle\u3000") == want
    assert tokenizer.encode(" ") == [1]
    assert tokenizer.vocab_size == 36


def test_batch_is_padded_on_the_right(tokenizer):
    ids, mask = tokenizer(["a red circle", ""])
    first = tokenizer.encode("a red circle")
    assert ids.shape == mask.shape == (2, 512)
    assert ids.dtype == mask.dtype == torch.int64
    assert ids[0].tolist() == first + [0] * (512 - len(first))
    assert mask.sum(1).tolist() == [len(first), 1]
    assert mask[0, : len(first)].all()
    assert ids[1, 0] == 1


@pytest.mark.parametrize(("words", "count"), [(511, 512), (512, 513), (600, 601)])
def test_long_prompts_are_truncated_and_can_be_told(tokenizer, words, count):
    prompt = " ".join(["a"] * words)
    assert len(tokenizer.encode("a")) == 2, "one token a word, for the counts above"
    assert tokenizer.count(prompt) == count
    assert tokenizer.encode(prompt) == [tokenizer.encode("a")[0]] * 511 + [1]


def test_every_source_gives_the_same_ids(spiece, tokenizer, tmp_path):
    (tmp_path / "spiece.model").write_bytes(spiece)
    (tmp_path / "json").mkdir()
    (tmp_path / "json/tokenizer.json").write_text(as_tokenizer_json(spiece), "utf-8")
    others = [
        Tokenizer.from_spiece(torch.frombuffer(bytearray(spiece), dtype=torch.uint8)),
        Tokenizer.from_path(tmp_path),
        Tokenizer.from_path(tmp_path / "spiece.model"),
        Tokenizer.from_path(tmp_path / "json"),
    ]
    for text in ("", "a blue square moves up slowly", "warm light " * 400, "unheard-of"):
        assert all(other.encode(text) == tokenizer.encode(text) for other in others)


def as_tokenizer_json(spiece):
    """What transformers makes of a sentencepiece model, with settings of its own that must not matter."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    scored = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.vocab_size())]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(scored, unk_id=2))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    made.enable_truncation(7)
    made.enable_padding(length=9)
    return made.to_str()


@pytest.mark.parametrize("content", [b"", b"no model at all", bytes(5)], ids=["empty", "text", "zeros"])
def test_a_foreign_file_is_refused_in_one_line(content, tmp_path):
    for name in ("spiece.model", "tokenizer.json"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WanError, match=rf"{name}: \d+ \w+ that are no .*google/umt5-xxl") as refusal:
            Tokenizer.from_path(tmp_path / name)
        assert "\n" not in str(refusal.value)


def test_a_truncated_model_is_refused(spiece):
    with pytest.raises(WanError, match="spiece_model: 200 bytes that are no sentencepiece model"):
        Tokenizer.from_spiece(spiece[:200])


def test_other_special_ids_are_refused():
    with pytest.raises(WanError, match=r"\(2, 1, 0\), UMT5's are \(0, 1, 2\)"):
        Tokenizer.from_spiece(train_spiece(pad=2, unknown=0))


def test_a_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(WanError, match=r"no spiece\.model or tokenizer.json here"):
        Tokenizer.from_path(tmp_path)


@pytest.mark.parametrize("package", ["sentencepiece", "ftfy"])
def test_a_missing_package_is_named(package, spiece, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WanError, match=f"pip install {package}"):
        Tokenizer.from_spiece(spiece).encode("a circle")
