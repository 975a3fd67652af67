"""``--cells``: where the cells of a variation are to lie."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from napari_ssldiff.errors import InputError

if TYPE_CHECKING:
    from napari_ssldiff.geometry import Region
    from napari_ssldiff.models import ModelBundle
    from napari_ssldiff.scenes import Scene
    from napari_ssldiff.synthesis.cells import CellMask
    from napari_ssldiff.synthesis.request import Grid

SOURCE = "source"
_GEOJSON = (".geojson", ".json")


def add_option(parser: argparse.ArgumentParser) -> None:
    """The option."""
    parser.add_argument(
        "--cells", metavar="FILE|source",
        help="where cells are to lie, for a model with a ControlNet: polygons in GeoJSON as QuPath "
        "exports cells, a picture of the region that is 0 between cells, or the source's nuclei",
    )  # fmt: skip


def check_option(cells: str | None) -> None:
    """InputError if it is neither a file nor the source."""
    if cells and cells != SOURCE and not Path(cells).exists():
        raise InputError(f"--cells is a file, or the word {SOURCE}; there is no file {cells!r}")


def cells_of(
    cells: str | None,
    scene: Scene,
    region: Region,
    bundle: ModelBundle,
    *,
    grid: Grid,
    around: int,
    grow: int,
) -> CellMask | None:
    """The mask that the option names.

    Raises
    ------
    InputError
        If the model takes none, or the file is none.
    """
    if not cells:
        return None
    from napari_ssldiff.synthesis import cell_masks

    sheet = cell_masks.Sheet(scene, region, bundle, grid, around, grow)
    if cells == SOURCE:
        return cell_masks.source_cells(sheet)
    path = Path(cells)
    if path.suffix.lower() in _GEOJSON:
        from napari_ssldiff.scenes.geojson import read_features

        found = [feature.region for feature in read_features(path)]
        held = scene.held  # polygons count from the source's own corner, also in extended scenes
        moved = [type(cell).from_vertices([(y + held.y, x + held.x) for y, x in cell.vertices])
                 for cell in found]  # fmt: skip
        return cell_masks.outlined_cells(sheet, moved)
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            opaque = image.convert("RGB") if "A" in image.getbands() else image
            picture = np.asarray(opaque)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the mask of cells {path}: {error}") from None
    return cell_masks.pictured_cells(sheet, picture)
