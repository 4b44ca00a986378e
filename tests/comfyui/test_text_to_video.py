"""The example workflow through a real ComfyUI's queue.

pytest tests/comfyui/test_text_to_video.py
"""

from __future__ import annotations

from typing import Any

import pytest

from .comfy_server import ComfyServer

pytestmark = pytest.mark.comfy


def test_the_example_becomes_an_mp4(server: ComfyServer, text_to_video: dict[str, Any]) -> None:
    run = server.run(text_to_video)
    assert run.ok, run.entry["status"]
    print(run.outputs)
    print([e for e in run.events("progress")][:4])
