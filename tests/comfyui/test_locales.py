"""The translations: English is what the schemas say, Chinese says as much, and ComfyUI offers both.

pytest tests/comfyui/test_locales.py
"""

from __future__ import annotations

import re

import pytest

from .comfy_server import ComfyServer
from .write_locales import read_locale, texts_in, texts_of

LANGUAGES = ("en", "zh")
# Names that stay as they are in any language.
SAME = ("Latent", "VAE")


@pytest.mark.comfy
def test_english_is_what_the_schemas_say(server: ComfyServer) -> None:
    found = texts_of(server.get("/object_info"))
    assert read_locale("en") == found, "python -m tests.comfyui.write_locales, then mend locales/zh"


@pytest.mark.comfy
def test_comfyui_offers_both(server: ComfyServer) -> None:
    offered = server.get("/i18n")
    for language in LANGUAGES:
        texts = read_locale(language)
        assert len(texts) > 10
        assert {name: offered[language]["nodeDefs"][name] for name in texts} == texts


def test_chinese_has_every_text() -> None:
    english, chinese = dict(texts_in(read_locale("en"))), dict(texts_in(read_locale("zh")))
    assert list(chinese) == list(english)
    latin = [place for place, text in chinese.items() if not re.search(r"[\u4e00-\u9fff]", text)]
    assert [place for place in latin if chinese[place] not in SAME] == []


def test_chinese_names_the_same_numbers() -> None:
    """A number that changed in a tooltip must change in its translation."""
    english, chinese = dict(texts_in(read_locale("en"))), dict(texts_in(read_locale("zh")))
    numbers = r"\d+(?:\.\d+)?"
    unlike = [
        place
        for place, text in english.items()
        if not set(re.findall(numbers, text)) <= set(re.findall(numbers, chinese[place]))
    ]
    assert unlike == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_front_end_reads_no_syntax_into_it(language: str) -> None:
    """In its messages { } @ and | mean something."""
    assert [place for place, text in texts_in(read_locale(language)) if re.search(r"[{}@|]", text)] == []
