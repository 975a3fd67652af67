"""Tensors that memory has no room for, in a temporary folder."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Hashable
from pathlib import Path

import torch
import zarr


class Scratch:
    """A shelf of tensors on disk. The folder is made at the first use.

    To be closed; a process that is killed leaves the folder to the system's cleaning.
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._places: dict[Hashable, Path] = {}
        self._numbers = itertools.count()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._places

    @property
    def folder(self) -> Path | None:
        """Where the tensors lie, once there were any."""
        return Path(self._folder.name) if self._folder else None

    def put(self, key: Hashable, tensor: torch.Tensor) -> None:
        """Keep a tensor under a key that is free.

        Raises
        ------
        OSError
            If the disk is full.
        """
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(
                prefix="napari-ssldiff-", ignore_cleanup_errors=True
            )
        place = Path(self._folder.name) / str(next(self._numbers))
        values = tensor.cpu().numpy()
        # One chunk, not compressed: noise does not shrink, and is wanted back whole.
        array = zarr.create_array(
            place,
            shape=values.shape,
            dtype=values.dtype,
            chunks=values.shape,
            compressors=None,
        )
        array[...] = values
        self._places[key] = place

    def read(self, key: Hashable) -> torch.Tensor:
        """The tensor under a key, on the CPU."""
        return torch.from_numpy(zarr.open_array(self._places[key], mode="r")[...])

    def drop(self, key: Hashable) -> None:
        """Let go of a tensor; its key is free from now on."""
        shutil.rmtree(self._places.pop(key), ignore_errors=True)

    def take(self, key: Hashable, device: torch.device) -> torch.Tensor:
        """The tensor under a key, which is free from now on, but not where memory runs out."""
        values = self.read(key).to(device)
        self.drop(key)
        return values

    def close(self) -> None:
        """Remove everything."""
        folder, self._folder = self._folder, None
        self._places.clear()
        if folder is not None:
            folder.cleanup()
