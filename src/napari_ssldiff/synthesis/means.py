"""Mean colours of tiles, for the levels of an endless slide where a tile is a pixel or less."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from napari_ssldiff.diffusion.lattice import ByteCache, Key, Lattice
from napari_ssldiff.geometry import Box

#: Edge of a block of pixels that is kept or dropped as one; even, so that the four pixels under
#: one of the next level lie in one block.
_BLOCK = 32
_BLOCKS = Lattice(_BLOCK, _BLOCK)
#: Bytes of blocks, 16 KiB each: two million tiles of one area, or 2,000 areas with a tile each.
MEANS = 32 * 2**20


def tile_levels(image: torch.Tensor) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32]]:
    """A tile at every level where it is more than a pixel, and its mean colour.

    Parameters
    ----------
    image
        ``(3, n, n)`` in [-1, 1], on the CPU; n is a power of two.

    Returns
    -------
    ``(n, n, 4)`` uint8, opaque, and its halvings down to two pixels a side; ``(3,)`` in [0, 255].
    """
    part, levels = ((image + 1) * 127.5).round().clamp(0, 255), []
    while part.shape[1] > 1:
        pixels = np.full((*part.shape[1:], 4), 255, np.uint8)
        pixels[..., :3] = part.round().to(torch.uint8).permute(1, 2, 0).numpy()
        levels.append(pixels)
        part = F.avg_pool2d(part[None], 2)[0]
    return levels, part.reshape(3).numpy()


class Means:
    """A pyramid of sums over tiles: what coarse pixels show of the tiles that were made.

    A pixel holds the sum of its tiles' mean colours and their number, and is made of the four
    pixels under it. So a tile that is made again changes nothing, and the order of tiles counts
    for nothing either. Tiles leave no trace of their pixels here, so they stay when those are
    dropped, until the blocks exceed the budget: then areas that nobody made a tile in or looked
    at for longest go first.

    Parameters
    ----------
    first, last
        The level where a tile is a pixel, and the coarsest; none if ``last`` is below ``first``.
    tiles
        ``(rows, columns)`` of the slide.
    budget
        Bytes that are kept.
    """

    def __init__(self, first: int, last: int, tiles: tuple[int, int], budget: int = MEANS) -> None:
        self.first, self.last, self._count = first, last, tiles
        self._blocks: ByteCache[tuple[int, Key], NDArray[np.float32]] = ByteCache(budget)

    @property
    def used(self) -> int:
        """Bytes kept."""
        return self._blocks.used

    def put(self, key: Key, colour: NDArray[np.float32]) -> None:
        """Take in the tile at row and column ``key``; ``colour`` is ``(3,)`` in [0, 255]."""
        (y, x), value = key, np.append(colour, 1).astype(np.float32)
        for level in range(self.first, self.last + 1):
            name = level, (y // _BLOCK, x // _BLOCK)
            block = self._blocks.get(name)
            if block is None:
                block = np.zeros((_BLOCK, _BLOCK, 4), np.float32)
                self._blocks.put(name, block)
            row, column = y % _BLOCK, x % _BLOCK
            block[row, column] = value
            row, column = row // 2 * 2, column // 2 * 2
            value = block[row : row + 2, column : column + 2].sum((0, 1))
            y, x = y // 2, x // 2
        self._blocks.trim()

    def lay(self, out: NDArray[np.uint8], level: int, box: Box) -> None:
        """Lay the means of a level over a map, as far as tiles exist.

        A pixel takes on the mean colour of its tiles, and the alpha of what is made, by the share
        of its tiles that were made; it is opaque when all of them were.

        Parameters
        ----------
        out
            ``(h, w, 4)`` uint8 of ``box``, changed in place.
        """
        keys = _BLOCKS.covering(box)
        if len(keys) > len(self._blocks):
            # A wide view spans more blocks than there are: look through those instead.
            own = set(keys)
            keys = [key for at, key in self._blocks if at == level and key in own]
        for key in keys:
            block = self._blocks.get((level, key))
            if block is None:
                continue
            place = _BLOCKS.box(key)
            both = place.intersect(box)
            part = block[both.shift(-place.y, -place.x).slices]
            shown = out[both.shift(-box.y, -box.x).slices]
            made = part[..., 3]
            share = (made / self._tiles(level, both))[..., None]
            mean = part[..., :3] / np.maximum(made, 1)[..., None]
            shown[..., :3] = np.round(shown[..., :3] * (1 - share) + mean * share)
            # Rounded down: only a pixel that lacks nothing is opaque.
            shown[..., 3:] += ((255 - shown[..., 3:]) * share).astype(np.uint8)

    def _tiles(self, level: int, box: Box) -> NDArray[np.float32]:
        """``(h, w)``: how many tiles lie in each pixel; fewer at the slide's far edges."""
        per = 2 ** (level - self.first)
        rows, columns = (
            np.minimum(per, count - np.arange(begin, end) * per)
            for count, begin, end in zip(self._count, (box.y, box.x), (box.y1, box.x1), strict=True)
        )
        return np.asarray(rows[:, None] * columns[None, :], np.float32)
