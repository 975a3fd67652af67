"""Images that can only be decoded whole: once, onto disk, and read from there."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

_CHUNK = 512


def temporary_array(
    shape: tuple[int, ...], dtype: np.dtype[Any], axes: str
) -> tuple[zarr.Array[Any], Callable[[], None]]:
    """An empty Zarr array in a temporary folder, and what removes it.

    ``axes`` names the axes; Y and X are chunked by 512 pixels, all others not.
    """
    folder = tempfile.TemporaryDirectory(prefix="napari-ssldiff-", ignore_cleanup_errors=True)
    chunks = tuple(min(_CHUNK, n) if a in "YX" else n for a, n in zip(axes, shape, strict=True))
    array = zarr.create_array(folder.name, shape=shape, dtype=dtype, chunks=chunks)
    return array, folder.cleanup


class Spool:
    """An array that decodes itself on first use, into a temporary Zarr array.

    Parameters
    ----------
    shape, dtype, axes
        Of what ``decode`` returns.
    decode
        Gives the whole image; called once, however many threads ask.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        decode: Callable[[], NDArray[Any]],
        axes: str,
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype).newbyteorder("=")
        self.ndim = len(shape)
        self._decode = decode
        self._axes = axes
        self._array: zarr.Array[Any] | None = None
        self._remove: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def __getitem__(self, index: Any) -> Any:
        with self._lock:
            if self._array is None:
                self._array = self._spool()
        return self._array[index]

    def _spool(self) -> zarr.Array[Any]:
        array, self._remove = temporary_array(self.shape, self.dtype, self._axes)
        array[...] = self._decode().reshape(self.shape)
        return array

    def close(self) -> None:
        """Remove the temporary folder."""
        with self._lock:
            remove, self._remove, self._array = self._remove, None, None
        if remove is not None:
            remove()
