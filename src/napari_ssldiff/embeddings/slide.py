"""A whole scene by a sample of its cells, even over what is no background.

The sample is a field of its own, of which every cell stands for a square block of the encoder's
and has the embedding of the one in its middle. So all that can be done with a region's field can be
done with it: prototypes, similarity, nearest cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray

from napari_ssldiff.embeddings.encoder import Encoder, EncoderSpec
from napari_ssldiff.embeddings.extract import (
    cache_file,
    grid_scale,
    holds_tissue,
    keep,
    kept,
    read_grid,
)
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import PixelSize, Scene, read_at

#: Cells of a sample at most.
CELLS = 1024
#: Edge of the picture in which background is told from the rest, in pixels at most.
OVERVIEW = 2048
#: Blocks of a sample for each of its cells at most, background and all.
MOST = 32
#: Cells that are read and embedded together.
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Sampled:
    """A sample of a scene's cells.

    Parameters
    ----------
    field
        A cell for every block of ``step`` × ``step``; valid where the middle one was embedded.
    cell
        ``(h, w)`` of a cell of the encoder in level-0 pixels.
    grid
        ``(rows, columns)`` of these in the scene.
    """

    field: EmbeddingField
    cell: tuple[float, float]
    grid: tuple[int, int]

    @property
    def step(self) -> int:
        """Cells of the encoder along a block."""
        return round(self.field.cell[0] / self.cell[0])

    @property
    def count(self) -> int:
        """How many cells were embedded."""
        assert self.field.valid is not None
        return int(self.field.valid.sum())

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """``(y, x)`` in level-0 pixels of the real cell that stands for a block."""
        y, x = (
            _middles(n, self.step)[i] * c
            for n, i, c in zip(self.grid, (row, column), self.cell, strict=True)
        )
        return float(y), float(x)


def sample_scene(
    scene: Scene,
    encoder: Encoder,
    count: int = CELLS,
    *,
    cache: Path | None = None,
    progress: Callable[[float, float], None] = lambda done, total: None,
    check: Callable[[], None] = lambda: None,
) -> Sampled:
    """Embed cells of a scene on an even lattice, as dense as ``count`` allows.

    Background is told from a picture of the scene as a whole, so it is not read at full
    resolution and does not thin the sample out; what passes there is looked at once more.

    Parameters
    ----------
    count
        Cells at most.
    cache
        Folder of finished samples; ``None`` for no cache.
    progress
        Told ``(cells done, cells)``.
    check
        Called between reads; raises to cancel.

    Raises
    ------
    InputError
        If ``count`` is below 1, the scene holds nothing but background, or it is measured in
        another kind of unit than the encoder.
    """
    if count < 1:
        raise InputError(f"a sample has at least 1 cell, got {count}")
    spec = encoder.spec
    sy, sx = grid_scale(scene, spec)
    # Whole cells only: what reaches beyond the image would be judged by its mirror image.
    rows, columns = (
        max(1, int(n / s / spec.cell)) for n, s in zip(scene.shape, (sy, sx), strict=True)
    )
    cell, grid = (spec.cell * sy, spec.cell * sx), (rows, columns)
    box = Box(0, 0, rows * spec.cell, columns * spec.cell)
    stored = cache_file(scene, encoder, box, cache, f"sample of {count}") if cache else None
    found = kept(stored)
    if found is not None:
        return Sampled(found, cell, grid)
    check()
    held = not_background(scene, spec, grid)
    step = _step(held, count)
    r, c = _middles(rows, step), _middles(columns, step)
    wanted = np.argwhere(held[np.ix_(r, c)])
    vectors = np.zeros((len(r), len(c), spec.width), np.float32)
    valid = np.zeros(vectors.shape[:2], bool)
    side = spec.cell * spec.detail

    def read(i: int, j: int) -> NDArray[np.uint8]:
        return read_grid(scene, Box(r[i] * side, c[j] * side, side, side), spec, spec.detail)

    for start in range(0, len(wanted), _BATCH):
        check()
        part = wanted[start : start + _BATCH]
        tasks = (delayed(read)(i, j) for i, j in part.tolist())
        pixels = np.stack(compute(*tasks, scheduler="threads"))
        tissue = holds_tissue(pixels, scene.background)
        if tissue.any():
            at = tuple(part[tissue].T)
            vectors[at], valid[at] = encoder.embed(pixels[tissue]), True
        progress(start + len(part), len(wanted))
    if not valid.any():
        raise InputError(f"{scene.name} holds no tissue or ground: there is nothing to sort")
    vectors[~valid] = vectors[valid].mean(0)  # never looked at, and of unit length like all others
    made = EmbeddingField(
        vectors, (0.0, 0.0), (cell[0] * step, cell[1] * step), spec.id, spec.resolution, spec.unit,
        valid,
    )  # fmt: skip
    keep(made, stored)
    return Sampled(made, cell, grid)


def not_background(scene: Scene, spec: EncoderSpec, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """``(rows, columns)``: cells that differ somewhere from the background in a picture of the
    scene as a whole; all of them where none does.
    """
    longest = max(grid)
    fine = max(1, min(4, OVERVIEW // longest))  # pixels along a cell
    coarse = max(1, -(-longest // OVERVIEW))  # or cells along a pixel
    sy, sx = grid_scale(scene, spec)
    own, length = scene.encoder_pixel_size, spec.cell * coarse / fine
    h, w = (-(-n // coarse) * fine for n in grid)
    pixel = PixelSize(own.y * sy * length, own.x * sx * length, own.unit)
    picture = read_at(scene, Box(0, 0, h, w), pixel).astype(np.float32)
    away = (np.abs(picture - np.asarray(scene.background)) > 12).any(-1)
    held = away.reshape(h // fine, fine, w // fine, fine).any((1, 3))
    held = held.repeat(coarse, 0).repeat(coarse, 1)[: grid[0], : grid[1]]
    return held if held.any() else np.ones(grid, bool)


def _middles(cells: int, step: int) -> NDArray[np.int64]:
    """The cell in the middle of each block along an axis; the last block may be cut."""
    return np.minimum(np.arange(0, cells, step) + step // 2, cells - 1)


def _step(held: NDArray[np.bool_], count: int) -> int:
    """The smallest blocks of which no more than ``count`` have a middle that counts; where little
    does, larger ones, since the sample has a place for every block.
    """
    rows, columns = held.shape
    step = max(1, int((held.sum() / count) ** 0.5) - 1)
    while (
        -(-rows // step) * -(-columns // step) > MOST * count
        or held[np.ix_(_middles(rows, step), _middles(columns, step))].sum() > count
    ):
        step += 1
    return step
