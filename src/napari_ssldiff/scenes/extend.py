"""A scene with room around it, for images that are to grow past their edge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.levels import Level, Problems
from napari_ssldiff.scenes.scene import LevelArray, Scene

#: Margins are multiples of this, so that levels that halve keep their places.
STEP = 256


class ExtendedLevel(Level):
    """A level in the middle of a larger one that is filled with one value per band.

    Parameters
    ----------
    level
        What lies in the middle.
    margin
        ``(y, x)`` pixels of this level on each side.
    fill
        ``(bands,)`` of what lies around it.
    """

    def __init__(
        self,
        level: LevelArray,
        margin: tuple[int, int],
        fill: NDArray[Any],
        problems: Problems,
        name: str,
    ) -> None:
        self._level, self._fill = level, fill
        h, w, bands = level.shape
        self._place = Box(*margin, h, w)
        shape = (h + 2 * margin[0], w + 2 * margin[1], bands)
        chunk = getattr(level, "chunks", None) or (512, 512)
        super().__init__(shape, level.dtype, (chunk[0], chunk[1]), problems, name)

    def fetch(self, box: Box) -> NDArray[Any]:
        """Samples ``(h, w, bands)``."""
        out = np.empty((*box.shape, self.shape[2]), self.dtype)
        out[:] = self._fill
        known = box.intersect(self._place)
        if known.area:
            inner = known.shift(-self._place.y, -self._place.x)
            out[known.shift(-box.y, -box.x).slices] = self._level[inner.slices]
        return out


def extend(scene: Scene, margin: int) -> Scene:
    """A scene with ``margin`` pixels around it on every side.

    They show the background, and :func:`~napari_ssldiff.scenes.resample.read_at` gives the mirror
    image there, so that a model that embeds them sees what could go on. ``inside`` says which
    pixels are the source's own.

    Parameters
    ----------
    scene
        Must stay open.
    margin
        Level-0 pixels, rounded up to a multiple of :data:`STEP`.

    Raises
    ------
    InputError
        If the margin is not positive or wider than the image.
    """
    if not 0 < margin <= min(scene.shape):
        h, w = scene.shape
        raise InputError(
            f"{scene.name} of {w} × {h} px is extended by 1 to {min(h, w)} px, not by {margin}"
        )
    margin = -(-margin // STEP) * STEP
    problems = scene.problems if isinstance(scene.problems, Problems) else Problems()
    bands = scene.levels[0].shape[2]
    fill = np.zeros(bands, scene.dtype)
    if scene.nodata is not None:
        fill[:] = scene.nodata
    else:
        shown = scene.display.from_rgb(np.asarray(scene.background, np.uint8), scene.dtype)
        fill[list(scene.display.bands)] = shown
    scales = [scene.downsample(i) for i in range(len(scene.levels))]
    levels = [
        ExtendedLevel(
            level,
            (round(margin / dy), round(margin / dx)),
            fill,
            problems,
            f"{scene.name} (extended, level {i})",
        )
        for i, (level, (dy, dx)) in enumerate(zip(scene.levels, scales, strict=True))
    ]
    size, affine = scene.pixel_size, scene.affine
    if affine is not None:
        a, b, c, d, e, f = affine
        affine = (a, b, c - (a + b) * margin, d, e, f - (d + e) * margin)
    held = scene.held
    return replace(
        scene,
        # No file: nothing that is cached by the file may be taken for this.
        path=f"{scene.path} extended by {margin} px",
        name=f"{scene.name} · extended",
        levels=tuple(levels),
        origin=(scene.origin[0] - margin * size.y, scene.origin[1] - margin * size.x),
        affine=affine,
        facts={**scene.facts, "extended_by": margin},
        scales=tuple(scales),
        inside=held.shift(margin, margin),
        closers=(),
    )
