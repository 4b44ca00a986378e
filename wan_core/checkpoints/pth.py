"""PyTorch's archive (.pth, .pt, .bin): a zip of a program and the tensors, opened with `weights_only=True`.

The program builds the table of tensors. torch's restricted reader runs none of it but that, and for a header
makes the tensors on the meta device, where they cost nothing.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import WanError
from .header import Header, TensorInfo, listed, shown, shown_file
from .mapping import DTYPES

LONGEST_PICKLE = 10_000_000  # bytes; a 14B model's has about 150 kB
LARGEST_TUPLE = 1000  # parts, those of its parts included; a tensor's description has about 20
WRAPPERS = ("state_dict", "model", "module")  # what training programs call the weights, beside an optimizer
WRAPPERS_DEEP = 3
DAMAGED = "the file is damaged; download it again"
_SPELLED = {dtype: name for name, dtype in DTYPES.items()}


def read_pth_header(path: Path) -> Header:
    """The tensors of a PyTorch archive. Raises WanError for code in it and for anything else than tensors.

    torch keeps the places to itself: `begin` is 0 and `end` the size.
    """
    _check_archive(path)
    state = _state_dict(_load(path, "meta"), path)
    size = path.stat().st_size
    return Header("pth", {name: _info(name, value, size, path) for name, value in state.items()})


def load_pth_tensors(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """The named tensors, mapped as those of the other containers are."""
    state = _state_dict(_load(path, "cpu"), path)
    return {name: state[name].detach() for name in names}


def _check_archive(path: Path) -> None:
    """Refuse what torch.save never writes, before torch's reader sees it."""
    file = shown_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            program = _pickle_of(archive, file)
    except WanError:
        raise
    except Exception as error:  # a damaged zip can make Python's reader raise anything
        raise WanError(
            f"{file}: begins as a PyTorch archive and has no sound table at its end: it was cut short or "
            "damaged; download it again"
        ) from error
    try:
        bomb = _has_bomb(program)
    except Exception as error:  # the same for programs
        raise WanError(f"{file}: its table is damaged or none; {DAMAGED}") from error
    if bomb:
        raise WanError(f"{file}: its table nests more than {LARGEST_TUPLE:,} things in one; {DAMAGED}")


def _pickle_of(archive: zipfile.ZipFile, file: str) -> bytes:
    """The program of an archive, of a sane length."""
    names = [entry.filename for entry in archive.infolist()]
    programs = [name for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(programs) != 1:
        raise WanError(
            f"{file}: is a zip archive without weights in it ({listed(names)}); unpack it, or choose the "
            ".safetensors of this model"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise WanError(
            f"{file}: its entries are compressed, which torch.save never does; save it again with "
            "torch.save, or choose the .safetensors of this model"
        )
    size = archive.getinfo(programs[0]).file_size
    if size > LONGEST_PICKLE:
        raise WanError(
            f"{file}: its table has {size:,} bytes, more than the {LONGEST_PICKLE:,} that are read; {DAMAGED}"
        )
    return archive.read(programs[0])


def _has_bomb(program: bytes) -> bool:
    """Whether a program makes an endless tuple, found without making it.

    Tuples hold each other by reference, so that a few lines describe one of 2**60 parts; hashing it as a
    dictionary's key would take for ever, and one of a million levels overruns the stack.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    for code, argument, _ in pickletools.genops(program):
        if code.name == "MARK":
            marks.append(len(stack))
            continue
        taken = len(code.stack_before)
        if pickletools.markobject in code.stack_before:
            taken += len(stack) - marks.pop() - 2  # the mark and what lies on it count as two in the list
        if code.name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif code.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif code.name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        else:
            parts = stack[len(stack) - taken :]
            del stack[len(stack) - taken :]
            size = 1 + sum(parts) if "TUPLE" in code.name else 1
            if size > LARGEST_TUPLE:
                return True
            stack += [size] * len(code.stack_after)
    return False


def _load(path: Path, device: str) -> object:
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=True)
    except Exception as error:  # a hostile file can make torch's reader raise anything
        if type(error).__name__ == "UnpicklingError":
            asked = re.search(r"GLOBAL:? (\S+)", str(error))
            what = f"asks for {shown(asked[1])}" if asked else "holds more than tensors"
            raise WanError(
                f"{shown_file(path)}: {what}, which may be code, and is not opened; choose the .safetensors "
                "of this model, or a .pth that holds nothing but tensors"
            ) from error
        if "allocate memory" in str(error):
            raise WanError(
                f"{shown_file(path)}: {path.stat().st_size:,} bytes, and torch maps a .pth only where "
                "memory is as large; choose the .safetensors of this model"
            ) from error
        # A message travels, into a saved video or to a page; the folders of whoever runs this stay here.
        reason = shown(str(error).split("\n")[0].replace(str(path), shown_file(path)))
        raise WanError(f"{shown_file(path)}: torch cannot read it ({reason}); {DAMAGED}") from error


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The table of tensors, which training programs wrap as {"state_dict": ...} or {"model": ...}."""
    for _ in range(WRAPPERS_DEEP):
        if not isinstance(content, Mapping):
            break
        if (weights := _wrapped(content)) is not None:
            content = weights
            continue
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            if not all(isinstance(name, str) for name in tensors):
                raise WanError(f"{shown_file(path)}: its tensors have no names; {DAMAGED}")
            return tensors
        tables = {str(name): value for name, value in content.items() if isinstance(value, Mapping)}
        if len(tables) > 1:
            raise WanError(
                f"{shown_file(path)}: holds {len(tables)} tables ({listed(list(tables))}), and which one is "
                "the model is not said; choose the .safetensors of this model"
            )
        content = next(iter(tables.values()), None)
    raise WanError(f"{shown_file(path)}: holds no named tensors; choose the weights of a model")


def _wrapped(content: Mapping[object, object]) -> Mapping[object, object] | None:
    """The table that training programs keep beside an optimizer; None where an average lies beside it too."""
    tables = {name: table for name, table in content.items() if isinstance(table, Mapping)}
    named = [tables.pop(name) for name in WRAPPERS if name in tables]
    rivals = [table for table in tables.values() if any(isinstance(one, Tensor) for one in table.values())]
    return named[0] if len(named) == 1 and not rivals else None


def _info(name: str, value: Tensor, file_size: int, path: Path) -> TensorInfo:
    where = f"{shown_file(path)}: tensor {shown(name)!r}"
    if value.layout is not torch.strided or value.dtype not in _SPELLED:
        raise WanError(
            f"{where} is {value.layout}, {value.dtype}, expected plain numbers; choose the .safetensors of "
            "this model"
        )
    needs, has = value.numel() * value.itemsize, value.untyped_storage().nbytes()
    if needs > has or has > file_size:
        raise WanError(
            f"{where} of {_SPELLED[value.dtype]} {shown(str(list(value.shape)))} needs {needs:,} bytes, is "
            f"given {has:,}, and the file has {file_size:,}; {DAMAGED}"
        )
    return TensorInfo(_SPELLED[value.dtype], tuple(value.shape), 0, needs, path)
