"""Writes locales/en/nodeDefs.json, the texts of every node as its schema has them; locales/zh is by hand.

python -m tests.comfyui.write_locales     (it lists the texts that changed, to mend in locales/zh)
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .comfy_server import ROOT, ComfyServer, find_comfyui

LOCALES = ROOT / "locales"
PACK = "custom_nodes.wancore"


def texts_of(object_info: dict[str, Any]) -> dict[str, Any]:
    """What /object_info says of our nodes in words, laid out as ComfyUI's translations are."""
    return {name: _texts(node) for name, node in object_info.items() if node["python_module"] == PACK}


def read_locale(language: str) -> dict[str, Any]:
    """A language's nodeDefs.json."""
    return json.loads((LOCALES / language / "nodeDefs.json").read_text("utf-8"))


def texts_in(tree: dict[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a locale with the keys that lead to it."""
    for key, value in tree.items():
        if isinstance(value, str):
            yield f"{place}.{key}", value
        else:
            yield from texts_in(value, f"{place}.{key}")


def _texts(node: dict[str, Any]) -> dict[str, Any]:
    groups = node["input"]
    inputs = {**groups.get("required", {}), **groups.get("optional", {})}
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {
            name: {"name": spec[1].get("display_name", name), "tooltip": spec[1]["tooltip"]}
            for name, spec in inputs.items()
        },
        "outputs": {
            str(place): {"name": name, "tooltip": tooltip} for place, (name, tooltip) in enumerate(outputs)
        },
    }


def main() -> None:
    """Ask a server of this tree, write the file and say what changed."""
    comfyui = find_comfyui()
    assert comfyui is not None, "no ComfyUI: set COMFYUI_PATH to its folder"
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(comfyui, Path(folder))
        try:
            server.start()
            texts = texts_of(server.get("/object_info"))
        finally:
            server.stop()
    path = LOCALES / "en" / "nodeDefs.json"
    before, after = set(texts_in(read_locale("en"))), set(texts_in(texts))
    sys.stdout.writelines(f"{place[1:]}\n" for place in sorted({place for place, _ in before ^ after}))
    path.write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
