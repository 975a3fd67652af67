"""Which places of the images are measured: squares at the model's resolution that hold content."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.encoder import EncoderSpec
from napari_ssldiff.embeddings.extract import grid_scale, holds_tissue, read_grid
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes import Scene, open_scene


@dataclass(frozen=True)
class Tile:
    """A square of an image.

    Parameters
    ----------
    path
        The image.
    box
        The square in level-0 pixels.
    pixels
        ``(size, size, 3)`` uint8 at the model's resolution.
    content
        Which of its cells are not background, row by row.
    """

    path: Path
    box: Box
    pixels: NDArray[np.uint8]
    content: NDArray[np.bool_]

    @property
    def image(self) -> str:
        """Names the image."""
        return str(self.path)

    @property
    def region(self) -> Region:
        """The square as a region."""
        return Region.from_box(self.box)


def cells_of(pixels: NDArray[np.uint8], cell: int) -> NDArray[np.uint8]:
    """``(h, w, 3)`` → its whole cells ``(n, cell, cell, 3)``, row by row."""
    rows, columns = pixels.shape[0] // cell, pixels.shape[1] // cell
    cut = pixels[: rows * cell, : columns * cell]
    grid = cut.reshape(rows, cell, columns, cell, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(-1, cell, cell, 3)


def place_regions(shape: tuple[int, int], size: int, count: int) -> list[Box]:
    """Up to ``count`` disjoint squares spread over an image, in its pixels."""
    rows, columns = shape[0] // size, shape[1] // size
    boxes = [Box(r * size, c * size, size, size) for r in range(rows) for c in range(columns)]
    keep = np.unique(np.linspace(0, len(boxes) - 1, min(count, len(boxes))).round().astype(int))
    return [boxes[i] for i in keep] if boxes else []


def _golden(count: int) -> NDArray[np.int64]:
    """An order of ``0 … count - 1`` whose every beginning is spread over all of it."""
    return ((np.arange(count) * 0.6180339887498949) % 1).argsort()


def _tiles(scene: Scene, path: Path, spec: EncoderSpec, size: int) -> Iterator[Tile]:
    scale = grid_scale(scene, spec)
    edge = math.ceil(size * max(scale) - 1e-6)
    boxes = place_regions(scene.shape, edge, (scene.shape[0] // edge) * (scene.shape[1] // edge))
    for box in (boxes[i] for i in _golden(len(boxes))):
        corner = box.scaled_outward((1 / scale[0], 1 / scale[1]))
        pixels = read_grid(scene, Box(corner.y, corner.x, size, size), spec)
        content = holds_tissue(cells_of(pixels, spec.cell), scene.background)
        if content.mean() >= 0.25:
            yield Tile(path, box, pixels, content)


def read_tiles(
    paths: Sequence[Path],
    spec: EncoderSpec,
    size: int,
    *,
    count: int | None = None,
    cells: int | None = None,
) -> list[Tile]:
    """Tiles of many images: one of every image, then a second one, until there are enough.

    The order does not depend on how many are asked for: a shorter list is the beginning of a
    longer one, spread over images and places.

    Parameters
    ----------
    size
        Edge in model pixels.
    count, cells
        Stop at so many tiles, or so many cells with content; neither reads all.

    Returns
    -------
    Tiles of which at least a quarter of the cells hold content; fewer than asked for where the
    images hold no more.
    """
    if not paths:
        return []
    target = count if count is not None else cells
    if target is not None and count is None:
        target = -(-target // max(1, (size // spec.cell) ** 2))
    ordered = [paths[i] for i in _golden(len(paths))]
    quota = None if target is None else max(1, -(-target // len(paths)))

    def enough(tiles: Sequence[Tile]) -> bool:
        if count is not None:
            return len(tiles) >= count
        return cells is not None and sum(int(t.content.sum()) for t in tiles) >= cells

    while True:
        groups: list[list[Tile]] = []
        more = False
        for path in ordered:
            with open_scene(path) as scene:
                found = list(itertools.islice(_tiles(scene, path, spec, size), quota))
            groups.append(found)
            more |= len(found) == quota
            if quota == 1 and enough([tile for group in groups for tile in group]):
                break
        chosen: list[Tile] = []
        for tile in (t for turn in itertools.zip_longest(*groups) for t in turn if t is not None):
            if enough(chosen):
                break
            chosen.append(tile)
        if quota is None or not more or enough(chosen):
            return chosen
        quota *= 2


def evaluation_scenes(
    paths: Sequence[Path], folds: Path | None = None, fold: str = "heldout"
) -> list[Path]:
    """Image files below files and folders, cut to a fold.

    Parameters
    ----------
    folds
        CSV with the columns ``fold`` and ``path`` (whose end is matched) or ``name`` (stem).

    Raises
    ------
    InputError
        If nothing is left.
    """
    kinds = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".svs"}
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.suffix.lower() in kinds)
        elif path.exists():
            files.append(path)
        else:
            raise InputError(f"no image or folder at {path}")
    if folds:
        try:
            with folds.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["fold"] == fold]
            names = {row.get("name") or Path(row["path"]).stem for row in rows}
        except KeyError as error:
            raise InputError(f"the folds in {folds} lack the column {error}") from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"cannot read the folds in {folds}: {error}") from None
        files = [f for f in files if f.stem in names]
    if not files:
        raise InputError(f"no image of the fold {fold!r} in {', '.join(map(str, paths))}")
    return files
