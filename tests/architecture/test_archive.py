"""What the registry's archive holds: the tree's files less those of `.comfyignore`."""

from __future__ import annotations

import subprocess
from pathlib import PurePosixPath

import pytest

from .test_registry_rules import SHIPPED


@pytest.fixture
def archive(root):
    """The paths a published version has."""
    every, left_out = (
        set(_listed(root, *options)) for options in ([], ["--ignored", "--exclude-from", ".comfyignore"])
    )
    assert left_out & every, ".comfyignore leaves nothing out"
    return every - left_out


def test_it_holds_all_that_comfyui_looks_for(archive, root):
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"} <= archive
    for folder, suffix in {
        "example_workflows": ".json",
        "example_workflows/api": ".json",
        "subgraphs": ".json",
        "locales/en": ".json",
        "locales/zh": ".json",
        "web/js": ".js",
        "web/docs": ".md",
    }.items():
        there = {path.relative_to(root).as_posix() for path in (root / folder).glob(f"*{suffix}")}
        assert there, folder
        assert there <= archive, f"{sorted(there - archive)} are left out"


def test_every_help_page_has_a_small_picture_of_its_node(archive, root):
    sizes = {}
    for page in (root / "web" / "docs").glob("WanCore*.md"):
        picture = f"pictures/{page.stem}.jpg"
        assert f"({picture})" in page.read_text(), page.name
        assert f"web/docs/{picture}" in archive
        sizes[picture] = (page.parent / picture).stat().st_size
    assert max(sizes.values()) < 60_000
    assert sum(sizes.values()) < 2_000_000


def test_code_is_only_where_the_rules_for_shipped_code_look(archive):
    code = {path for path in archive if path.endswith((".py", ".js", ".mjs", ".svg", ".sh"))}
    assert {path for path in code if path.split("/")[0] not in SHIPPED} == set()


def test_tests_and_benchmarks_stay_at_home(archive):
    assert not [path for path in archive if PurePosixPath(path).parts[0] in ("tests", "bench", ".ci")]


def _listed(root, *options):
    # With -z names with spaces stay as they are.
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *options]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return [name for name in answer.stdout.split("\0") if name]
