"""Imports go one way, down the list below, and only nodes/ knows that ComfyUI exists."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

# Each layer imports from the layers above it in this list, and from its own package.
LAYERS = (
    ("types", "errors"),
    ("aesthetic", "attention", "quantization", "memory", "text", "media"),
    ("models",),
    ("variants",),
    ("lora", "speed"),
    ("checkpoints",),
    ("schedulers",),
    ("sampling",),
    ("request", "presets", "placement"),
    ("pipeline", "story"),
    ("tiny",),
    ("__main__",),
    ("nodes",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# The built-in model is chosen at the outermost edge only; nothing between may know that it exists.
MAY_IMPORT_TINY = ("tiny", "__main__", "nodes")
COMFYUI = (
    "app",
    "comfy",
    "comfy_aimdo",
    "comfy_api",
    "comfy_api_nodes",
    "comfy_execution",
    "comfy_extras",
    "comfy_kitchen",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
)


def layer_of(module: tuple[str, ...]) -> str:
    """('wan_core', 'models', 'umt5') -> 'models'; ('nodes', 'sampler') -> 'nodes'."""
    return module[0] if module[0] != "wan_core" else (module[1] if len(module) > 1 else "wan_core")


def imports(path: Path, root: Path):
    """(line, level, absolute module parts) of every import; relative ones are resolved from the root."""
    package = path.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, 0, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = base + tuple((node.module or "").split(".")) if node.module else base
            # `from . import x` and `from ..models import x` may name a module: then x counts.
            for alias in node.names:
                yield node.lineno, node.level, (*stem, alias.name) if node.level else stem


def sources(root: Path):
    yield root / "__init__.py"
    for folder in ("wan_core", "nodes"):
        yield from sorted((root / folder).rglob("*.py"))


def wrong_arrow(home: str, target: str) -> str | None:
    if home not in RANK or target not in RANK:
        return f"{home} imports {target}: one of them is in no layer of this test"
    if home != target and RANK[target] >= RANK[home]:
        return f"{home} may not import {target}"
    if target == "tiny" and home not in MAY_IMPORT_TINY:
        return f"{home} may not know the built-in model"
    return None


def test_arrows_point_one_way(root):
    wrong = []
    for path in sources(root):
        home = layer_of(path.relative_to(root).with_suffix("").parts)
        if path.name == "__init__.py" and path.parent in (root, root / "wan_core"):
            continue  # the two doors; what they may hold has its own test
        for line, level, module in imports(path, root):
            fault = wrong_arrow(home, layer_of(module)) if level else None
            if fault:
                wrong.append(f"{path.relative_to(root)}:{line}: {fault}")
    assert not wrong, "\n".join(wrong)


def test_inside_the_pack_imports_are_relative(root):
    """ComfyUI loads a pack under a path for a name: there `import wan_core` fails or finds another pack's."""
    wrong = [
        f"{path.relative_to(root)}:{line}: import {'.'.join(module)}"
        for path in sources(root)
        for line, level, module in imports(path, root)
        if level == 0 and module[0] == "wan_core"
    ]
    assert not wrong, "\n".join(wrong)


def test_only_nodes_import_comfyui(root):
    wrong = [
        f"{path.relative_to(root)}:{line}: import {'.'.join(module)}"
        for path in sorted((root / "wan_core").rglob("*.py"))
        for line, level, module in imports(path, root)
        if level == 0 and module[0] in COMFYUI
    ]
    assert not wrong, "\n".join(wrong)


def test_the_door_to_comfyui_is_light(root):
    """The root __init__.py holds WEB_DIRECTORY and comfy_entrypoint; what is heavy waits in the function."""
    tree = ast.parse((root / "__init__.py").read_text("utf-8"))
    modules = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert all(
        isinstance(node, ast.ImportFrom) and node.module in ("__future__", "typing") for node in modules
    )


@pytest.mark.parametrize(
    ("home", "target", "allowed"),
    [
        ("sampling", "schedulers", True),
        ("schedulers", "sampling", False),
        ("models", "checkpoints", False),
        ("media", "text", False),
        ("pipeline", "tiny", False),
        ("__main__", "tiny", True),
        ("errors", "models", False),
        ("models", "utils", False),
    ],
)
def test_the_rule_itself(home, target, allowed):
    assert (wrong_arrow(home, target) is None) is allowed


def test_every_module_imports_without_comfyui_and_without_test_packages(root):
    script = """
import importlib, pkgutil, sys
for absent in sys.argv[1].split():
    sys.modules[absent] = None
import wan_core
for module in pkgutil.walk_packages(wan_core.__path__, "wan_core."):
    importlib.import_module(module.name)
"""
    absent = " ".join((*COMFYUI, "diffusers", "pytest", "ruff"))
    command = [sys.executable, "-c", script, absent]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert answer.stdout == "", "importing must not print"
