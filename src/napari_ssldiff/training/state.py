"""The state of a run on disk: one safetensors file, and a JSON that names it.

Everything is written beside its place, flushed and renamed, so a kill or a full disk at any
moment leaves the state before or the state after, whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from napari_ssldiff.errors import InputError, OutputError

MARKER = "state.json"


def nbytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Bytes that the tensors take in a file."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _megabytes(size: int) -> str:
    return f"{max(1, round(size / 1e6))} MB"


@contextmanager
def writing(folder: Path, size: int = 0) -> Iterator[None]:
    """Turns the failure to write ``size`` bytes into ``folder`` into an :class:`OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        safe = "; the state saved last is whole" if (folder / MARKER).exists() else ""
        raise OutputError(
            f"cannot write {_megabytes(size)} to {folder}: {reason}; free some space or choose "
            f"another folder{safe}"
        ) from None


def check_room(folder: Path, size: int) -> None:
    """Make the folder, and see that ``size`` bytes fit.

    Raises
    ------
    OutputError
        If they do not, or the folder cannot be written.
    """
    with writing(folder, size):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe.partial"
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    if free < size:
        raise OutputError(
            f"training into {folder} needs {_megabytes(size)} and only {_megabytes(free)} are "
            "free; free some space or choose another folder"
        )


def replace_file(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path.parent, len(text)):
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file whole or not at all; it is on the disk when this returns.

    Raises
    ------
    OutputError
        If it cannot be written; what was there before stays.
    """
    partial = path.with_name(f".{path.name}.partial")
    ready = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    try:
        with writing(path.parent, nbytes(ready)):
            save_file(ready, partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A safetensors file.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read the weights {path}: {error}") from None
    return tensors


def read_marker(directory: Path) -> dict[str, Any] | None:
    """What ``state.json`` says (``step``, ``elapsed``, ``file``, …), or ``None`` without one.

    Raises
    ------
    InputError
        If it is damaged.
    """
    path = directory / MARKER
    if not path.exists():
        return None
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        return {**info, "step": int(info["step"]), "file": str(info["file"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); start in another folder") from None


def write_state(
    directory: Path, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any]
) -> None:
    """Write tensors, then the marker that names them, then drop the file before.

    Raises
    ------
    OutputError
        If the disk is full or read-only; the state before is untouched.
    """
    before = read_marker(directory)
    old = before["file"] if before else ""
    # Never over the file that the marker names.
    name = "state-1.safetensors" if old == "state-0.safetensors" else "state-0.safetensors"
    write_tensors(directory / name, tensors)
    replace_file(directory / MARKER, json.dumps({**info, "file": name}))
    if old and old != name:
        with suppress(OSError):  # Windows keeps a file that is still mapped
            (directory / old).unlink()
