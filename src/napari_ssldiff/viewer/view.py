"""What of a layer the window shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_ssldiff.geometry import Box

if TYPE_CHECKING:
    from napari.layers import Image


def in_view(layer: Image, box: Box) -> bool:
    """Whether a box of level-0 pixels is in what the layer has loaded.

    A hidden layer shows nothing: napari reads it afresh when it is shown.
    """
    if not layer.visible:
        return False
    if not layer.multiscale:
        return True
    factors = np.asarray(layer.downsample_factors[layer.data_level])[:2]
    corners = np.asarray(layer.corner_pixels)[:, :2]
    low, high = np.floor(corners[0] * factors), np.ceil((corners[1] + 1) * factors)
    (y0, x0), (y1, x1) = low.astype(int).tolist(), high.astype(int).tolist()
    return bool(Box(y0, x0, y1 - y0, x1 - x0).intersect(box).area)
