"""A scene of nothing, for pictures that come from a field alone."""

from __future__ import annotations

import numpy as np

from napari_ssldiff.scenes.levels import ArrayLevel, Problems
from napari_ssldiff.scenes.scene import PixelSize, Scene


def blank_scene(
    shape: tuple[int, int],
    pixel_size: PixelSize,
    name: str = "blank",
    background: tuple[int, int, int] = (255, 255, 255),
    path: str = "",
) -> Scene:
    """A scene of ``(h, w)`` pixels of one colour that takes no memory.

    Its ``path`` is no file, so nothing is cached by it; it tells scenes of one name apart.
    """
    pixels = np.broadcast_to(np.asarray(background, np.uint8), (*shape, 3))
    level = ArrayLevel(pixels, "YXC", "C", (512, 512), Problems(), name)
    return Scene(path, name, (level,), pixel_size, background=background)
