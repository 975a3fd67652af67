"""Outlines of cells: what an edit has touched, as polygons."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, label  # type: ignore[import-untyped]

Ring = list[tuple[int, int]]
Part = tuple[NDArray[np.bool_], list[Ring]]


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


def gathered(mask: NDArray[np.bool_], gap: int) -> list[Part]:
    """:func:`outlines`, those near one another put together.

    Parameters
    ----------
    gap
        Cells that may lie between the bounding boxes of two that belong together; a corner counts
        like a side.

    Returns
    -------
    For each group the cells that it covers and its polygons; ordered by their first cells.
    """
    parts: list[Part] = [(cells, [ring]) for cells, ring in outlines(mask)]
    done = False
    while not done:
        done = True
        for i, j in combinations(range(len(parts)), 2):
            if _apart(parts[i], parts[j]) <= gap:
                (cells, rings), (more, others) = parts[i], parts.pop(j)
                parts[i] = cells | more, rings + others
                done = False
                break
    return parts


def _apart(a: Part, b: Part) -> int:
    """Cells between two bounding boxes, along the axis on which they are farther apart."""
    (low_a, high_a), (low_b, high_b) = (
        (corners.min(0), corners.max(0))
        for corners in (np.concatenate([np.array(ring) for ring in part[1]]) for part in (a, b))
    )
    return int(np.maximum(low_a - high_b, low_b - high_a).max())


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
