"""Pyramid levels that read like arrays, from any thread, and never fail for one bad tile."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.scene import Display

logger = logging.getLogger(__name__)
HOLE_RGB = (255, 0, 255)


class Problems(list[str]):
    """What went wrong while reading, one line each, said and logged once per place.

    Shared by a scene and its levels; ``closed`` tells the levels that their file is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self._seen: set[object] = set()
        self._lock = threading.Lock()

    def report(self, key: object, message: str) -> None:
        """Append ``message`` and log a warning, unless ``key`` was reported before."""
        with self._lock:
            if key in self._seen:
                return
            self._seen.add(key)
            self.append(message)
        logger.warning(message)

    def close(self) -> None:
        """Every later read raises instead of filling the image with holes."""
        self.closed = True


def hole_value(dtype: np.dtype[Any], bands: int) -> NDArray[Any]:
    """The marked colour, one value per band: magenta for 8-bit colour, else the maximum."""
    if dtype == np.uint8 and bands >= 3:
        return np.array([*HOLE_RGB, *[255] * (bands - 3)], np.uint8)
    top = np.iinfo(dtype).max if dtype.kind in "iu" else np.finfo(dtype).max
    return np.full(bands, top, dtype)


def one_line(error: BaseException) -> str:
    """An exception as one short line: its kind and the first line of what it says."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


class Level(ABC):
    """A read-only ``(y, x, band)`` array that reads only what is indexed.

    Parameters
    ----------
    shape
        ``(h, w, bands)``.
    dtype
        Native sample type.
    chunk
        ``(y, x)`` size of the pieces that the source can read on their own.
    problems
        Where unreadable pieces are reported.
    name
        How messages call this level.
    stored
        Whether the source holds this level, rather than its being computed from a finer one.
    """

    ndim = 3

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        chunk: tuple[int, int],
        problems: Problems,
        name: str,
        stored: bool = True,
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.chunks = (min(chunk[0], shape[0]), min(chunk[1], shape[1]), shape[2])
        self.problems = problems
        self.name = name
        self.stored = stored

    @abstractmethod
    def fetch(self, box: Box) -> NDArray[Any]:
        """Samples ``(h, w, bands)`` of a box inside the level; may raise for bad data."""

    @property
    def size(self) -> int:
        """Number of samples."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole level in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, box: Box) -> NDArray[Any]:
        """Like :meth:`fetch`, but what cannot be read becomes a marked hole.

        Raises
        ------
        ValueError
            If the scene was closed.
        """
        if self.problems.closed:
            raise ValueError(f"{self.name} is closed: open the scene again to read it")
        if not box.area:
            return np.empty((box.h, box.w, self.shape[2]), self.dtype)
        try:
            return self._checked(box)
        except MemoryError:
            raise
        except Exception:  # any codec, file or network error: find out which piece is to blame
            return self._salvage(box)

    def _checked(self, box: Box) -> NDArray[Any]:
        pixels = self.fetch(box)
        if pixels.shape != (box.h, box.w, self.shape[2]):
            raise ValueError(f"got pixels of shape {pixels.shape} for {box}")
        return pixels

    def _salvage(self, box: Box) -> NDArray[Any]:
        out = np.empty((box.h, box.w, self.shape[2]), self.dtype)
        for piece in self._pieces(box):
            place = piece.shift(-box.y, -box.x).slices
            try:
                out[place] = self._checked(piece)
            except MemoryError:
                raise
            except Exception as error:
                if self.problems.closed:
                    raise ValueError(f"{self.name} was closed while it was read") from error
                out[place] = hole_value(self.dtype, self.shape[2])
                cy, cx = self.chunks[:2]
                tile = (piece.y // cy, piece.x // cx)
                self.problems.report(
                    (self.name, tile),
                    f"{self.name}: the tile at x {tile[1] * cx}, y {tile[0] * cy} cannot be read "
                    f"and shows as a hole ({one_line(error)})",
                )
        return out

    def _pieces(self, box: Box) -> Iterator[Box]:
        cy, cx = self.chunks[:2]
        for y in range(box.y // cy * cy, box.y1, cy):
            for x in range(box.x // cx * cx, box.x1, cx):
                yield box.intersect(Box(y, x, cy, cx))

    def __getitem__(self, index: Any) -> Any:
        """Basic indexing along y and x (integers, slices, ellipsis), any along the bands."""
        rows, columns, bands = _expand(index)
        (y0, y1, after_y), (x0, x1, after_x) = (
            _span(rows, self.shape[0]),
            _span(columns, self.shape[1]),
        )
        pixels = self.read(Box(y0, x0, y1 - y0, x1 - x0))
        return pixels[after_y, :, :][..., after_x, :][..., bands]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = self.read(Box(0, 0, self.shape[0], self.shape[1]))
        return pixels if dtype is None else pixels.astype(dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> Level:
        """Itself: it only reads, and napari copies the data of a layer that is duplicated."""
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.shape} {self.dtype}>"


def _expand(index: Any) -> tuple[Any, Any, Any]:
    """Any index → one entry per axis."""
    entries = list(index) if isinstance(index, tuple) else [index]
    dots = [i for i, e in enumerate(entries) if e is Ellipsis]
    missing = 3 - (len(entries) - len(dots))
    if len(dots) > 1 or missing < 0:
        raise IndexError(f"a level has the axes y, x, band; cannot index it with {index!r}")
    at = dots[0] if dots else len(entries)
    entries[at : at + len(dots)] = [slice(None)] * missing
    return entries[0], entries[1], entries[2]


def _span(entry: Any, length: int) -> tuple[int, int, Any]:
    """Range to read along an axis, and the index to apply to what was read."""
    if isinstance(entry, slice):
        start, stop, step = entry.indices(length)
        if step > 0:
            return start, max(start, stop), slice(None, None, step)
        chosen = range(start, stop, step)
        if not len(chosen):
            return 0, 0, slice(None)
        return chosen[-1], chosen[0] + 1, slice(None, None, step)
    try:
        place = int(entry.__index__())
    except (AttributeError, TypeError):
        raise IndexError(
            f"a level is indexed along y and x by integers and slices, got {entry!r}"
        ) from None
    if not -length <= place < length:
        raise IndexError(f"{place} is outside an axis of {length} pixels")
    return place % length, place % length + 1, 0


class ArrayLevel(Level):
    """A level over any array with named axes, such as a read-only Zarr array.

    Parameters
    ----------
    source
        Anything with ``shape``, ``dtype`` and basic slicing that is safe to read from threads.
    axes
        One letter per axis of ``source``: Y, X, the band axis as given by ``band_axis``; at
        all others index 0 is taken.
    band_axis
        Letter of the axis of bands, or ``None`` where there is one band only.
    chunk
        As for :class:`Level`.
    transform
        Applied to samples ``(h, w, bands)`` after reading, such as a palette.
    bands, dtype
        Of the result, where ``transform`` changes them.
    """

    def __init__(
        self,
        source: Any,
        axes: str,
        band_axis: str | None,
        chunk: tuple[int, int],
        problems: Problems,
        name: str,
        *,
        transform: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        bands: int | None = None,
        dtype: np.dtype[Any] | None = None,
    ) -> None:
        self.source = source
        self._axes = axes
        self._band_axis = band_axis
        self._transform = transform
        count = source.shape[axes.index(band_axis)] if band_axis else 1
        native = np.dtype(source.dtype).newbyteorder("=")
        if native == np.bool_:
            native = np.dtype(np.uint8)
        super().__init__(
            (source.shape[axes.index("Y")], source.shape[axes.index("X")], bands or count),
            dtype or native,
            chunk,
            problems,
            name,
        )

    def fetch(self, box: Box) -> NDArray[Any]:
        chosen: dict[str, Any] = {"Y": slice(box.y, box.y1), "X": slice(box.x, box.x1)}
        order = "YX"
        if self._band_axis:
            chosen[self._band_axis] = slice(None)
            order += self._band_axis
        pixels = np.asarray(self.source[tuple(chosen.get(a, 0) for a in self._axes)])
        kept = [a for a in self._axes if a in chosen]
        pixels = pixels.transpose([kept.index(a) for a in order])
        if not self._band_axis:
            pixels = pixels[..., None]
        if pixels.dtype == np.bool_:
            pixels = pixels.astype(np.uint8) * np.uint8(255)
        if self._transform is not None:
            pixels = self._transform(pixels)
        return np.ascontiguousarray(pixels, dtype=self.dtype)


class DisplayLevel(Level):
    """A level as ``(h, w, 3)`` uint8 through a display, converted where it is read."""

    def __init__(self, level: Any, display: Display, problems: Problems, name: str) -> None:
        self._level = level
        self._display = display
        chunk = (level.chunks[0], level.chunks[1])
        super().__init__((*level.shape[:2], 3), np.dtype(np.uint8), chunk, problems, name)

    def fetch(self, box: Box) -> NDArray[Any]:
        return self._display.to_rgb(np.asarray(self._level[box.slices]))
