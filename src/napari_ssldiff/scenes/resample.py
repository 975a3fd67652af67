"""Between the scene's pixels and a model's: reading at any resolution, and the way back.

Both grids share their origin, the outer corner of the scene's pixel (0, 0). With a scale of
``s`` level-0 pixels per grid pixel, grid pixel ``i`` covers ``[i·s, (i+1)·s)`` at level 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.scene import PixelSize, Scene

_FINER = 1.001  # a level this much coarser than wanted still counts as fine enough


def grid_scale(scene: Scene, pixel_size: PixelSize | float) -> tuple[float, float]:
    """Level-0 pixels per pixel of a grid of ``pixel_size``, ``(y, x)``.

    Raises
    ------
    InputError
        If the size is not positive, or in another unit than the scene's.
    """
    own = scene.encoder_pixel_size
    if not isinstance(pixel_size, PixelSize):
        if not (pixel_size > 0 and math.isfinite(pixel_size)):
            raise InputError(f"a pixel size must be positive and finite, got {pixel_size}")
        pixel_size = PixelSize(float(pixel_size), float(pixel_size), own.unit)
    if pixel_size.unit != own.unit:
        raise InputError(
            f"{scene.name} measures pixels in {own.unit}, not in {pixel_size.unit}: "
            "give a size in its own unit"
        )
    return pixel_size.y / own.y, pixel_size.x / own.x


def read_at(scene: Scene, box: Box, pixel_size: PixelSize | float) -> NDArray[np.uint8]:
    """Read a box of a grid of another resolution as RGB.

    The pyramid level at or just finer than needed is read and averaged down with an
    antialiasing filter; where the source is coarser it is interpolated bicubically. Outside the
    image (the source of an extended one) its border is mirrored, so windows across the border hold
    plausible pixels.

    Parameters
    ----------
    scene
        Where to read.
    box
        In pixels of the grid, anchored at the scene's origin; may leave the image.
    pixel_size
        Of the grid, in the unit of ``scene.encoder_pixel_size``.

    Returns
    -------
    ``(h, w, 3)`` uint8.

    Raises
    ------
    InputError
        If the pixel size is in another unit than the scene's, or not positive.
    """
    if not box.area:
        return np.empty((box.h, box.w, 3), np.uint8)
    scale = grid_scale(scene, pixel_size)
    level = _level_for(scene, scale)
    down = scene.downsample(level)
    steps = (_snap(scale[0] / down[0]), _snap(scale[1] / down[1]))
    spans = (
        (_snap(box.y * steps[0]), _snap(box.y1 * steps[0])),
        (_snap(box.x * steps[1]), _snap(box.x1 * steps[1])),
    )
    return _read(scene, level, steps, spans, box.shape)


def read_span(
    scene: Scene,
    rows: tuple[float, float],
    columns: tuple[float, float],
    shape: tuple[int, int],
) -> NDArray[np.uint8]:
    """Read a part of a scene as RGB, wherever its edges lie.

    Parameters
    ----------
    rows, columns
        From where to where, in level-0 pixels counted from their outer corner; they may leave the
        image, whose border is then mirrored.
    shape
        ``(h, w)`` of what is returned.

    Returns
    -------
    ``(h, w, 3)`` uint8, filtered as :func:`read_at` does.

    Raises
    ------
    ValueError
        If the part or the shape has no area.
    """
    lengths = rows[1] - rows[0], columns[1] - columns[0]
    if min(lengths) <= 0 or min(shape) < 1:
        raise ValueError(f"rows {rows}, columns {columns} as {shape} pixels have no area")
    scale = lengths[0] / shape[0], lengths[1] / shape[1]
    level = _level_for(scene, scale)
    dy, dx = scene.downsample(level)
    spans = (
        (_snap(rows[0] / dy), _snap(rows[1] / dy)),
        (_snap(columns[0] / dx), _snap(columns[1] / dx)),
    )
    return _read(scene, level, (_snap(scale[0] / dy), _snap(scale[1] / dx)), spans, shape)


Spans = tuple[tuple[float, float], tuple[float, float]]


def _read(
    scene: Scene, level: int, steps: tuple[float, float], spans: Spans, shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """Rows and columns of a level, ``steps`` of its pixels to one that is returned."""
    margins = [math.ceil(2 * max(step, 1)) + 1 for step in steps]
    if steps == (1.0, 1.0):
        margins = [0, 0]
    lows = [math.floor(a) - m for (a, _), m in zip(spans, margins, strict=True)]
    highs = [math.ceil(b) + m for (_, b), m in zip(spans, margins, strict=True)]
    pixels = _read_mirrored(scene, level, (lows[0], highs[0]), (lows[1], highs[1]))
    inner = (
        spans[1][0] - lows[1],
        spans[0][0] - lows[0],
        spans[1][1] - lows[1],
        spans[0][1] - lows[0],
    )
    return _resize(pixels, shape, inner)


def to_source(
    pixels: NDArray[np.uint8],
    model_box: Box,
    out_box: Box,
    scale: float | tuple[float, float],
) -> NDArray[np.uint8]:
    """Resample pixels of a model's grid onto level 0: the way back from :func:`read_at`.

    Parameters
    ----------
    pixels
        ``(h, w, 3)`` uint8 that fill ``model_box``.
    model_box
        Where they lie, in pixels of the model's grid.
    out_box
        What to return, in level-0 pixels; beyond ``model_box`` the border is repeated.
    scale
        Level-0 pixels per pixel of the model's grid, one number or ``(y, x)``; see
        :func:`grid_scale`. At 1 the pixels pass unchanged.

    Returns
    -------
    ``(out_box.h, out_box.w, 3)`` uint8.

    Raises
    ------
    ValueError
        If ``pixels`` do not have the size of ``model_box``.
    """
    if pixels.shape[:2] != model_box.shape:
        raise ValueError(f"pixels of shape {pixels.shape} do not fill {model_box}")
    if not out_box.area:
        return np.empty((out_box.h, out_box.w, pixels.shape[2]), np.uint8)
    sy, sx = (scale, scale) if isinstance(scale, int | float) else scale
    top, bottom = _snap(out_box.y / sy) - model_box.y, _snap(out_box.y1 / sy) - model_box.y
    left, right = _snap(out_box.x / sx) - model_box.x, _snap(out_box.x1 / sx) - model_box.x
    rows = _clamped(math.floor(top), math.ceil(bottom), model_box.h)
    columns = _clamped(math.floor(left), math.ceil(right), model_box.w)
    padded = np.pad(pixels, (rows, columns, (0, 0)), mode="edge") if any(rows + columns) else pixels
    inner = (left + columns[0], top + rows[0], right + columns[0], bottom + rows[0])
    return _resize(padded, out_box.shape, inner)


def _clamped(low: int, high: int, length: int) -> tuple[int, int]:
    """Pixels to add before and after so that ``[low, high)`` lies inside."""
    return max(0, -low), max(0, high - length)


def _snap(value: float) -> float:
    """Undo rounding noise: 768 · 0.499 / 0.499 is 768."""
    near = round(value)
    return float(near) if abs(value - near) < 1e-6 * max(1.0, abs(value)) ** 0.5 else value


def _level_for(scene: Scene, scale: tuple[float, float]) -> int:
    """The coarsest level that is at least as fine as the grid; level 0 if none is."""
    best = 0
    for i in range(len(scene.levels)):
        dy, dx = scene.downsample(i)
        if dy <= scale[0] * _FINER and dx <= scale[1] * _FINER:
            best = i
    return best


def _read_mirrored(
    scene: Scene, level: int, rows: tuple[int, int], columns: tuple[int, int]
) -> NDArray[np.uint8]:
    # What an extended scene shows around its source is no tissue: the source is mirrored there.
    dy, dx = scene.downsample(level)
    held, (h, w) = scene.held, scene.levels[level].shape[:2]
    y, x = round(held.y / dy), round(held.x / dx)
    if scene.inside is not None:
        h, w = round(held.y1 / dy) - y, round(held.x1 / dx) - x
    ys, xs = (
        y + _mirror((rows[0] - y, rows[1] - y), h),
        x + _mirror((columns[0] - x, columns[1] - x), w),
    )
    y, x = int(ys.min()), int(xs.min())
    inner = scene.read_rgb(Box(y, x, int(ys.max()) - y + 1, int(xs.max()) - x + 1), level)
    if (rows[0], columns[0]) == (y, x) and inner.shape[:2] == (len(ys), len(xs)):
        return inner
    return inner[ys - y][:, xs - x]


def _mirror(span: tuple[int, int], length: int) -> NDArray[np.int64]:
    """Indices of ``[low, high)`` reflected into ``[0, length)``, the border pixel repeated."""
    index = np.arange(*span, dtype=np.int64) % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


def _resize(
    pixels: NDArray[Any], shape: tuple[int, int], inner: tuple[float, float, float, float]
) -> NDArray[np.uint8]:
    """The part ``inner`` = (left, top, right, bottom) of ``pixels``, resampled to ``shape``.

    Pillow takes pixels around the part into its filter, so neighbouring boxes fit together.
    """
    left, top, right, bottom = inner
    h, w = shape
    if (right - left, bottom - top) == (w, h) and left == int(left) and top == int(top):
        return np.ascontiguousarray(pixels[int(top) : int(top) + h, int(left) : int(left) + w])
    shrinks = max((right - left) / w, (bottom - top) / h) > 1
    # Hamming: as sharp as a box average, without a box's jumps at fractional factors.
    kind = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((w, h), kind, box=inner)).copy()
