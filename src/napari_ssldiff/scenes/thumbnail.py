"""Small pictures of parts of a scene."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.resample import read_at
from napari_ssldiff.scenes.scene import PixelSize, Scene


def thumbnail(
    scene: Scene, corner: tuple[float, float], extent: tuple[float, float], edge: int
) -> NDArray[np.uint8]:
    """``(edge, edge, 3)`` uint8 of a part of a scene.

    Parameters
    ----------
    corner, extent
        ``(y, x)`` and ``(h, w)`` in level-0 pixels.
    """
    (h, w), size = extent, scene.encoder_pixel_size
    pixel = PixelSize(size.y * h / edge, size.x * w / edge, size.unit)
    y, x = (round(o / c * edge) for o, c in zip(corner, extent, strict=True))
    return read_at(scene, Box(y, x, edge, edge), pixel)
