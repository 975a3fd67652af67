"""The live store: a multiscale RGBA image that finished tiles are painted into."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

from napari_ssldiff.errors import OutputError
from napari_ssldiff.export.downsample import halve_rgba, pyramid_shapes
from napari_ssldiff.export.files import remove, writing
from napari_ssldiff.geometry import Box

#: Edge in level-0 pixels of one cell of :attr:`OverlayStore.filled`.
CELL = 64


class OverlayStore:
    """Pyramid of ``(h, w, 4)`` uint8 over ``box``; alpha 0 means not (yet) synthesised.

    Large levels are Zarr arrays on disk, unsharded, chunked by ``tile``; small ones are plain
    numpy arrays, where a tile costs no file. The coarsest always is one, because napari keeps
    ``asarray(levels[-1])`` and sees later writes only in that same object. Several threads may
    read while one writes: :meth:`read` sees every chunk either before or after a write, a view
    of a numpy level may for a moment see both.

    Parameters
    ----------
    box
        What the store covers, in pixels of the output grid; it may start anywhere.
    directory
        An empty or missing folder for the levels, left in place by :meth:`close`; without
        one, a temporary folder is made, and removed by :meth:`close` or at exit.
    tile
        Chunk edge in pixels.
    max_coarse
        Levels are halved until no side is longer than this.
    in_memory
        Levels with no side longer than this are numpy arrays (2048: at most 22 MB in all).

    Raises
    ------
    ValueError
        If the box has no area.
    OutputError
        If the folder holds something already or cannot be written.
    """

    def __init__(
        self,
        box: Box,
        directory: Path | None = None,
        tile: int = 512,
        max_coarse: int = 512,
        in_memory: int = 2048,
    ) -> None:
        if not box.area:
            raise ValueError(f"an overlay must cover some pixels, got {box}")
        self.box = box
        self._lock = threading.RLock()
        self._closed = False
        where = directory or "a temporary folder"
        with writing(where):
            if directory is None:
                self.directory = Path(tempfile.mkdtemp(prefix="napari-ssldiff-"))
                self._cleanup = weakref.finalize(
                    self, shutil.rmtree, self.directory, ignore_errors=True
                )
            else:
                self.directory = Path(directory)
                self.directory.mkdir(parents=True, exist_ok=True)
                if any(self.directory.iterdir()):
                    raise OutputError(f"{directory} is not empty: name an empty folder")
            shapes = pyramid_shapes(box.shape, max_coarse)
            self._levels: list[Any] = [
                np.zeros((*shape, 4), np.uint8)
                if shape is shapes[-1] or max(shape) <= in_memory
                else _create(self.directory / str(k), shape, tile)
                for k, shape in enumerate(shapes)
            ]
        cells = (-(-box.h // CELL), -(-box.w // CELL))
        self._filled = np.zeros(cells, dtype=bool)

    @property
    def levels(self) -> list[Any]:
        """The arrays, finest first, as napari takes them."""
        return list(self._levels)

    @property
    def filled(self) -> NDArray[np.bool_]:
        """Copy of the map of what was written: true where a write touched a 64 × 64 px cell.

        Kept apart from alpha: a tile whose mask leaves it transparent counts as written.
        """
        return self._filled.copy()

    def touched(self, box: Box) -> bool:
        """Whether any cell of ``box`` (output-grid pixels) was ever written."""
        local = self._local(box)
        return bool(local.area) and bool(self._filled[_cells(local)].any())

    def write(self, box: Box, rgba: NDArray[np.uint8]) -> Box:
        """Replace the pixels of ``box`` and bring the coarser levels up to date.

        Parameters
        ----------
        box
            In pixels of the output grid; what lies outside the store is dropped.
        rgba
            ``box.shape + (4,)`` uint8, alpha not premultiplied. Transparent pixels replace
            too; :meth:`paint` leaves what lies under them.

        Returns
        -------
        The changed part in pixels of the store's level 0 (no area: nothing changed).

        Raises
        ------
        ValueError
            If shape or dtype do not fit, or the store is closed.
        OutputError
            If the disk is full or cannot be written.
        """
        return self._write(box, rgba, replace=True)

    def paint(self, box: Box, rgba: NDArray[np.uint8]) -> Box:
        """Like :meth:`write`, but pixels of alpha 0 leave what is there.

        For tiles whose rectangle overlaps other regions' finished pixels.
        """
        return self._write(box, rgba, replace=False)

    def erase(self, box: Box) -> Box:
        """Make ``box`` transparent; cells of :attr:`filled` that lie wholly inside are unset."""
        with self._lock:
            local = self._local(box)
            changed = Box(0, 0, 0, 0)
            # Chunk by chunk: a whole slide must not become one array of zeros in memory.
            for tile in local.tiles(2048):
                if self._filled[_cells(tile)].any():
                    empty = np.zeros((*tile.shape, 4), np.uint8)
                    self._write(tile.shift(self.box.y, self.box.x), empty, replace=True)
                    changed = tile if not changed.area else changed.union(tile)
            y0, x0 = -(-local.y // CELL), -(-local.x // CELL)
            y1 = -(-local.y1 // CELL) if local.y1 == self.box.h else local.y1 // CELL
            x1 = -(-local.x1 // CELL) if local.x1 == self.box.w else local.x1 // CELL
            self._filled[y0:y1, x0:x1] = False
            return changed

    def read(self, box: Box) -> NDArray[np.uint8]:
        """``box.shape + (4,)`` uint8 of level 0; transparent black outside the store."""
        self._check_open()
        out = np.zeros((*box.shape, 4), np.uint8)
        local = self._local(box)
        if local.area and self._filled[_cells(local)].any():
            inner = local.shift(self.box.y - box.y, self.box.x - box.x)
            level = self._levels[0]
            # Zarr replaces chunk files whole; a numpy level needs the lock to be as atomic.
            with self._lock if isinstance(level, np.ndarray) else nullcontext():
                out[inner.slices] = level[local.slices]
        return out

    def close(self) -> None:
        """Remove the temporary folder. Safe to call twice; later reads and writes fail."""
        with self._lock:
            self._closed = True
            if hasattr(self, "_cleanup"):
                self._cleanup()

    def __enter__(self) -> OverlayStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _local(self, box: Box) -> Box:
        """``box`` cut to the store, in pixels of its level 0."""
        return box.intersect(self.box).shift(-self.box.y, -self.box.x)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the overlay over {self.box} is closed")

    def _write(self, box: Box, rgba: NDArray[np.uint8], replace: bool) -> Box:
        if rgba.shape != (*box.shape, 4) or rgba.dtype != np.uint8:
            raise ValueError(
                f"{box} takes uint8 pixels of shape {(*box.shape, 4)}, "
                f"got {rgba.dtype} of shape {rgba.shape}"
            )
        local = self._local(box)
        if not local.area:
            return local
        cut = local.shift(self.box.y - box.y, self.box.x - box.x)
        pixels = np.asarray(rgba[cut.slices])
        with self._lock, writing(self.directory):
            self._check_open()
            opaque = pixels[..., 3:] > 0
            if not replace and not opaque.all() and self._filled[_cells(local)].any():
                pixels = np.where(opaque, pixels, self._levels[0][local.slices])
            # Set first: a concurrent read must not take a cell for empty that is being filled.
            self._filled[_cells(local)] = True
            self._levels[0][local.slices] = pixels
            self._propagate(local, pixels)
        return local

    def _propagate(self, dirty: Box, pixels: NDArray[np.uint8]) -> None:
        """Rebuild what depends on ``dirty`` of level 0, whose pixels are given, level by level."""
        for fine, coarse in zip(self._levels, self._levels[1:], strict=False):
            whole = Box(0, 0, *fine.shape[:2])
            y, x = dirty.y // 2 * 2, dirty.x // 2 * 2
            even = Box(y, x, -(-dirty.y1 // 2) * 2 - y, -(-dirty.x1 // 2) * 2 - x).intersect(whole)
            if even != dirty:
                pixels = np.asarray(fine[even.slices])
            pixels = halve_rgba(pixels)
            dirty = Box(even.y // 2, even.x // 2, *pixels.shape[:2])
            coarse[dirty.slices] = pixels


def _cells(local: Box) -> tuple[slice, slice]:
    """Index of the cells that ``local`` touches."""
    return (
        slice(local.y // CELL, -(-local.y1 // CELL)),
        slice(local.x // CELL, -(-local.x1 // CELL)),
    )


def _create(path: Path, shape: tuple[int, int], tile: int) -> zarr.Array[Any]:
    remove(path)
    return zarr.create_array(
        LocalStore(path),
        shape=(*shape, 4),
        chunks=(tile, tile, 4),
        dtype="uint8",
        fill_value=0,
        # lz4 over separated channels: faster here than no compression, at half its size.
        compressors=BloscCodec(cname="lz4", clevel=3, shuffle="shuffle", typesize=4),
        dimension_names=("y", "x", "rgba"),
    )
