"""A region of a scene → an :class:`EmbeddingField`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray

from napari_ssldiff.embeddings.encoder import Encoder, EncoderSpec
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import PixelSize, Scene, read_at

#: Rows × columns of cells that are read and embedded together.
BLOCK = 8


def grid_scale(scene: Scene, spec: EncoderSpec) -> tuple[float, float]:
    """Level-0 pixels per pixel of the encoder's resolution, ``(y, x)``.

    A scene without a physical pixel size is taken to be at the encoder's resolution.

    Raises
    ------
    InputError
        If the scene is measured in another kind of unit (a slide for a satellite model).
    """
    size = scene.encoder_pixel_size
    if size.unit == "pixel":
        return 1.0, 1.0
    if size.unit != spec.unit:
        raise InputError(
            f"{scene.name} has pixels in {size.unit}, the encoder {spec.id} works in {spec.unit}: "
            "choose a model of the same domain"
        )
    return spec.resolution / size.y, spec.resolution / size.x


def read_grid(scene: Scene, box: Box, spec: EncoderSpec, detail: int = 1) -> NDArray[np.uint8]:
    """``(h, w, 3)`` uint8 of ``box``, in pixels ``detail`` times as fine as the encoder's
    resolution.
    """
    sy, sx = grid_scale(scene, spec)
    own = scene.encoder_pixel_size
    return read_at(scene, box, PixelSize(own.y * sy / detail, own.x * sx / detail, own.unit))


def holds_tissue(cells: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Which of ``(n, s, s, 3)`` cells differ from the background in colour or have contrast.

    Background is near-uniform: a mean within 12 grey levels of the scene's background and a
    standard deviation below 8.
    """
    values = cells.astype(np.float32)
    away = np.abs(values.mean(axis=(1, 2)) - np.asarray(background)).max(-1) > 12
    rough = values.std(axis=(1, 2)).max(-1) > 8
    return np.asarray(away | rough)


def cache_file(
    scene: Scene, encoder: Encoder, box: Box, folder: Path, how: str = ""
) -> Path | None:
    """Where a finished field is kept; ``None`` for scenes that are in no file. ``how``: of a box
    whose cells were not all embedded, which of them were.
    """
    path = Path(scene.path)
    if not path.is_file():
        return None
    status = path.stat()
    key = [
        str(path.resolve()),
        status.st_size,
        status.st_mtime_ns,
        repr(encoder.spec),
        scene.encoder_pixel_size.to_list(),
        box.to_list(),
        repr(scene.display),
        *([how] if how else []),
    ]
    return folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"


def kept(stored: Path | None) -> EmbeddingField | None:
    """A field that is kept in a file, if there is one and it is whole."""
    if stored and stored.exists():
        try:
            return EmbeddingField.load(stored)
        except InputError:
            stored.unlink(missing_ok=True)  # a damaged cache entry is no reason to stop
    return None


def keep(field: EmbeddingField, stored: Path | None) -> None:
    """Keep a field in a file."""
    if stored is None:
        return
    try:
        stored.parent.mkdir(parents=True, exist_ok=True)
        scratch = stored.with_name(f"{stored.name}.{os.getpid()}")
        field.save(scratch)
        scratch.replace(stored)
    except OSError:
        pass  # a cache that cannot be written only costs time


def cell_blocks(
    scene: Scene, box: Box, spec: EncoderSpec, check: Callable[[], None] = lambda: None
) -> Iterator[tuple[int, int, tuple[int, int], NDArray[np.uint8]]]:
    """The pixels of a box's cells, by blocks of at most :data:`BLOCK` cells a side; as fine as the
    encoder sees, so ``s`` is ``cell · detail``.

    Blocks are read by dask's threads, four at a time, so memory does not depend on the box.

    Parameters
    ----------
    box
        In pixels of the encoder's resolution; its last row and column of cells may reach beyond.
    check
        Called between reads; raises to cancel.

    Yields
    ------
    Row and column of the first cell, ``(rows, columns)`` of the block, and ``(n, s, s, 3)`` uint8.
    """
    side = spec.cell * spec.detail
    # Cells that are read finely are large: as many at a time as keep a block's size.
    block = max(1, BLOCK // spec.detail)
    rows, columns = -(-box.h // spec.cell), -(-box.w // spec.cell)

    def read(r: int, c: int) -> tuple[int, int, tuple[int, int], NDArray[np.uint8]]:
        h, w = min(block, rows - r), min(block, columns - c)
        top, left = box.y * spec.detail + r * side, box.x * spec.detail + c * side
        pixels = read_grid(scene, Box(top, left, h * side, w * side), spec, spec.detail)
        cells = pixels.reshape(h, side, w, side, 3).transpose(0, 2, 1, 3, 4)
        return r, c, (h, w), cells.reshape(h * w, side, side, 3)

    for r in range(0, rows, block):
        starts = range(0, columns, block)
        for group in (starts[i : i + 4] for i in range(0, len(starts), 4)):
            check()
            yield from compute(*(delayed(read)(r, c) for c in group), scheduler="threads")


def embed_box(
    scene: Scene,
    box: Box,
    encoder: Encoder,
    *,
    cache: Path | None = None,
    progress: Callable[[float, float], None] = lambda done, total: None,
    check: Callable[[], None] = lambda: None,
) -> EmbeddingField:
    """Embed every cell of a box.

    Cells are read as by :func:`cell_blocks`, so memory holds four blocks of pixels however large
    the box is.

    Parameters
    ----------
    scene
        Where to read.
    box
        In pixels of the encoder's resolution, anchored at the scene's origin. Cells start at
        its corner; the last row and column may reach beyond it.
    cache
        Folder of finished fields; ``None`` for no cache.
    progress
        Told ``(cells done, cells)``.
    check
        Called between blocks; raises to cancel.

    Returns
    -------
    A field in level-0 pixels with its background mask.
    """
    spec = encoder.spec
    stored = cache_file(scene, encoder, box, cache) if cache else None
    found = kept(stored)
    if found is not None:
        return found
    cell = spec.cell
    rows, columns = -(-box.h // cell), -(-box.w // cell)
    vectors = np.empty((rows, columns, spec.width), np.float32)
    valid = np.empty((rows, columns), bool)

    done = 0
    for r, c, (h, w), cells in cell_blocks(scene, box, spec, check):
        check()
        vectors[r : r + h, c : c + w] = encoder.embed(cells).reshape(h, w, -1)
        valid[r : r + h, c : c + w] = holds_tissue(cells, scene.background).reshape(h, w)
        done += h * w
        progress(done, rows * columns)
    sy, sx = grid_scale(scene, spec)
    field = EmbeddingField(
        vectors=vectors,
        origin=(box.y * sy, box.x * sx),
        cell=(cell * sy, cell * sx),
        encoder=spec.id,
        resolution=spec.resolution,
        unit=spec.unit,
        valid=valid,
    )
    keep(field, stored)
    return field


def cell_colours(
    scene: Scene,
    box: Box,
    spec: EncoderSpec,
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """``(rows, columns, 3)`` float32 in [0, 255]: mean colours of the cells of :func:`embed_box`.

    Parameters
    ----------
    scene, box, check
        As for :func:`embed_box`.
    """
    cell = spec.cell
    rows, columns = -(-box.h // cell), -(-box.w // cell)
    out = np.empty((rows, columns, 3), np.float32)
    for r in range(0, rows, BLOCK):
        for c in range(0, columns, BLOCK):
            check()
            h, w = min(BLOCK, rows - r), min(BLOCK, columns - c)
            place = Box(box.y + r * cell, box.x + c * cell, h * cell, w * cell)
            cells = read_grid(scene, place, spec).reshape(h, cell, w, cell, 3)
            out[r : r + h, c : c + w] = cells.mean(axis=(1, 3), dtype=np.float32)
    return out
