"""A scene with the overlay on top, computed where it is sliced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.export.lazy import LazyImage
from napari_ssldiff.export.overlay_store import OverlayStore
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.scene import Scene


class Composite(LazyImage):
    """``(h, w, 3)`` of the scene's dtype: its three shown bands, synthetic where there is some.

    Where the overlay's alpha is 0 the source's values pass bit for bit; where it is 255 they
    are the synthetic colours with the display stretch inverted; between, both are blended in
    the scene's values (synthetic alone where the source holds nothing).

    Parameters
    ----------
    scene
        Read lazily; must stay open.
    box
        In level-0 pixels, inside the scene.
    overlay
        Painted in level-0 pixels (``grid="source"``); ``None`` for the source alone.

    Raises
    ------
    InputError
        If the box has no area or leaves the scene.
    """

    def __init__(self, scene: Scene, box: Box, overlay: OverlayStore | None = None) -> None:
        if not box.area or not scene.box.contains(box):
            h, w = scene.shape
            raise InputError(
                f"the region x {box.x}, y {box.y}, {box.w} × {box.h} px leaves {scene.name}, "
                f"which is {w} × {h} px: choose one inside"
            )
        self.scene, self.box, self.overlay = scene, box, overlay
        super().__init__((*box.shape, 3), scene.dtype, self._blend)

    @property
    def synthetic(self) -> LazyImage:
        """``(h, w)`` uint8, 1 where the overlay shows (alpha above 0)."""
        return LazyImage(self.box.shape, np.uint8, self._mask)

    def _mask(self, box: Box) -> NDArray[np.uint8]:
        return _mask(self.overlay, box.shift(self.box.y, self.box.x))

    def _blend(self, box: Box) -> NDArray[Any]:
        place = box.shift(self.box.y, self.box.x)
        display = self.scene.display
        pixels = self.scene.read(place)[..., list(display.bands)]
        if self.overlay is None or not self.overlay.touched(place):
            return pixels
        rgba = self.overlay.read(place)
        alpha = rgba[..., 3]
        shown = alpha > 0
        values = display.from_rgb(rgba[shown][:, :3], self.dtype)
        partial = alpha[shown] < 255
        if partial.any():
            under = pixels[shown][partial]
            over, weight = values[partial], alpha[shown][partial][:, None] / 255
            values = values.copy()
            values[partial] = self._mix(under, over, weight)
        pixels[shown] = values
        return pixels

    def _mix(
        self, under: NDArray[Any], over: NDArray[Any], weight: NDArray[np.float64]
    ) -> NDArray[Any]:
        mixed = under.astype(np.float64) * (1 - weight) + over.astype(np.float64) * weight
        if self.dtype.kind in "iu":
            mixed = np.round(mixed)
        empty = ~np.isfinite(under)
        if self.scene.nodata is not None:
            empty |= under == self.scene.nodata
        return np.where(empty, over, np.where(empty, 0, mixed).astype(self.dtype))


def composite_scene(scene: Scene, overlay: OverlayStore) -> Scene:
    """A scene as its overlay leaves it: what is synthetic counts as what is there.

    It stays open as long as ``scene`` does, and has no file that a cache could be keyed by.
    """
    return replace(
        scene,
        path=f"{scene.path} with its overlay",
        levels=(Composite(scene, scene.box, overlay),),
        band_names=tuple(scene.band_names[band] for band in scene.display.bands),
        display=replace(scene.display, bands=(0, 1, 2)),
        scales=None,
        closers=(),
    )


class OverlayImage(LazyImage):
    """``(h, w, 3)`` uint8: the overlay alone, over a background.

    For ``grid="model"``, where there is no source to stand behind it. Pixels that were never
    filled become the background, never black.

    Parameters
    ----------
    overlay
        The live store; the image is all of it.
    background
        RGB, 0…255.
    """

    def __init__(
        self, overlay: OverlayStore, background: tuple[int, int, int] = (255, 255, 255)
    ) -> None:
        self.overlay, self.background = overlay, background
        self.box = overlay.box
        super().__init__((*overlay.box.shape, 3), np.uint8, self._flatten)

    @property
    def synthetic(self) -> LazyImage:
        """``(h, w)`` uint8, 1 where the overlay shows (alpha above 0)."""
        return LazyImage(self.box.shape, np.uint8, self._mask)

    def _mask(self, box: Box) -> NDArray[np.uint8]:
        return _mask(self.overlay, box.shift(self.box.y, self.box.x))

    def _flatten(self, box: Box) -> NDArray[np.uint8]:
        return flatten(self.overlay.read(box.shift(self.box.y, self.box.x)), self.background)


def flatten(rgba: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """``(h, w, 4)`` uint8 over a colour → ``(h, w, 3)`` uint8; alpha 255 passes unchanged."""
    alpha = rgba[..., 3:].astype(np.uint32)
    behind = np.asarray(background, np.uint32)
    return ((rgba[..., :3] * alpha + behind * (255 - alpha) + 127) // 255).astype(np.uint8)


def _mask(overlay: OverlayStore | None, place: Box) -> NDArray[np.uint8]:
    if overlay is None or not overlay.touched(place):
        return np.zeros(place.shape, np.uint8)
    return (overlay.read(place)[..., 3] > 0).astype(np.uint8)
