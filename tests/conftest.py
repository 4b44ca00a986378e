"""What every test stands on: the project root, to import `wan_core` from.

ComfyUI is never imported here: the tests in tests/comfyui start it as a server with its own Python.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Also for `python -m pytest tests/some/test_file.py` from anywhere, and for subprocesses through `root`. The
# queue clients are found as a script beside them finds them.
for folder in (ROOT / "example_workflows" / "api", ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project: what a user clones."""
    return ROOT
