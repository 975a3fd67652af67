"""Which bands to show, how to stretch them, and what counts as background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.levels import Level
from napari_ssldiff.scenes.scene import Display

_NAMES = (
    {"red", "r", "b4", "b04"},  # the numbers are Sentinel-2's, the one common convention
    {"green", "g", "b3", "b03"},
    {"blue", "b", "b2", "b02"},
)
_WHOLE = 2048 * 2048  # pixels of a stored level that is read whole for statistics
_GRID, _BLOCK = 6, 128


def sample(levels: Sequence[Level]) -> NDArray[Any]:
    """``(n, bands)`` samples that stand for the image, without reading all of it.

    The coarsest stored level where it is small, else a grid of blocks of it.
    """
    level = [lv for lv in levels if lv.stored][-1]
    h, w, bands = level.shape
    if h * w <= _WHOLE:
        return np.asarray(level).reshape(-1, bands)
    blocks = []
    for i in range(_GRID):
        for j in range(_GRID):
            y = max(0, int((i + 0.5) * h / _GRID) - _BLOCK // 2)
            x = max(0, int((j + 0.5) * w / _GRID) - _BLOCK // 2)
            box = Box(0, 0, h, w).intersect(Box(y, x, _BLOCK, _BLOCK))
            blocks.append(level.read(box).reshape(-1, bands))
    return np.concatenate(blocks)


def choose_bands(names: Sequence[str], chosen: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """The bands to show as red, green and blue.

    The user's choice, else bands named so, else the first three; one band (or two) as grey.

    Raises
    ------
    InputError
        If the user's choice is not three bands of the image.
    """
    count = len(names)
    if chosen is not None:
        if len(chosen) != 3 or not all(0 <= b < count for b in chosen):
            raise InputError(
                f"bands must be three numbers between 0 and {count - 1}, got {tuple(chosen)}"
            )
        return int(chosen[0]), int(chosen[1]), int(chosen[2])
    if count < 3:
        return 0, 0, 0
    plain = [name.strip().lower() for name in names]
    found = [next((i for i, n in enumerate(plain) if n in known), None) for known in _NAMES]
    if found[0] is None or found[1] is None or found[2] is None:
        return 0, 1, 2
    return found[0], found[1], found[2]


def make_display(
    bands: tuple[int, int, int],
    dtype: np.dtype[Any],
    count: int,
    samples: NDArray[Any] | None,
    nodata: float | None = None,
    inverted: bool = False,
) -> Display:
    """8-bit grey, RGB and four bands as they are, all else stretched from percentile 2 to 98.

    Parameters
    ----------
    samples
        ``(n, count)``, as :func:`sample` gives them; not needed where nothing is stretched.
    inverted
        Whether 0 is white.
    """
    if dtype == np.uint8 and count <= 4:
        return Display(bands, (255.0,) * 3, (0.0,) * 3) if inverted else Display(bands)
    if samples is None:
        raise ValueError(f"{dtype} samples need statistics to be shown")
    low, high = [], []
    for band in bands:
        values = samples[:, band]
        keep = np.isfinite(values)
        if values.dtype.kind == "f":  # a hole is marked with the largest number there is
            keep &= values < np.finfo(values.dtype).max
        if nodata is not None:
            keep &= values != nodata
        lo, hi = np.percentile(values[keep], (2, 98)) if keep.any() else (0.0, 1.0)
        low.append(float(lo))
        high.append(float(hi) if hi > lo else float(lo) + 1.0)
    ends = ((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    return Display(bands, *(ends[::-1] if inverted else ends))


def slide_background(rgb: NDArray[np.uint8]) -> tuple[int, int, int]:
    """The commonest bright colour of ``(n, 3)`` pixels: the glass of a slide.

    White where less than a hundredth of the pixels is bright.
    """
    bright = rgb[rgb.min(axis=1) >= 170].astype(np.int64)
    if len(bright) < max(1, len(rgb) // 100):
        return 255, 255, 255
    bins = bright // 8
    codes = (bins[:, 0] * 32 + bins[:, 1]) * 32 + bins[:, 2]
    mode = np.bincount(codes).argmax()
    r, g, b = np.round(bright[codes == mode].mean(axis=0)).astype(int).tolist()
    return r, g, b
