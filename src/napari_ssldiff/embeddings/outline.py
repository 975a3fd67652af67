"""Outlines of cells: what an edit has touched, as polygons."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, label  # type: ignore[import-untyped]

Ring = list[tuple[int, int]]


def outlines(mask: NDArray[np.bool_]) -> list[tuple[NDArray[np.bool_], Ring]]:
    """Polygons that cover the marked cells and no others, without overlap.

    Cells that share an edge become one polygon, or several where they enclose a hole.

    Returns
    -------
    For each the cells that it covers, like ``mask``, and its corners ``(row, column)`` in order;
    cell ``(r, c)`` lies between ``(r, c)`` and ``(r + 1, c + 1)``.
    """
    labels, count = label(np.asarray(mask, bool))
    return [(part, _trace(part)) for k in range(1, count + 1) for part in _simple(labels == k)]


def _simple(part: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """A connected part, cut so that no piece has a hole."""
    holes = binary_fill_holes(part) & ~part
    if not holes.any():
        yield part
        return
    # Cut below the first row that meets a hole: what is above is open there.
    row = int(np.nonzero(holes.any(1))[0][0])
    above, below = part.copy(), part.copy()
    above[row + 1 :] = False
    below[: row + 1] = False
    for piece in (above, below):
        labels, count = label(piece)
        for k in range(1, count + 1):
            yield from _simple(labels == k)


def _trace(part: NDArray[np.bool_]) -> Ring:
    """The border of a connected part without holes, clockwise, straight runs as one."""
    padded = np.pad(part, 1)
    leads: dict[tuple[int, int], tuple[int, int]] = {}
    for r, c in np.argwhere(part).tolist():
        if not padded[r, c + 1]:
            leads[r, c] = r, c + 1
        if not padded[r + 1, c + 2]:
            leads[r, c + 1] = r + 1, c + 1
        if not padded[r + 2, c + 1]:
            leads[r + 1, c + 1] = r + 1, c
        if not padded[r + 1, c]:
            leads[r + 1, c] = r, c
    start = min(leads)
    ring, at = [start], leads[start]
    while at != start:
        after = leads[at]
        (y, x), (y1, x1) = ring[-1], after
        if not (y == at[0] == y1 or x == at[1] == x1):
            ring.append(at)
        at = after
    return ring
