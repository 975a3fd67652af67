"""Open anything as a lazy pyramid with its place in the world.

>>> with open_scene("slide.svs") as scene:  # doctest: +SKIP
...     pixels = scene.read_rgb(Box(900, 600, 768, 768))
"""

from __future__ import annotations

from napari_ssldiff.scenes.describe import describe
from napari_ssldiff.scenes.open import open_scene
from napari_ssldiff.scenes.resample import read_at, to_source
from napari_ssldiff.scenes.scene import Display, LevelArray, PixelSize, Scene

__all__ = [
    "Display",
    "LevelArray",
    "PixelSize",
    "Scene",
    "describe",
    "open_scene",
    "read_at",
    "to_source",
]
