"""Weights as safetensors files of a bearable size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from napari_ssldiff.models.store.places import room
from napari_ssldiff.models.store.work import Work

#: Bytes of a file: one is read and checked as a whole when a model is loaded.
SHARD = 2 * 10**9


def split(tensors: Mapping[str, torch.Tensor], limit: int) -> list[list[str]]:
    """Names in groups of at most ``limit`` bytes, or of one tensor."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        own = tensor.numel() * tensor.element_size()
        if groups[-1] and size + own > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += own
    return groups


def write(
    folder: Path, part: str, tensors: Mapping[str, torch.Tensor], work: Work, limit: int = SHARD
) -> Iterator[tuple[str, str]]:
    """Write a part; gives each file's name and its sha256, as read back from the disk.

    Raises
    ------
    OutputError
        If the disk is full.
    """
    groups = split(tensors, limit)
    for number, names in enumerate(groups, 1):
        work.check()
        tail = f"-{number}-of-{len(groups)}" if len(groups) > 1 or part == "denoiser" else ""
        path = folder / f"{part}{tail}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Tensors that are views of one another would be refused.
        own = {name: tensors[name].contiguous().clone() for name in names}
        with room(folder, f"{path.name} is written"):
            try:
                save_file(own, path, metadata={"format": "pt"})
            except SafetensorError as error:  # the library's own word for the system's errors
                raise OSError(str(error)) from None
        yield path.relative_to(folder).as_posix(), digest(path, work)


def digest(path: Path, work: Work) -> str:
    """The sha256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            work.check()
            total.update(block)
    return total.hexdigest()
