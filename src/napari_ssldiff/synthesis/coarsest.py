"""The coarsest level of an endless slide: a map that turns true where all was made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.diffusion.lattice import Key


class _Sum:
    """The mean colour of tiles that come in any order, some of them again."""

    def __init__(self, count: int) -> None:
        self.count, self.missing = count, count
        self._seen, self._sum = 0, np.zeros(3)

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._sum / self.count

    def add(self, place: int, colour: NDArray[np.float32]) -> None:
        if not self._seen >> place & 1:
            self._seen |= 1 << place
            self._sum += colour
            self.missing -= 1


class Coarsest:
    """A plain array, because napari keeps what it once read of this level.

    Parameters
    ----------
    pixels
        ``(h, w, 4)`` uint8: the map; painted in place.
    level, tile
        How often it halves level 0, and the edge of a tile there.
    shape
        ``(h, w)`` of level 0.
    """

    def __init__(
        self, pixels: NDArray[np.uint8], level: int, tile: int, shape: tuple[int, int]
    ) -> None:
        self.pixels = pixels
        self._level, self._tile, self._shape = level, tile, shape
        self._sums: dict[Key, _Sum] = {}

    def paint(
        self, key: Key, levels: Sequence[NDArray[np.uint8]], mean: NDArray[np.float32]
    ) -> None:
        """Take in a tile: its pixels by level, and its mean colour in [0, 255]."""
        per = 2**self._level // self._tile
        if per < 1:
            size = self._tile >> self._level
            part = self.pixels[key[0] * size :, key[1] * size :][:size, :size]
            part[...] = levels[self._level][: part.shape[0], : part.shape[1]]
            return
        y, x = key[0] // per, key[1] // per
        if self.pixels[y, x, 3] == 255:
            return
        rows, columns = (
            min(per, -(-n // self._tile) - at * per)
            for n, at in zip(self._shape, (y, x), strict=True)
        )
        kept = self._sums.setdefault((y, x), _Sum(rows * columns))
        kept.add((key[0] - y * per) * per + key[1] - x * per, mean)
        if kept.missing == 0:
            self.pixels[y, x, :3], self.pixels[y, x, 3] = np.round(kept.mean), 255
            del self._sums[y, x]
