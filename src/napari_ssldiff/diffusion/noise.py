"""Gaussian noise as a function of place.

A latent's noise depends on (seed, y, x, channel, step) and on nothing else: not on the size of
the canvas, the order of tiles, the process or the device. The counter-based generator is
Philox4x32-10 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_ssldiff.geometry import Box

Words = NDArray[np.uint32]

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, ...]:
    """Ten rounds of Philox4x32.

    Parameters
    ----------
    counter
        Four uint32 arrays of one shape.
    key
        Two 32-bit words.

    Returns
    -------
    Four uint32 arrays of that shape, uniformly distributed.
    """
    c0, c1, c2, c3 = (c.astype(np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return tuple(c.astype(np.uint32) for c in (c0, c1, c2, c3))


def place_noise(seed: int, box: Box, channels: int, step: int = 0) -> NDArray[np.float32]:
    """Standard normal noise of a box of the global latent lattice.

    Parameters
    ----------
    seed
        0 … 2**64 - 1.
    box
        In latents, anchored at the scene's origin; may lie at negative coordinates.
    channels
        Latent channels.
    step
        0 for the start of a run, ``i + 1`` for what the i-th solver step adds.

    Returns
    -------
    ``(channels, h, w)`` float32. Four channels come from one Philox block by Box and Muller's
    transform.
    """
    ys, xs = np.arange(box.y, box.y1)[:, None], np.arange(box.x, box.x1)[None, :]
    normals = place_normals(seed, ys, xs, channels, step)
    return np.ascontiguousarray(np.moveaxis(normals, -1, 0), dtype=np.float32)


def place_normals(
    seed: int, rows: ArrayLike, columns: ArrayLike, channels: int, step: int = 0
) -> NDArray[np.float64]:
    """Standard normal numbers of any places.

    Parameters
    ----------
    rows, columns
        Whole numbers of either sign that broadcast together; they count modulo 2**32.

    Returns
    -------
    float64 of the broadcast shape plus ``(channels,)``.
    """
    groups = -(-channels // 4)
    ys, xs = np.broadcast_arrays(
        *(np.asarray(a).astype(np.int64).astype(np.uint32) for a in (rows, columns))
    )
    shape = (groups, *ys.shape)
    counter = (
        np.broadcast_to(xs, shape),
        np.broadcast_to(ys, shape),
        np.broadcast_to(np.arange(groups, dtype=np.uint32).reshape(-1, *[1] * ys.ndim), shape),
        np.full(shape, step, np.uint32),
    )
    words = philox(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    # (0, 1]: the logarithm below must not see 0.
    u = [(w.astype(np.float64) + 1) / 2**32 for w in words]
    normals = np.empty((*ys.shape, groups, 4))
    for pair in (0, 1):
        radius = np.moveaxis(np.sqrt(-2 * np.log(u[2 * pair])), 0, -1)
        angle = np.moveaxis(2 * np.pi * u[2 * pair + 1], 0, -1)
        normals[..., 2 * pair] = radius * np.cos(angle)
        normals[..., 2 * pair + 1] = radius * np.sin(angle)
    return normals.reshape(*ys.shape, groups * 4)[..., :channels]
