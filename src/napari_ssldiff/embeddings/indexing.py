"""Images into an :class:`~napari_ssldiff.embeddings.index.Index`, a block of cells at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.encoder import Encoder
from napari_ssldiff.embeddings.extract import cell_blocks, grid_scale, holds_tissue
from napari_ssldiff.embeddings.index import PART, Index, image_of
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import Scene, open_scene

#: Cells that are embedded together.
BATCH = 256


@dataclass
class _Cells:
    """Cells that wait to be embedded, and embedded ones that wait to be written."""

    index: Index
    encoder: Encoder
    size: int
    parts: list[str] = field(default_factory=list)
    count: int = 0
    _pixels: list[NDArray[np.uint8]] = field(default_factory=list)
    _places: list[NDArray[np.int32]] = field(default_factory=list)
    _made: list[NDArray[np.float32]] = field(default_factory=list)

    def take(self, pixels: NDArray[np.uint8], places: NDArray[np.int32]) -> None:
        self._pixels.append(pixels)
        self._places.append(places)
        if sum(map(len, self._pixels)) >= BATCH:
            self._embed()
        if sum(map(len, self._made)) >= self.size:
            self.flush()

    def _embed(self) -> None:
        if self._pixels:
            self._made.append(self.encoder.embed(np.concatenate(self._pixels)))
            self._pixels.clear()

    def flush(self) -> None:
        self._embed()
        if sum(map(len, self._made)):
            vectors, places = np.concatenate(self._made), np.concatenate(self._places)
            self.count += len(vectors)
            for i in range(0, len(vectors), self.size):
                part = slice(i, i + self.size)
                self.parts.append(self.index.write_part(vectors[part], places[part]))
        self._made.clear()
        self._places.clear()


def index_scene(
    index: Index,
    scene: Scene,
    name: str,
    encoder: Encoder,
    *,
    part: int = PART,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> int:
    """Put the cells of a scene that hold tissue or ground into an index; how many there were.

    The index knows the scene when all of it is written, and not before.

    Parameters
    ----------
    part
        Cells per file.
    check
        Called between blocks; raises to cancel.
    progress
        Told ``(cells looked at, cells)``.

    Raises
    ------
    InputError
        If the scene is measured in another kind of unit than the encoder.
    """
    spec, size = encoder.spec, scene.pixel_size
    sy, sx = grid_scale(scene, spec)
    # Whole cells only: what reaches beyond the image would be judged by its mirror image.
    rows, columns = (
        max(1, int(n / s / spec.cell)) for n, s in zip(scene.shape, (sy, sx), strict=True)
    )
    cells, done = _Cells(index, encoder, part), 0
    box = Box(0, 0, rows * spec.cell, columns * spec.cell)
    try:
        for r, c, (h, w), pixels in cell_blocks(scene, box, spec, check):
            check()
            tissue = holds_tissue(pixels, scene.background)
            places = np.indices((h, w)).reshape(2, -1).T + np.array((r, c))
            if tissue.any():
                cells.take(pixels[tissue], places[tissue].astype(np.int32))
            done += h * w
            progress(done, rows * columns)
        cells.flush()
    except BaseException:
        index.remove_parts(cells.parts)
        raise
    image = image_of(
        Path(scene.path), name, index.folder, (spec.cell * sy, spec.cell * sx),
        (size.y, size.x, size.unit),
    )  # fmt: skip
    index.add(replace(image, cells=cells.count), cells.parts)
    return cells.count


def index_images(
    index: Index,
    images: Sequence[tuple[Path, str]],
    encoder: Encoder,
    *,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[str, float, float], None] = lambda name, done, total: None,
    told: Callable[[str], None] = lambda text: None,
) -> None:
    """Put images, each a path and a name, into an index; those it knows are left out.

    Parameters
    ----------
    told
        Told of images that cannot be used; the others may serve.

    Raises
    ------
    InputError
        If none can.
    """
    failed = 0
    for path, name in images:
        check()
        if index.known(path):
            continue
        try:
            with open_scene(path) as scene:
                count = index_scene(
                    index, scene, name, encoder, check=check, progress=partial(progress, name)
                )
            if not count:
                told(f"{name} holds no tissue or ground")
        except InputError as error:
            failed += 1
            told(f"{name} is left out: {error}")
    if failed == len(images):
        raise InputError("none of the images could be indexed")
