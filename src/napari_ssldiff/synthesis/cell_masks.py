"""Ways to a mask of cells: polygons, a picture, the source itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from napari_ssldiff.diffusion.calls import Counters
from napari_ssldiff.diffusion.decode import encode_parts
from napari_ssldiff.embeddings.extract import grid_scale, read_grid
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.synthesis.cells import CellMask, Mask
from napari_ssldiff.synthesis.prepare import frame_of
from napari_ssldiff.synthesis.request import Grid
from napari_ssldiff.text.facts import RULES

#: Pixels around a part of the source in which nuclei are looked for: the rule compares a pixel
#: with what is around it.
AROUND = 40
#: Edge of such a part.
PART = 2048


@dataclass(frozen=True)
class Sheet:
    """The canvas that a mask is for.

    Parameters
    ----------
    scene, region, bundle
        Of the request.
    grid, around, grow
        Of the request, as for :func:`~napari_ssldiff.synthesis.prepare.frame_of`.

    Raises
    ------
    InputError
        From what reads it, if the model takes no mask of cells.
    """

    scene: Scene
    region: Region
    bundle: ModelBundle
    grid: Grid = "source"
    around: int = 0
    grow: int = 0

    def __post_init__(self) -> None:
        refuse_unless_heard(self.bundle)

    @property
    def canvas(self) -> Box:
        """In pixels of the model."""
        frame = frame_of(self.scene, self.region, self.bundle, self.grid, self.around, self.grow)
        return frame.canvas

    @property
    def scale(self) -> tuple[float, float]:
        """Level-0 pixels per pixel of the model, ``(y, x)``."""
        return grid_scale(self.scene, self.bundle.encoder.spec)


def refuse_unless_heard(bundle: ModelBundle) -> None:
    """InputError if a model takes no mask of cells."""
    if not bundle.spec.control:
        raise InputError(
            f"{bundle.card.id} takes no mask of cells: choose a model with a ControlNet, such as "
            "pixcell-256-cells"
        )


def outlined_cells(sheet: Sheet, cells: Sequence[Region]) -> CellMask:
    """Cells as polygons in level-0 pixels of the scene, on a request's canvas.

    Raises
    ------
    InputError
        If there is none on the canvas.
    """
    canvas, scale = sheet.canvas, sheet.scale
    mask: Mask = np.zeros(canvas.shape, bool)
    per = 1 / scale[0], 1 / scale[1]
    for cell in cells:
        bounds = cell.bounds
        y, x = int(np.floor(bounds.y * per[0])), int(np.floor(bounds.x * per[1]))
        y1, x1 = int(np.ceil(bounds.y1 * per[0])), int(np.ceil(bounds.x1 * per[1]))
        place = Box(y, x, y1 - y, x1 - x).intersect(canvas)
        if place.area:
            mask[place.shift(-canvas.y, -canvas.x).slices] |= cell.mask(place, per)
    if not mask.any():
        raise InputError(
            f"none of the {len(cells)} cells lies on the region: they are in pixels of level 0, "
            "x before y, as QuPath exports them"
        )
    return CellMask(mask)


def pictured_cells(sheet: Sheet, picture: NDArray[np.generic]) -> CellMask:
    """Cells as the pixels of a picture of the region that are not 0.

    Parameters
    ----------
    picture
        ``(h, w)``, or ``(h, w, channels)`` of which any counts: the region's bounds. There are no
        cells beyond them.
    """
    held: Mask = np.asarray(picture != 0)
    flat: Mask = np.asarray(held.any(-1)) if held.ndim == 3 else held
    canvas, bounds, scale = sheet.canvas, sheet.region.bounds, sheet.scale
    y = (canvas.y + np.arange(canvas.h) + 0.5) * scale[0] - bounds.y
    x = (canvas.x + np.arange(canvas.w) + 0.5) * scale[1] - bounds.x
    rows = np.floor(y * flat.shape[0] / bounds.h).astype(int)
    columns = np.floor(x * flat.shape[1] / bounds.w).astype(int)
    mask: Mask = np.zeros(canvas.shape, bool)
    inside = [(n >= 0) & (n < size) for n, size in zip((rows, columns), flat.shape, strict=True)]
    mask[np.ix_(*inside)] = flat[rows[inside[0]]][:, columns[inside[1]]]
    return CellMask(mask)


def source_cells(sheet: Sheet) -> CellMask:
    """The nuclei of the source itself, by the rule on colour that captions are held to.

    The rule (:mod:`napari_ssldiff.text.facts`) finds stained nuclei pixel by pixel; it does not
    part those that touch. A segmentation that was made elsewhere is better.

    Raises
    ------
    InputError
        If the model is of no tissue.
    """
    card = sheet.bundle.card
    rule = RULES.get(card.domain, {}).get("nuclei")
    if rule is None:
        raise InputError(f"nuclei are looked for in histology; {card.id} is of {card.domain}")
    canvas = sheet.canvas
    mask: Mask = np.zeros(canvas.shape, bool)
    for y in range(canvas.y, canvas.y1, PART):
        for x in range(canvas.x, canvas.x1, PART):
            part = Box(y, x, PART, PART).intersect(canvas)
            wide = Box(part.y - AROUND, part.x - AROUND, part.h + 2 * AROUND, part.w + 2 * AROUND)
            pixels = read_grid(sheet.scene, wide, sheet.bundle.encoder.spec)
            found = rule((pixels / np.float32(255)).astype(np.float32))
            inner = Box(AROUND, AROUND, part.h, part.w).slices
            mask[part.shift(-canvas.y, -canvas.x).slices] = found[inner]
    return CellMask(mask)


def encode_cells(
    bundle: ModelBundle,
    cells: CellMask,
    shape: tuple[int, int],
    *,
    check: Callable[[], None] = lambda: None,
    counters: Counters | None = None,
) -> torch.Tensor:
    """``(c, h, w)`` latents of a mask, encoded as a picture of cells, white on black.

    Parameters
    ----------
    shape
        Of the canvas in pixels of the model.

    Raises
    ------
    InputError
        If that is not the mask's.
    """
    if cells.mask.shape != shape:
        raise InputError(
            f"the mask of cells has {cells.mask.shape[1]} × {cells.mask.shape[0]} pixels, the "
            f"canvas {shape[1]} × {shape[0]}: make it for this region and model"
        )

    def read(box: Box) -> torch.Tensor:
        return torch.from_numpy(cells.picture(box))

    return encode_parts(bundle.denoiser, read, shape, check=check, counters=counters)
