"""Results that later stages build on, kept with the digest of what they were made from.

A denoiser is bound to the very encoder and latents that it was trained with, down to the signs of
principal axes. So what one stage makes for the next is computed once and kept, and made again
only when what it was made from has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from napari_ssldiff.errors import InputError
from napari_ssldiff.training.state import read_marker, read_tensors, replace_file, write_tensors

Origin = Mapping[str, str]


def digest(value: Any) -> str:
    """16 hex digits of sha256 over a value that JSON can write."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(*paths: Path) -> str:
    """16 hex digits of sha256 over the contents of files."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                total.update(block)
    return total.hexdigest()[:16]


def stage_files(folder: Path) -> list[Path]:
    """Weights of a stage: its state, or the weight files that were brought from elsewhere."""
    info = read_marker(folder) if folder.is_dir() else None
    if info is not None:
        return [folder / info["file"]]
    return sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("."))


def note_of(path: Path) -> Path:
    """The JSON beside a kept file."""
    return path.with_suffix(".json")


def changed(path: Path, origin: Origin) -> list[str]:
    """Which parts of its origin differ from those that a kept file was made from.

    A file without its note counts as unchanged: it came from before notes were written.
    """
    try:
        before = json.loads(note_of(path).read_text(encoding="utf-8"))
    except OSError:
        return []
    except ValueError:
        before = {}
    if not isinstance(before, dict):
        before = {}
    return [name for name, value in origin.items() if before.get(name) != value]


def write_note(path: Path, origin: Origin) -> None:
    """Write down what a kept file was made from."""
    replace_file(note_of(path), json.dumps(dict(origin), indent=2) + "\n")


def kept_module(
    path: Path, origin: Origin, build: Callable[[], nn.Module], make: Callable[[], nn.Module]
) -> nn.Module:
    """The finished network of a stage.

    Parameters
    ----------
    path
        Where it is kept, as safetensors in the precision it has.
    origin
        Digests of what it is made from.
    build
        Makes an empty one.
    make
        Makes it.

    Raises
    ------
    InputError
        If what is kept is damaged.
    """
    if path.is_file() and note_of(path).is_file() and not changed(path, origin):
        module = build()
        try:
            module.load_state_dict(read_tensors(path))
        except RuntimeError:
            raise InputError(f"{path} does not fit its note; remove it to make it again") from None
        return module.eval()
    module = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    # The note goes first, so that no moment shows new weights under an old note.
    note_of(path).unlink(missing_ok=True)
    write_tensors(path, _tensors(module))
    write_note(path, origin)
    return module


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach() for k, v in module.state_dict().items()}
