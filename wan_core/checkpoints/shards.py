"""Models in several files: shards with or without their index, and folders that hold one model.

The parts find each other by name (`model-00001-of-00006.safetensors`, `model.safetensors.index.json`), as
every program writes them. What is in them is never taken from a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import WanError
from .header import Header, TensorInfo, listed, shown, shown_file

INDEX = ".index.json"
LONGEST_INDEX = 20_000_000  # bytes; a 14B model's has about 120 kB
MOST_SHARDS = 10_000
SUFFIXES = (".safetensors", ".gguf", ".pth", ".pt", ".bin")
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Parts:
    """The files of one model, and the index that says which tensor is in which, if there is one."""

    files: tuple[Path, ...]
    index: Path | None = None


def find_parts(path: Path) -> Parts:
    """Every file of the model that `path` is: itself, one of its shards, an index, or the folder of one."""
    if path.is_dir():
        return find_parts(_only_model(path))
    if path.name.endswith(INDEX):
        files = sorted(set(weight_map(path).values()))
        return Parts(_present([path.parent / name for name in files], path), path)
    shard = _SHARD.match(path.name)
    if shard is None:
        return Parts((path,))
    index = path.parent / f"{shard['stem']}{shard['suffix']}{INDEX}"
    if index.is_file() and path.name in weight_map(index).values():
        return find_parts(index)
    count = int(shard["count"])
    if not 0 < int(shard["number"]) <= count <= MOST_SHARDS:
        raise WanError(
            f"{shown_file(path)}: by its name part {shard['number']} of {shard['count']}, which cannot be; "
            "give it the name it was published under"
        )
    names = [f"{shard['stem']}-{n:05}-of-{shard['count']}{shard['suffix']}" for n in range(1, count + 1)]
    return Parts(_present([path.parent / name for name in names], path))


def join(headers: list[Header], parts: Parts) -> Header:
    """One header over all parts. Raises WanError when two of them hold the same tensor."""
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    for header in headers:
        for name, info in header.tensors.items():
            if name in tensors:
                raise WanError(
                    f"{shown_file(info.file)}: tensor {shown(name)!r} is in {shown_file(tensors[name].file)} "
                    "too; download the model again into an empty folder"
                )
            tensors[name] = info
        metadata = {**header.metadata, **metadata}
    containers = sorted({header.container for header in headers})
    if len(containers) > 1:
        raise WanError(
            f"{shown_file(parts.files[0])}: the parts of this model are {' and '.join(containers)}, expected "
            "one kind; download the model again into an empty folder"
        )
    problems = [problem for header in headers for problem in header.problems]
    problems += _misplaced(tensors, parts.index) if parts.index else []
    return Header(containers[0], tensors, metadata, tuple(problems))


def _misplaced(tensors: Mapping[str, TensorInfo], index: Path) -> list[str]:
    """A line when an index and its shards differ."""
    places = weight_map(index)
    found = {name: tensors[name].file.name if name in tensors else "none of them" for name in places}
    wrong = [name for name in places if found[name] != places[name]]
    if not wrong:
        return []
    return [
        f"{shown_file(index)}: {len(wrong):,} of {len(places):,} tensors are not where it says "
        f"({shown(wrong[0])}: expected in {shown(places[wrong[0]])}, found in {shown(found[wrong[0]])}); "
        "download the model again"
    ]


def weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file name, from an index; the names stay inside its folder."""
    file = shown_file(index)
    if not index.is_file():
        raise WanError(f"{file}: is not a regular file; download the index again")
    if index.stat().st_size > LONGEST_INDEX:
        raise WanError(f"{file}: an index of {index.stat().st_size:,} bytes; download it again")
    try:
        table = json.loads(index.read_bytes())
    except (ValueError, RecursionError):
        raise WanError(f"{file}: is no valid JSON, which an index is; download it again") from None
    places = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(places, dict) or not places:
        raise WanError(f"{file}: has no weight_map from tensors to files, as an index has; download it again")
    for name in places.values():
        if not isinstance(name, str) or not name or re.search(r"[\\/:\0]", name) or name in (".", ".."):
            raise WanError(
                f"{file}: points to {shown(str(name))!r}, expected the name of a file beside it; download "
                "the index again from a source you trust"
            )
    return places


def _only_model(folder: Path) -> Path:
    """The one model of a folder, by any of its files."""
    names = sorted(item.name for item in folder.iterdir() if item.name.lower().endswith(SUFFIXES))
    models: dict[str, Path] = {}
    for name in names:
        shard = _SHARD.match(name)
        models.setdefault(shard["stem"] + shard["suffix"] if shard else name, folder / name)
    # Hugging Face folders often hold the same weights once more in the older form.
    safe = {model: path for model, path in models.items() if not model.endswith(".bin")}
    models = safe or models
    if not models:
        inside = sorted(item.name for item in folder.iterdir() if item.is_dir())
        hint = f" (folders in it: {listed(inside)})" if inside else ""
        raise WanError(
            f"{shown(str(folder))}: is a folder without weight files{hint}; choose a file, or the folder "
            "that holds the .safetensors"
        )
    if len(models) > 1:
        raise WanError(
            f"{shown(str(folder))}: is a folder of {len(models)} models ({listed(list(models))}); choose one"
        )
    return next(iter(models.values()))


def _present(files: list[Path], path: Path) -> tuple[Path, ...]:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise WanError(
            f"{shown_file(path)}: {len(missing)} of the {len(files)} files of this model are missing "
            f"({listed(missing)}); download them into the same folder"
        )
    return tuple(files)
