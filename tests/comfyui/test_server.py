"""The pack in a real ComfyUI: it loads, and its nodes look as they always did.

pytest tests/comfyui/test_server.py
"""

from __future__ import annotations

import pytest

from .comfy_server import ComfyServer

pytestmark = pytest.mark.comfy


def test_the_pack_is_imported_without_complaint(server: ComfyServer) -> None:
    # ComfyUI goes on without a pack that fails and exits with 0, so its log is the only witness.
    log = server.log_text()
    assert "IMPORT FAILED" not in log
    assert "Error while calling comfy_entrypoint" not in log
    assert "wancore" in log
