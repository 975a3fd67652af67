"""An endless slide as arrays: what napari shows, and what an export reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.diffusion.lazy import TILE
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box

if TYPE_CHECKING:
    from napari_ssldiff.synthesis.endless import LazyScene


class LazyLevel:
    """One level as napari and dask take it: ``(h, w, 4)`` uint8, read by slices."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, scene: LazyScene, level: int) -> None:
        self.scene, self.level = scene, level
        self.shape = (*(-(-n // 2**level) for n in scene.shape), 4)
        self.chunks = (TILE, TILE, 4)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        return _sliced(index, self.shape, lambda box: self.scene.read(self.level, box))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return _whole(self, dtype)


class RenderedLevel:
    """Level 0 of a slide that makes what it lacks when it is read: ``(h, w, 3)`` uint8.

    Reading takes as long as the network takes, so it belongs to the thread that owns the model.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, scene: LazyScene) -> None:
        self.scene = scene
        self.shape = (*scene.shape, 3)
        self.chunks = (TILE, TILE, 3)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        return _sliced(index, self.shape, self.scene.render)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return _whole(self, dtype)


def _sliced(
    index: Any, shape: tuple[int, ...], read: Callable[[Box], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """What numpy would give for ``index``, by reading one box."""
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        missing = len(shape) - len(index) + 1
        index = (*index[:at], *[slice(None)] * missing, *index[at + 1 :])
    rows, columns, *rest = (*index, slice(None), slice(None))[:3]
    (y, y1), (x, x1) = _bounds(rows, shape[0]), _bounds(columns, shape[1])
    out = read(Box(y, x, max(0, y1 - y), max(0, x1 - x)))
    inner = tuple(
        0 if isinstance(part, (int, np.integer)) else slice(None, None, part.step)
        for part in (rows, columns)
    )
    return np.asarray(out[(*inner, *rest)])


def _whole(level: LazyLevel | RenderedLevel, dtype: Any) -> NDArray[Any]:
    if level.size > 2**30:
        raise InputError(
            f"a level of {level.shape[1]} × {level.shape[0]} pixels does not fit into memory as "
            "a whole; read a part of it"
        )
    return np.asarray(level[:], dtype=dtype)


def _bounds(part: Any, length: int) -> tuple[int, int]:
    if isinstance(part, slice):
        if (part.step or 1) < 1:
            raise IndexError(f"a lazy level is read forwards, not by a step of {part.step}")
        start, stop, _ = part.indices(length)
        return start, stop
    at = int(part) + (length if int(part) < 0 else 0)
    if not 0 <= at < length:
        raise IndexError(f"{int(part)} is outside a level of {length} pixels")
    return at, at + 1
