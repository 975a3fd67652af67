"""An endless slide as arrays: what napari shows, and what an export reads."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.diffusion.lazy import TILE
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.levels import Level, Problems


class Endless(Protocol):
    """What levels read: a :class:`~napari_ssldiff.synthesis.endless.LazyScene`."""

    shape: tuple[int, int]

    def read(self, level: int, box: Box) -> NDArray[np.uint8]: ...
    def render(self, box: Box) -> NDArray[np.uint8]: ...


class _EndlessLevel(Level):
    """A level without a file: no tile of it is bad, so nothing is read twice."""

    def __init__(self, scene: Endless, level: int, bands: int) -> None:
        self.scene, self.level = scene, level
        h, w = (-(-n // 2**level) for n in scene.shape)
        name = f"endless slide (level {level})"
        super().__init__((h, w, bands), np.dtype(np.uint8), (TILE, TILE), Problems(), name)

    @property
    def size(self) -> int:
        """Number of samples, as a Python integer: the largest slides overflow none."""
        h, w, bands = self.shape
        return h * w * bands

    def read(self, box: Box) -> NDArray[Any]:
        """Samples ``(h, w, bands)`` of a box inside the level."""
        return self.fetch(box)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if self.size > 2**30:
            raise InputError(
                f"{self.name} of {self.shape[1]} × {self.shape[0]} pixels does not fit into "
                "memory as a whole; read a part of it"
            )
        return super().__array__(dtype, copy)


class LazyLevel(_EndlessLevel):
    """One level as napari takes it: ``(h, w, 4)`` uint8, which shows what was made so far."""

    def __init__(self, scene: Endless, level: int) -> None:
        super().__init__(scene, level, 4)

    def fetch(self, box: Box) -> NDArray[np.uint8]:
        """What the scene's ``read`` gives."""
        return self.scene.read(self.level, box)


class RenderedLevel(_EndlessLevel):
    """Level 0 as ``(h, w, 3)`` uint8 that makes what it lacks when it is read.

    Reading takes as long as the network takes, so it belongs to the thread that owns the model.
    """

    def __init__(self, scene: Endless) -> None:
        super().__init__(scene, 0, 3)

    def fetch(self, box: Box) -> NDArray[np.uint8]:
        """What the scene's ``render`` gives."""
        return self.scene.render(box)
