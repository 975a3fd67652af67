"""The coarsest level of an endless slide: a map that turns true as tiles are made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.diffusion.lattice import Key
from napari_ssldiff.geometry import Box
from napari_ssldiff.synthesis.means import Means


class Coarsest:
    """A plain array, because napari keeps what it once read of this level.

    Parameters
    ----------
    pixels
        ``(h, w, 4)`` uint8: the map; painted in place.
    level, tile
        How often it halves level 0, and the edge of a tile there.
    """

    def __init__(self, pixels: NDArray[np.uint8], level: int, tile: int) -> None:
        self.pixels, self._map = pixels, pixels.copy()
        self._level, self._tile = level, tile

    def paint(self, key: Key, levels: Sequence[NDArray[np.uint8]], means: Means) -> None:
        """Take in a tile.

        Parameters
        ----------
        levels
            Its pixels by level, as far as it has several.
        means
            What holds the tiles where a pixel is a tile or more; this one too.
        """
        if self._level < means.first:
            size = self._tile >> self._level
            part = self.pixels[key[0] * size :, key[1] * size :][:size, :size]
            part[...] = levels[self._level][: part.shape[0], : part.shape[1]]
            return
        y, x = (at >> self._level - means.first for at in key)
        now = self._map[y : y + 1, x : x + 1].copy()
        means.lay(now, self._level, Box(y, x, 1, 1))
        # The means may have dropped tiles meanwhile; what was shown of them stays.
        if now[0, 0, 3] >= self.pixels[y, x, 3]:
            self.pixels[y, x] = now[0, 0]
