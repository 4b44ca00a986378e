"""The one exception this library raises for things its user can mend, and how it shows a stranger's words."""

from __future__ import annotations

LONGEST_SHOWN = 96


class WanError(Exception):
    """One line that names the file or field, says what is wrong, and what to do about it."""


def shown(text: str) -> str:
    """A name from a file nobody has vetted, fit for one line of a message: printable and not endless."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= LONGEST_SHOWN else printable[:LONGEST_SHOWN] + "..."
