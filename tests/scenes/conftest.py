"""Synthetic images and files of every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

PixelsOf = Callable[..., NDArray[np.uint8]]


def smooth_image(h: int, w: int) -> NDArray[np.uint8]:
    """``(h, w, 3)`` with slow waves, another in each channel, so that places can be told apart."""
    y, x = np.mgrid[:h, :w] + 0.5
    waves = [np.sin(x / 31) * np.cos(y / 47), np.sin((x + y) / 53), np.cos(x / 71 - y / 37)]
    return np.round(127.5 + 110 * np.stack(waves, -1)).astype(np.uint8)


@pytest.fixture
def smooth() -> PixelsOf:
    """:func:`smooth_image`."""
    return smooth_image


@pytest.fixture
def write_pyramid(tmp_path: Path) -> Callable[..., Path]:
    """Writes levels (each half the one before) as a tiled TIFF with SubIFDs or loose pages."""

    def write(levels: list[NDArray[Any]], name: str = "pyramid.tif", **options: Any) -> Path:
        path = tmp_path / name
        options = {"tile": (256, 256), "photometric": "rgb", **options}
        with tifffile.TiffWriter(path, ome=name.endswith(".ome.tif")) as writer:
            writer.write(levels[0], subifds=len(levels) - 1, **options)
            options.pop("metadata", None)
            for level in levels[1:]:
                writer.write(level, subfiletype=1, metadata=None, **options)
        return path

    return write
