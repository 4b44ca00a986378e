"""One lint and one format for every Python file (ANN among the rules: every function is typed)."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", [["check"], ["format", "--check", "--diff"]], ids=["lint", "format"])
def test_ruff(root, command):
    ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", str(root)]
    answer = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
