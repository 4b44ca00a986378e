"""A look by name: the words, their places, and the limit."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from wan_core.aesthetic import CATEGORIES, FLAT_STYLES, MOST_TERMS, NONE, STYLE, TERMS, compose, look_of
from wan_core.errors import WanError
from wan_core.tiny.captions import LIGHT_WORDS

WEB = Path(__file__).resolve().parents[2] / "web" / "js"
WARM = {"color_tone": "warm colors"}
FILMED = {"style": "felt style", "shot_size": "close-up shot", **WARM}


@pytest.mark.parametrize(
    ("prompt", "choices", "finished"),
    [
        ("a cat sleeps", WARM, "a cat sleeps, warm colors"),
        ("A cat sleeps.", WARM, "A cat sleeps. Warm colors."),
        ('He says "no!"', WARM, 'He says "no!" Warm colors.'),
        ("A cat sleeps,\n", WARM, "A cat sleeps, warm colors"),
        ("一只猫在睡觉。", WARM, "一只猫在睡觉。 Warm colors."),
        ("A cat sleeps.", FILMED, "Felt style. A cat sleeps. Warm colors, close-up shot."),
        ("A cat sleeps.", {"style": "pixel art style"}, "Pixel art style. A cat sleeps."),
        ("A cat sleeps. ", {}, "A cat sleeps. "),
        ("A cat sleeps. ", {"style": NONE, "lens": NONE}, "A cat sleeps. "),
        ("a cat, Warm Colors, at noon", WARM, "a cat, Warm Colors, at noon"),
        # A word of another phrase is not that phrase.
        (
            "A cat, medium close-up shot.",
            {"shot_size": "close-up shot"},
            "A cat, medium close-up shot. Close-up shot.",
        ),
    ],
)
def test_what_is_said(prompt: str, choices: dict[str, str], finished: str) -> None:
    assert compose(prompt, choices) == finished


@pytest.mark.parametrize(
    "prompt", ["a cat sleeps", "A cat sleeps.", "A {red|blue} cat (big:1.2):", "", "e.g. x"]
)
def test_every_pair_is_said_once_and_in_one_order(prompt: str) -> None:
    for one, other in combinations(TERMS, 2):
        for a in one.phrases:
            choices = {other.name: other.phrases[-1], one.name: a, "style": "felt style"}
            finished = compose(prompt, choices)
            low = finished.lower()
            assert low.count(a.lower()) == low.count(other.phrases[-1].lower()) == 1
            assert low.index(a.lower()) < low.index(other.phrases[-1].lower())
            assert finished.startswith("Felt style.")
            assert prompt.strip() in finished
            assert compose(finished, choices) == finished


def test_four_terms_and_a_style_are_the_most() -> None:
    choices = {category.name: category.phrases[0] for category in TERMS[:MOST_TERMS]}
    assert compose("a cat", {**choices, "style": "felt style"}).count(",") == MOST_TERMS
    choices |= {"lens": "fisheye lens"}
    assert look_of(choices).over == ("fisheye lens",)
    with pytest.raises(WanError, match=r"5 terms.*at most 4.*set 1 of day time, .* and fisheye lens to none"):
        compose("a cat", choices)


@pytest.mark.parametrize("style", STYLE.phrases)
def test_flat_styles_take_no_terms(style: str) -> None:
    choices = {"style": style, **WARM, "angle": "Dutch angle shot"}
    if style in FLAT_STYLES:
        with pytest.raises(
            WanError, match=f"{style} is flat .* set warm colors and Dutch angle shot to none"
        ):
            compose("a cat", choices)
        assert look_of(choices).over == ("warm colors", "Dutch angle shot")
    else:
        assert compose("a cat", choices).endswith("warm colors, Dutch angle shot")


def test_the_card_draws_every_phrase() -> None:
    drawn = "".join((WEB / "shared" / name).read_text() for name in ("look.mjs", "figure.mjs"))
    phrases = [phrase for category in CATEGORIES for phrase in category.phrases]
    named = [phrase for phrase in phrases if f'"{phrase}"' in drawn or f"  {phrase}: " in drawn]
    assert named == phrases


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"mood": "sad"}, "^mood: there is no such category; there are style, time_of_day"),
        ({"lens": "wide"}, "^lens: 'wide' is not on its list; choose none, fisheye lens"),
        ({"lens": "x\n" * 900}, r"^lens: 'x\?x.{0,400}$"),
        ({"lens": ["fisheye lens"]}, "^lens: .* is not on its list"),
    ],
)
def test_what_is_not_on_a_list_is_refused(choices: dict[str, str], says: str) -> None:
    with pytest.raises(WanError, match=says):
        compose("a cat", choices)


def test_the_lists_are_sound() -> None:
    phrases = [phrase for category in CATEGORIES for phrase in category.phrases]
    assert len({phrase.casefold() for phrase in phrases}) == len(phrases)
    assert all(phrase == phrase.strip() and phrase.isascii() and phrase != NONE for phrase in phrases)
    # A comma or full stop inside would make two clauses of one phrase, which would then be said twice.
    assert not any(mark in phrase for phrase in phrases for mark in ".,;:!?")


def test_the_built_in_model_knows_the_word_for_warm() -> None:
    """The example compares "warm colors" with "cool colors" on wan-tiny, which knows words in lower case."""
    for tone in ("warm", "cool"):
        finished = compose("a red circle moves left", {"color_tone": f"{tone} colors"})
        assert f" {tone} " in finished
        assert any(f" {tone} " in words for words in LIGHT_WORDS[tone])
