"""Cells beside a line: how far along it each one is, and how near."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_ssldiff.errors import InputError


def along(
    shape: tuple[int, int], points: ArrayLike, width: float, soft: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where the cells of a grid lie beside a polyline.

    Parameters
    ----------
    shape
        ``(rows, columns)``.
    points
        ``(n, 2)``: ``(row, column)``; whole numbers are the middles of cells.
    width
        Cells: up to half of it from the line a cell counts in full.
    soft
        Cells beyond that over which it counts less and less.

    Returns
    -------
    Two ``shape`` float32 in [0, 1]: the share of the line's length before the point of it that is
    nearest (the first of equals), and how much the cell counts.

    Raises
    ------
    InputError
        If the line has no length or a width is negative.
    """
    line = np.asarray(points, np.float64)
    if line.ndim != 2 or line.shape[1] != 2 or not np.isfinite(line).all():
        raise InputError(f"a path is a list of points (row, column), got the shape {line.shape}")
    if not (width >= 0 and soft >= 0):
        raise InputError(f"a width is at least 0 cells, got {width} with an edge of {soft}")
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    if not steps.sum() > 0:
        raise InputError("a path needs two points that differ")
    before, whole = np.concatenate([[0], np.cumsum(steps)]), steps.sum()
    cells = np.moveaxis(np.indices(shape, np.float64), 0, -1)
    nearest, share = np.full(shape, np.inf), np.zeros(shape)
    for i, step in enumerate(steps):
        if not step:
            continue
        unit = (line[i + 1] - line[i]) / step
        at = np.clip((cells - line[i]) @ unit, 0, step)
        away = np.linalg.norm(cells - line[i] - at[..., None] * unit, axis=-1)
        closer = away < nearest - 1e-9
        nearest = np.where(closer, away, nearest)
        share = np.where(closer, (before[i] + at) / whole, share)
    beyond = np.maximum(nearest - width / 2, 0)
    beyond[beyond < 1e-9] = 0
    if soft:
        t = np.clip(1 - beyond / soft, 0, 1)
        weight = t * t * (3 - 2 * t)
    else:
        weight = (beyond == 0).astype(np.float64)
    return np.clip(share, 0, 1).astype(np.float32), weight.astype(np.float32)
