"""Images that are computed where they are sliced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_ssldiff.geometry import Box


class LazyImage:
    """An array-like over a function that reads boxes.

    Offers what napari, dask and the exporters ask of an array: ``shape``, ``dtype``, ``ndim``,
    ``size``, ``chunks``, basic indexing (integers, slices, ellipsis) and ``numpy.asarray``.

    Parameters
    ----------
    shape
        ``(h, w)`` or ``(h, w, channels)``.
    dtype
        Sample type.
    read
        ``Box → array`` of shape ``box.shape + shape[2:]``, for boxes inside ``shape``.
    chunk
        Edge in pixels of the pieces that are best read at once.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        read: Callable[[Box], NDArray[Any]],
        chunk: int = 512,
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.chunks = (chunk, chunk, *self.shape[2:])
        self._read = read

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of samples."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        parts = _expand(index, self.ndim)
        starts, stops, inner = [], [], []
        for part, length in zip(parts[:2], self.shape[:2], strict=True):
            start, stop, rest = _span(part, length)
            starts.append(start)
            stops.append(stop)
            inner.append(rest)
        box = Box(starts[0], starts[1], stops[0] - starts[0], stops[1] - starts[1])
        if box.area:
            pixels = self._read(box)
        else:
            pixels = np.empty(box.shape + self.shape[2:], self.dtype)
        return pixels[(*inner, *parts[2:])]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Any:
        return np.asarray(self[...], dtype=dtype)


def _expand(index: Any, ndim: int) -> list[Any]:
    """An index of exactly ``ndim`` parts, without an ellipsis."""
    parts = list(index) if isinstance(index, tuple) else [index]
    at = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(at) > 1 or len(parts) - len(at) > ndim:
        raise IndexError(f"too many indices for an image of {ndim} axes: {index}")
    missing = [slice(None)] * (ndim - len(parts) + len(at))
    if at:
        parts[at[0] : at[0] + 1] = missing
    else:
        parts += missing
    return parts


def _span(part: Any, length: int) -> tuple[int, int, Any]:
    """First and one past the last pixel that ``part`` touches, and the index inside of that."""
    if isinstance(part, slice):
        picked = range(*part.indices(length))
        if not len(picked):
            return 0, 0, slice(None)
        low, high = min(picked[0], picked[-1]), max(picked[0], picked[-1]) + 1
        return low, high, slice(None, None, picked.step)
    if not isinstance(part, (int, np.integer)):
        raise IndexError(f"an image is indexed by integers and slices, got {part!r}")
    place = int(part)
    if not -length <= place < length:
        raise IndexError(f"index {place} is out of range for a length of {length}")
    place %= length
    return place, place + 1, 0
