"""Small pictures of areas: what a text encoder's image side sees, in training and afterwards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.resample import read_at
from napari_ssldiff.scenes.scene import PixelSize
from napari_ssldiff.text.conditions import Reference

Picture = NDArray[np.uint8]
#: Edge of the small picture of a cell, in pixels.
THUMB = 16
#: Squares along one side of a reference region: larger regions are sampled, not read as a whole.
MOST = 6


def small_picture(pixels: Picture, cell: int) -> Picture:
    """``(h, w, 3)`` at the model's resolution → ``(h // cell · THUMB, w // cell · THUMB, 3)``."""
    rows, columns = pixels.shape[0] // cell, pixels.shape[1] // cell
    whole = Image.fromarray(pixels[: rows * cell, : columns * cell])
    return np.asarray(whole.resize((columns * THUMB, rows * THUMB), Image.Resampling.BOX))


def read_squares(reference: Reference, pixel: PixelSize, cell: int, window: int) -> list[Picture]:
    """Small pictures of squares of cells that cover a region, as a prior is trained on.

    Parameters
    ----------
    pixel
        The model's. A scene without a physical pixel size is taken to be at it.
    cell
        Edge in pixels of the model.
    window
        Cells along a square; regions that are smaller give smaller squares.

    Returns
    -------
    ``(k · THUMB, k · THUMB, 3)`` uint8, at most :data:`MOST` in a row and in a column. Squares that
    lie mostly outside a polygon are left out.

    Raises
    ------
    InputError
        If the region leaves the image or is smaller than a cell, or the scene is measured in
        another kind of unit.
    """
    scene, bounds = reference.scene, reference.region.bounds
    own = scene.encoder_pixel_size
    if own.unit not in ("pixel", pixel.unit):
        raise InputError(
            f"{scene.name} has pixels in {own.unit}, the prior works in {pixel.unit}: choose a "
            "reference of the same domain"
        )
    if not scene.box.contains(bounds):
        raise InputError(
            f"the reference region {bounds.x},{bounds.y},{bounds.w},{bounds.h} leaves "
            f"{scene.name}, which is {scene.shape[1]} × {scene.shape[0]} pixels"
        )
    sy, sx = (1.0, 1.0) if own.unit == "pixel" else (pixel.y / own.y, pixel.x / own.x)
    # Half a pixel of the model is no reason to lose a row of cells.
    rows, columns = int((bounds.h / sy + 0.5) / cell), int((bounds.w / sx + 0.5) / cell)
    if min(rows, columns) < 1:
        raise InputError(
            f"the reference region of {bounds.w} × {bounds.h} px in {scene.name} is smaller than a "
            f"cell of the model, which is {cell * sx:.0f} × {cell * sy:.0f} px there: choose a "
            "larger one"
        )
    moved = np.asarray(reference.region.vertices) - (bounds.y, bounds.x)
    grid = Box(0, 0, rows, columns)
    inside = Region.from_vertices(moved).mask(grid, (1 / (cell * sy), 1 / (cell * sx)))
    side = min(rows, columns, window)
    places = [(y, x) for y in _starts(rows, side) for x in _starts(columns, side)]
    share = np.array([inside[y : y + side, x : x + side].mean() for y, x in places])
    top, left, edge = round(bounds.y / sy), round(bounds.x / sx), side * cell
    size = PixelSize(own.y * sy, own.x * sx, own.unit)
    return [
        small_picture(read_at(scene, Box(top + y * cell, left + x * cell, edge, edge), size), cell)
        for (y, x), part in zip(places, share, strict=True)
        if part >= share.max() / 2
    ]


def _starts(cells: int, side: int) -> list[int]:
    """Where squares of ``side`` begin that cover ``cells``, or stand evenly in many."""
    count = min(MOST, -(-cells // side))
    return sorted({round(n) for n in np.linspace(0, cells - side, count)})
