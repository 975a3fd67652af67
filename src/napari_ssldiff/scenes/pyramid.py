"""The levels that a file lacks, computed from its coarsest one where they are looked at."""

from __future__ import annotations

import threading
import uuid
import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.levels import Level

COARSEST = 1024  # longest side of the last level in pixels: what a viewer loads at once
_BLOCK = 512
_MAX_BLOCKS = 8192  # a dask graph larger than this takes seconds to build
_CACHE_BYTES = 128 * 2**20


class BlockCache:
    """The blocks used last, up to a number of bytes. Safe from threads."""

    def __init__(self, limit: int = _CACHE_BYTES) -> None:
        self._limit = limit
        self._blocks: OrderedDict[object, NDArray[Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: object) -> NDArray[Any] | None:
        """The block, or ``None``."""
        with self._lock:
            block = self._blocks.get(key)
            if block is not None:
                self._blocks.move_to_end(key)
            return block

    def put(self, key: object, block: NDArray[Any]) -> None:
        """Keep a block, dropping the ones not used for longest."""
        with self._lock:
            if key in self._blocks or block.nbytes > self._limit:
                return
            self._blocks[key] = block
            self._bytes += block.nbytes
            while self._bytes > self._limit:
                self._bytes -= self._blocks.popitem(last=False)[1].nbytes


class HalvedLevel(Level):
    """The 2 × 2 means of a finer level, by dask, one block at a time.

    An odd last row or column is repeated, so the factor is exactly 2 and coordinates of all
    levels agree to the pixel.

    Parameters
    ----------
    finer
        The level to halve.
    cache
        Shared by the levels of one pyramid, so that a coarse block does not read its whole
        part of the image again each time.
    name
        How messages call this level.
    nodata
        Value that takes no part in the means.
    """

    def __init__(
        self, finer: Level, cache: BlockCache, name: str, nodata: float | None = None
    ) -> None:
        import dask.array as da

        h, w, bands = finer.shape
        shape = (-(-h // 2), -(-w // 2), bands)
        block = _BLOCK
        while (shape[0] / block) * (shape[1] / block) > _MAX_BLOCKS:
            block *= 2
        super().__init__(shape, finer.dtype, (block, block), finer.problems, name, stored=False)
        self._cache = cache
        self._key = uuid.uuid4().hex
        source = da.from_array(
            finer,
            chunks=(2 * block, 2 * block, bands),
            name=f"level-{self._key}",
            asarray=True,
            meta=np.empty((0, 0, 0), finer.dtype),
        )
        sizes = tuple(tuple(min(block, n - i) for i in range(0, n, block)) for n in shape[:2])
        self._array = da.map_blocks(
            halve,
            source,
            nodata=nodata,
            dtype=finer.dtype,
            chunks=(*sizes, (bands,)),
            meta=np.empty((0, 0, 0), finer.dtype),
        )

    def fetch(self, box: Box) -> NDArray[Any]:
        out = np.empty((box.h, box.w, self.shape[2]), self.dtype)
        cy, cx = self.chunks[:2]
        for piece in self._pieces(box):
            i, j = piece.y // cy, piece.x // cx
            inner = piece.shift(-i * cy, -j * cx).slices
            out[piece.shift(-box.y, -box.x).slices] = self._block(i, j)[inner]
        return out

    def _block(self, i: int, j: int) -> NDArray[Any]:
        key = (self._key, i, j)
        known = self._cache.get(key)
        if known is not None:
            return known
        # Blocks nest (each reads the finer level, itself halved): the scheduler that runs in
        # the calling thread cannot run out of workers that wait for one another.
        block: NDArray[Any] = self._array.blocks[i, j].compute(scheduler="synchronous")
        self._cache.put(key, block)
        return block


def halve(block: NDArray[Any], nodata: float | None = None) -> NDArray[Any]:
    """``(h, w, bands)`` → ``(ceil(h/2), ceil(w/2), bands)``: means of 2 × 2 samples.

    NaN and ``nodata`` are left out; where all four are, they stay.
    """
    h, w, bands = block.shape
    if h % 2 or w % 2:
        block = np.pad(block, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    quads = block.reshape(block.shape[0] // 2, 2, block.shape[1] // 2, 2, bands)
    if block.dtype in (np.uint8, np.uint16) and nodata is None:
        pairs = quads[:, 0].astype(np.uint32) + quads[:, 1]
        total = pairs[:, :, 0] + pairs[:, :, 1]
        # Halves go to the even number: always upward would brighten every level a little.
        rounded: NDArray[Any] = (total + 1 + ((total >> 2) & 1)) >> 2
        return rounded.astype(block.dtype)
    values = quads.astype(np.float64)
    if nodata is not None and not np.isnan(nodata):
        values[quads == nodata] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN, as wanted
        mean = np.nanmean(values, axis=(1, 3))
    if block.dtype.kind in "iu":
        mean = np.round(np.nan_to_num(mean, nan=nodata or 0))
    elif nodata is not None:
        mean = np.nan_to_num(mean, nan=nodata)
    result: NDArray[Any] = mean.astype(block.dtype)
    return result


def extend(
    levels: list[Level], scales: list[tuple[float, float]], nodata: float | None = None
) -> tuple[list[Level], list[tuple[float, float]]]:
    """Stored levels plus halved ones, until the longest side is at most :data:`COARSEST`."""
    levels, scales = list(levels), list(scales)
    cache = BlockCache()
    while max(levels[-1].shape[:2]) > COARSEST:
        name = f"{levels[0].name} (level {len(levels)})"
        levels.append(HalvedLevel(levels[-1], cache, name, nodata))
        scales.append((scales[-1][0] * 2, scales[-1][1] * 2))
    return levels, scales
