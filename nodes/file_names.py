"""Files as a graph from another machine names them: other folders, the other slash."""

from __future__ import annotations

from ..wan_core.checkpoints import named_alike


class FileNames(list[str]):
    """A loader's options, which hold a name also where a file of this base name lies in another folder.

    ComfyUI refuses a value that is not in the options, and takes their word for it. A name that several files
    have is let through: the loader refuses it by naming them, which ComfyUI would not.
    """

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(named_alike(name, self))
