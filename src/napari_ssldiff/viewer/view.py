"""What of a layer the window shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ssldiff.geometry import Box

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


def camera_of(viewer: ViewerModel) -> Any:
    """A viewer's camera, which moved in napari 0.9."""
    return getattr(viewer, "scene", viewer).camera


def pixels_on_screen(viewer: ViewerModel, layer: Image) -> tuple[float, float]:
    """``(y, x)``: level-0 pixels of a layer that one pixel of the screen shows."""
    corner = np.asarray(layer.data_to_world((0, 0)), float)
    steps = [
        np.linalg.norm(np.asarray(layer.data_to_world(to), float) - corner)
        for to in ((1, 0), (0, 1))
    ]
    # A zoom is screen pixels per unit of the world, whatever unit the layer counts it in.
    y, x = (1 / max(float(step * camera_of(viewer).zoom), 1e-30) for step in steps)
    return y, x


def view_of(layer: Image) -> Box | None:
    """The level-0 pixels that a multiscale layer has loaded for the window.

    ``None`` where that says nothing: a hidden layer is read afresh when it is shown, and a layer of
    one level is loaded whole.
    """
    if not layer.visible or not layer.multiscale:
        return None
    factors = np.asarray(layer.downsample_factors[layer.data_level])[:2]
    corners = np.asarray(layer.corner_pixels)[:, :2]
    low, high = np.floor(corners[0] * factors), np.ceil((corners[1] + 1) * factors)
    (y0, x0), (y1, x1) = low.astype(int).tolist(), high.astype(int).tolist()
    return Box(y0, x0, y1 - y0, x1 - x0)


def in_view(layer: Image, box: Box) -> bool:
    """Whether a box of level-0 pixels is in what the window shows of a layer."""
    if not layer.visible:
        return False
    shown = view_of(layer)
    return shown is None or bool(shown.intersect(box).area)
