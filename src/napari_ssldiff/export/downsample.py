"""Halving by two: the one step that every pyramid here is built of.

Odd sizes round up; the last row or column then averages the pixels that exist.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def halved(length: int) -> int:
    """Size of the next coarser level along one axis, at least 1."""
    return max(1, -(-length // 2))


def pyramid_shapes(shape: tuple[int, int], longest: int) -> list[tuple[int, int]]:
    """Sizes ``(h, w)`` of the levels, finest first, until no side is above ``longest``."""
    shapes = [shape]
    while max(shapes[-1]) > max(1, longest):
        shapes.append((halved(shapes[-1][0]), halved(shapes[-1][1])))
    return shapes


def _quads(pixels: NDArray[Any]) -> NDArray[Any]:
    """``(h, w, …)`` → ``(ceil(h/2), 2, ceil(w/2), 2, …)``, the last line repeated where odd."""
    h, w = pixels.shape[:2]
    if h % 2 or w % 2:
        pad = [(0, h % 2), (0, w % 2)] + [(0, 0)] * (pixels.ndim - 2)
        pixels = np.pad(pixels, pad, mode="edge")
    return pixels.reshape(pixels.shape[0] // 2, 2, pixels.shape[1] // 2, 2, *pixels.shape[2:])


def _sum(quads: NDArray[Any], dtype: Any) -> NDArray[Any]:
    # Four adds are several times faster than one reduction over two short axes.
    total = quads[:, 0, :, 0].astype(dtype)
    for row, column in ((0, 1), (1, 0), (1, 1)):
        total += quads[:, row, :, column]
    return total


def halve_mean(pixels: NDArray[Any]) -> NDArray[Any]:
    """Local mean of 2 × 2 pixels, ``(h, w, …)`` of any real dtype; integers round half up."""
    quads = _quads(pixels)
    dtype = pixels.dtype
    if dtype.kind == "f":
        wide = np.promote_types(dtype, np.float32)
        return np.asarray(_sum(quads, wide) * wide.type(0.25), dtype)
    if dtype.itemsize <= 2:
        return np.asarray((_sum(quads, np.int32) + 2) >> 2, dtype)
    return np.asarray((_sum(quads, np.int64) + 2) >> 2, dtype)


def halve_max(mask: NDArray[Any]) -> NDArray[Any]:
    """Largest of 2 × 2 pixels, so that no marked pixel is lost; ``(h, w, …)``."""
    quads = _quads(mask)
    top = np.maximum(quads[:, 0, :, 0], quads[:, 0, :, 1])
    bottom = np.maximum(quads[:, 1, :, 0], quads[:, 1, :, 1])
    return np.asarray(np.maximum(top, bottom))


def halve_rgba(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean of 2 × 2 pixels, ``(h, w, 4)`` uint8, colours weighted by alpha.

    Transparent pixels carry no colour: without the weights, the black under them would
    draw a dark fringe around everything that is filled.
    """
    quads = _quads(rgba)
    alpha = quads[..., 3]
    if alpha.size and alpha.min() == 255:
        return halve_mean(rgba)
    weights = alpha.astype(np.uint32)
    colour = _sum(quads[..., :3] * weights[..., None], np.uint32)
    total = _sum(weights, np.uint32)
    out = np.empty((*total.shape, 4), np.uint8)
    out[..., :3] = (colour + (total // 2)[..., None]) // np.maximum(total, 1)[..., None]
    # A single faint pixel must not round away: alpha 0 means that nothing was synthesised.
    out[..., 3] = np.maximum((total + 2) // 4, total > 0)
    return out
