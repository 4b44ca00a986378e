"""A file named on another machine, found in this one's list: folders and slashes may differ, the name not."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import WanError, shown


def local_name(name: str, files: Iterable[str]) -> str:
    """The listed file that `name` means: itself, with either slash, else the only one of its base name.

    files: relative names, with / or \\ between folders. Raises WanError where none or several are called so.
    """
    found = named_alike(name, files)
    if not found:
        called = shown(_parts(name)[-1])
        raise WanError(
            f"{shown(name)}: no file in the list is called {called}; choose another or refresh the list"
        )
    if len(found) > 1:
        several = " and ".join(shown(file) for file in found)
        raise WanError(f"{shown(name)}: {several} are called so; choose the one that is meant")
    return found[0]


def named_alike(name: str, files: Iterable[str]) -> list[str]:
    """What of `files` may be meant by `name`: those of its base name, or the one that has its folders too."""
    wanted = _parts(name)
    called_so = [file for file in files if _parts(file)[-1] == wanted[-1]]
    same = [file for file in called_so if _parts(file) == wanted]
    return [name] if name in same else same or called_so


def _parts(name: str) -> list[str]:
    return re.split(r"[\\/]", name)
