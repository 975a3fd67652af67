"""Masks of cells that a variation keeps to: the source's nuclei, or what a Labels layer holds.

What is chosen on the main thread is read by the worker, when the variation's turn comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ssldiff.geometry import Region
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.viewer.guides import corners_on
from napari_ssldiff.viewer.layer_scene import FIELD_KEY
from napari_ssldiff.viewer.regions import Points
from napari_ssldiff.viewer.session import CellChoice

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_ssldiff.models.load import ModelBundle
    from napari_ssldiff.synthesis.cells import CellMask


@dataclass(frozen=True, eq=False)
class Cells:
    """A mask of cells as the worker takes it.

    Parameters
    ----------
    labels
        ``(h, w)`` array of any kind, 0 between cells; ``None``: the source's nuclei.
    corners
        ``(2, 2)``: the region's bounds on the labels, low and high.
    """

    labels: Any = None
    corners: Points | None = None

    def mask(
        self, source: Scene, region: Region, bundle: ModelBundle, *, around: int, grow: int
    ) -> CellMask:
        """Read it. Loads torch, so this is for the worker.

        Parameters
        ----------
        around, grow
            Of the request.

        Raises
        ------
        InputError
            If the model takes none.
        """
        from napari_ssldiff.synthesis.cell_masks import Sheet, pictured_cells, source_cells

        sheet = Sheet(source, region, bundle, around=around, grow=grow)
        if self.corners is None:
            return source_cells(sheet)
        (y0, x0), (y1, x1) = self.corners.tolist()
        bounds, (sy, sx) = region.bounds, sheet.scale
        rows = _lines(y0, y1, max(1, round(bounds.h / sy)), self.labels.shape[0])
        columns = _lines(x0, x1, max(1, round(bounds.w / sx)), self.labels.shape[1])
        part = self.labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        held = np.asarray(part) != 0  # of dask and zarr only what is needed
        return pictured_cells(sheet, held[np.ix_(rows - rows[0], columns - columns[0])])


def _lines(low: float, high: float, count: int, size: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """The rows or columns in which ``count`` equal parts have their middles."""
    middles = low + (np.arange(count) + 0.5) / count * (high - low)
    return np.clip(np.floor(middles).astype(np.intp), 0, size - 1)


def offered_labels(layers: Iterable[Any]) -> list[Any]:
    """The Labels layers that may hold cells, topmost first: flat ones, and not our own brush."""
    from napari.layers import Labels

    return [
        layer
        for layer in reversed(list(layers))
        if isinstance(layer, Labels) and layer.ndim == 2 and FIELD_KEY not in layer.metadata
    ]


def cells_for(choice: CellChoice, region: Region, source: Image) -> Cells | None:
    """What the worker needs for a region's mask; ``None`` for nothing.

    Raises
    ------
    InputError
        If the layer does not cover the region.
    """
    if choice.of == "nothing":
        return None
    if choice.of == "source":
        return Cells()
    layer = choice.layer
    labels = layer.data[0] if layer.multiscale else layer.data
    return Cells(labels, corners_on(region, source, layer, labels.shape, "no mask of cells"))
