"""The one exception this library raises for things its user can mend."""

from __future__ import annotations


class WanError(Exception):
    """One line that names the file or field, says what is wrong, and what to do about it."""
