"""The crop protocol: random crops of large synthesised images against random real ones.

As in the paper's table (MultiDiffusion's protocol), where crops of large images are compared with
real patches of that size. Crops overlap and come from few images, so this figure says how a large
image holds together, not how many independent patches were seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.evaluation.fidelity import Piece
from napari_ssldiff.evaluation.frechet import (
    LEAST,
    Projection,
    frechet_distance,
    kernel_distance,
)
from napari_ssldiff.evaluation.regions import Tile, cells_of
from napari_ssldiff.evaluation.spaces import FeatureSpace


def random_crops(
    pictures: Sequence[NDArray[np.uint8]], size: int, count: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """``(count, size, size, 3)``, pictures in turn, places uniformly."""
    out = np.empty((count, size, size, 3), np.uint8)
    for i in range(count):
        picture = pictures[i % len(pictures)]
        y, x = (int(rng.integers(n - size + 1)) for n in picture.shape[:2])
        out[i] = picture[y : y + size, x : x + size]
    return out


def crop_figures(
    space: FeatureSpace,
    pieces: Sequence[Piece],
    projection: Projection | None,
    size: int,
    count: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Fréchet and kernel distance of crops, beside those of two draws of real crops.

    Parameters
    ----------
    pieces
        Large regions.
    projection
        Fitted on training pictures of ``size``; ``None`` leaves Fréchet out.
    count
        Crops a side; below :data:`LEAST` Fréchet is left out.
    """
    made = space.features(random_crops([p.made for p in pieces], size, count, rng))
    real, again = (
        space.features(random_crops([p.real for p in pieces], size, count, rng)) for _ in range(2)
    )
    value, std = kernel_distance(made * space.scale, real * space.scale)
    low, low_std = kernel_distance(real * space.scale, again * space.scale)
    edge = pieces[0].real.shape[0]
    out: dict[str, Any] = {
        "space": space.name,
        "large_images": len(pieces),
        "large_edge": edge,
        "crop": size,
        "n": count,
        "disjoint_crops": len(pieces) * (edge // size) ** 2,
        "kernel": {"value": value, "std": std, "real_twice": {"value": low, "std": low_std}},
    }
    if projection is not None and count >= LEAST:
        a, b, c = (projection(x) for x in (made, real, again))
        ours, theirs = frechet_distance(a, b), frechet_distance(b, c)
        out["frechet"] = {"distance": ours, "real_twice": theirs, "ratio": ours / theirs}
    return out


def windows_of(tiles: Sequence[Tile], size: int) -> NDArray[np.uint8]:
    """Training tiles cut to ``(n, size, size, 3)``."""
    return np.concatenate([cells_of(t.pixels, size) for t in tiles])
