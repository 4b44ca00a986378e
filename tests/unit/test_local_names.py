"""Files by base name and with either slash, as a graph from another machine names them."""

from __future__ import annotations

import re

import pytest

from wan_core.checkpoints import local_name, named_alike
from wan_core.errors import WanError

FILES = [
    "high.safetensors",
    "Wan2.2/low.safetensors",
    "one/vae.safetensors",
    "two/vae.safetensors",
    "w\\x.gguf",
]
# (a name in a graph, what it means here)
CASES = [
    ("high.safetensors", ["high.safetensors"]),
    ("Wan2.2\\high.safetensors", ["high.safetensors"]),
    ("other/folder/high.safetensors", ["high.safetensors"]),
    ("low.safetensors", ["Wan2.2/low.safetensors"]),
    ("Wan2.2\\low.safetensors", ["Wan2.2/low.safetensors"]),
    ("a\\b/low.safetensors", ["Wan2.2/low.safetensors"]),
    ("w/x.gguf", ["w\\x.gguf"]),
    ("two\\vae.safetensors", ["two/vae.safetensors"]),
    ("vae.safetensors", ["one/vae.safetensors", "two/vae.safetensors"]),
    ("three/vae.safetensors", ["one/vae.safetensors", "two/vae.safetensors"]),
    ("ow.safetensors", []),
    ("low", []),
    ("", []),
]


@pytest.mark.parametrize(("name", "meant"), CASES)
def test_what_a_name_may_mean(name: str, meant: list[str]) -> None:
    assert named_alike(name, FILES) == meant
    if len(meant) == 1:
        assert local_name(name, FILES) == meant[0]


def test_a_name_that_differs_in_its_slash_only_from_another_means_itself() -> None:
    assert local_name("a\\b.gguf", ["a/b.gguf", "a\\b.gguf"]) == "a\\b.gguf"


def test_none_is_refused_by_its_base_name() -> None:
    with pytest.raises(WanError, match=re.escape("a\\gone.gguf: no file in the list is called gone.gguf")):
        local_name("a\\gone.gguf", FILES)


def test_a_name_nobody_has_vetted_fits_one_line() -> None:
    with pytest.raises(WanError) as error:
        local_name("a\nb/" + "c" * 10_000, FILES)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_several_are_refused_by_naming_them() -> None:
    with pytest.raises(WanError, match=r"one/vae\.safetensors and two/vae\.safetensors are called so"):
        local_name("vae.safetensors", FILES)
