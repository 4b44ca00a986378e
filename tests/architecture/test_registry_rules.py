"""The ComfyUI registry flags a version that holds one of these strings, in comments too."""

from __future__ import annotations

import re
import subprocess

import pytest
import tomllib

SHIPPED = ("__init__.py", "nodes", "wan_core", "web")
IN_PYTHON = (
    r"\bsubprocess\b",
    r"\bos\.system\b",
    r"\bos\.environ\b",
    r"\bos\.getenv\b",
    r"\bpickle\b",
    r"(?<!\.)\beval\(",
    r"(?<!\.)\bexec\(",
    r"\bexec_module\b",
    r"\brequests\.",
    r"\burllib\b",
    r"\baiohttp\b",
    r"\bsocket\.",
    r"\bsqlite3?\b",
    r"\bmarshal\b",
    r"\bctypes\b",
    r"\.connect\(",
    r"\.bind\(",
)
IN_JAVASCRIPT = (r"\.connect\(", r"\.bind\(", r"\beval\(", r"\bnew Function\b", r"https?://")


def shipped_files(root, *suffixes):
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *SHIPPED],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return [root / name for name in listed.stdout.splitlines() if name.endswith(suffixes)]


@pytest.mark.parametrize(
    ("suffixes", "forbidden"),
    [((".py",), IN_PYTHON), ((".js", ".mjs", ".svg"), IN_JAVASCRIPT)],
    ids=["py", "js"],
)
def test_no_forbidden_string_is_shipped(root, suffixes, forbidden):
    rule = re.compile("|".join(forbidden))
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in shipped_files(root, *suffixes)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if rule.search(line)
    ]
    assert not found, "\n".join(found)


def test_weights_are_safetensors_only_and_small(root):
    risky = shipped_files(root, ".pt", ".pth", ".ckpt", ".pkl", ".bin", ".npy", ".npz")
    assert not risky, f"weights in a format that can run code: {risky}"
    weights = sum(path.stat().st_size for path in shipped_files(root, ".safetensors"))
    assert weights <= 40e6, f"{weights / 1e6:.1f} MB of built-in weights; at most 40"


def test_the_registry_reads_the_same_packages_as_the_manager(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    required = (root / "requirements.txt").read_text().split()
    assert required[0] == "torch", (
        "the Manager passes over the torch line; it comes first so that pip sees it"
    )
    assert sorted(required[1:]) == sorted(project["dependencies"])
    assert not any("==" in line or "<" in line for line in required), "upper pins break other packs"


def test_the_constraints_name_every_required_package(root):
    pinned = {line.split("==")[0].lower() for line in (root / "constraints.txt").read_text().splitlines()}
    wanted = (root / "requirements.txt").read_text() + (root / "tests/requirements.txt").read_text()
    names = {re.split(r"[<>=\[]", line)[0].lower() for line in wanted.splitlines() if line[:1].isalpha()}
    assert names <= pinned, f"no tested version for {sorted(names - pinned)}"
