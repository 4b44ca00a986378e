"""WanCore, a ComfyUI node pack. ComfyUI imports this file; everything else is imported when it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import WanCoreExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> WanCoreExtension:
    """What ComfyUI calls once at start-up to get the nodes."""
    from .nodes import WanCoreExtension

    return WanCoreExtension()
