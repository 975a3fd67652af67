"""Shapes as regions: napari's coordinates and units to level-0 pixels of a scene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.viewer.units import factor

if TYPE_CHECKING:
    from napari.layers import Image, Shapes

Points = NDArray[np.float64]
_ELLIPSE = 64  # vertices of the polygon that stands for an ellipse


def region_of_shape(vertices: ArrayLike, kind: str, box: Box) -> Region:
    """One shape as a region, cut to the scene.

    Parameters
    ----------
    vertices
        ``(N, 2)`` in level-0 pixels, where pixel ``(i, j)`` covers ``[i, i+1) × [j, j+1)``.
    kind
        napari's shape type; upright rectangles are rounded to whole pixels, an ellipse is given
        by its four corners, a path is closed.
    box
        All of the scene.

    Raises
    ------
    InputError
        If the shape has no area inside the scene.
    """
    points = np.asarray(vertices, float)
    if kind == "line" or len(points) < 3:
        raise InputError(f"a {kind} encloses nothing: draw a rectangle or a polygon")
    if kind == "ellipse":
        points = _ellipse(points)
    if kind == "rectangle" and _upright(points):
        low, high = np.round(points.min(0)).astype(int), np.round(points.max(0)).astype(int)
        y, x = low.tolist()
        h, w = (high - low).tolist()
        inside = Box(y, x, h, w).intersect(box)
        if not inside.area:
            raise InputError(_outside(points, box))
        return Region.from_box(inside)
    points = _clip(points, box)
    try:
        return Region.from_vertices(points)
    except ValueError:
        raise InputError(_outside(np.asarray(vertices, float), box)) from None


def to_scene_pixels(vertices: ArrayLike, layer: Shapes | Image, target: Image) -> Points:
    """Coordinates of a layer as level-0 pixels of the scene shown by ``target``.

    Scale, rotation, translation *and units* of both layers count. napari's coordinates count
    from pixel centres, ours from corners.

    Raises
    ------
    InputError
        If the units of both layers do not compare.
    """
    points = np.asarray(vertices, float)
    mine, theirs = _to_world(layer), _to_world(target)
    factors = [factor(a, b) for a, b in zip(layer.units, target.units, strict=True)]
    if None in factors:
        raise InputError(
            f"the layer {str(layer.name)!r} is in {layer.units[0]}, the scene "
            f"{str(target.name)!r} in {target.units[0]}: give both the same kind of unit, or "
            "draw with the buttons of this panel"
        )
    matrix = np.linalg.inv(theirs) @ np.diag([*factors, 1.0]) @ mine
    moved: Points = points @ matrix[:2, :2].T + matrix[:2, 2] + 0.5
    return moved


def from_scene_pixels(points: ArrayLike, layer: Shapes, target: Image) -> Points:
    """Level-0 pixels of the scene shown by ``target`` as coordinates of ``layer``."""
    matrix = np.linalg.inv(_to_world(layer)) @ _to_world(target)
    moved: Points = (np.asarray(points, float) - 0.5) @ matrix[:2, :2].T + matrix[:2, 2]
    return moved


def foreign_shapes(layer: Shapes, target: Image) -> list[tuple[Points, str]]:
    """All shapes of any Shapes layer, in level-0 pixels, with their types.

    Raises
    ------
    InputError
        If the layer is not two-dimensional or its units do not compare.
    """
    if layer.ndim != 2:
        raise InputError(
            f"the layer {str(layer.name)!r} has {layer.ndim} dimensions: shapes must be 2-D"
        )
    return [
        (to_scene_pixels(data, layer, target), str(kind))
        for data, kind in zip(layer.data, layer.shape_type, strict=True)
    ]


def describe(region: Region, kind: str) -> str:
    """``"Rectangle · 768 × 768 px at x 600, y 900"``."""
    b = region.bounds
    return f"{kind.capitalize()} · {b.w} × {b.h} px at x {b.x}, y {b.y}"


def _to_world(layer: Any) -> NDArray[np.float64]:
    """The 3 × 3 matrix from data to world, in the layer's units, by public means."""
    origin = np.asarray(layer.data_to_world((0, 0)), float)
    matrix = np.eye(3)
    matrix[:2, 0] = np.asarray(layer.data_to_world((1, 0)), float) - origin
    matrix[:2, 1] = np.asarray(layer.data_to_world((0, 1)), float) - origin
    matrix[:2, 2] = origin
    return matrix


def _ellipse(corners: Points) -> Points:
    """napari keeps the four corners of an ellipse's (perhaps turned) rectangle."""
    centre = corners.mean(0)
    a, b = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    t = np.linspace(0, 2 * np.pi, _ELLIPSE, endpoint=False)[:, None]
    return np.asarray(centre + np.cos(t) * a + np.sin(t) * b)


def _upright(points: Points) -> bool:
    edges = np.roll(points, -1, axis=0) - points
    return len(points) == 4 and bool((np.abs(edges).min(1) < 1e-2).all())


def _clip(points: Points, box: Box) -> Points:
    """Sutherland and Hodgman's clipping of a polygon by a rectangle (1974)."""
    for axis, limit, sign in ((0, box.y, 1), (0, box.y1, -1), (1, box.x, 1), (1, box.x1, -1)):
        if not len(points):
            break
        kept: list[Points] = []
        for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
            da, db = sign * (a[axis] - limit), sign * (b[axis] - limit)
            if da >= 0:
                kept.append(a)
            if da * db < 0:
                kept.append(a + (b - a) * da / (da - db))
        points = np.asarray(kept).reshape(-1, 2)
    return points


def _outside(points: Points, box: Box) -> str:
    y, x = points.mean(0)
    return (
        f"the region around x {x:.0f}, y {y:.0f} has no area inside the scene of "
        f"{box.w} × {box.h} px: draw it on the image"
    )
