"""Slides, scenes and tiles as training images: found, read at one resolution, cut into tiles.

Everything here goes through :func:`napari_ssldiff.scenes.open_scene`; a pyramid is read at the
level that is needed and never as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.extract import holds_tissue
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes import PixelSize, Scene, open_scene, read_at
from napari_ssldiff.scenes.levels import hole_value
from napari_ssldiff.scenes.ome_zarr import is_zarr_folder

#: Edge in model pixels that tiles come near to.
TILE = 512
#: Least share of a tile's cells that must hold tissue or ground.
TISSUE = 0.25
#: An image whose pixels are this much larger than the model's is told of.
COARSER = 1.5
_CELL = 32
_COARSE = 16  # model pixels per pixel of the look that finds tissue on a slide
_FILES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".jp2", ".tif", ".tiff", ".btf", ".svs", ".qptiff",
    ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".svslide", ".ozx",
)  # fmt: skip
_ZIPPED = (".zarr.zip",)
#: A folder that holds this file is a training run's: its sample sheets are no images to learn.
RUN_MARK = "commands.json"


class Unreadable(InputError):
    """One image that cannot be read; the others may serve."""


class NothingUsable(InputError):
    """A set of images of which none can be used."""


@dataclass(frozen=True)
class Source:
    """One image file (or OME-Zarr or DICOM folder) and its name within the data."""

    path: Path
    name: str


@dataclass(frozen=True)
class Tiles:
    """What was cut out of one image.

    Parameters
    ----------
    images
        ``(h, w, 3)`` uint8 at the model's resolution.
    total
        Number of tiles that the image has.
    background, left_out, damaged
        How many of them were background, beyond the memory budget, or could not be decoded.
        On slides that are over the budget background is judged from a coarse level.
    coarser
        Whether the image is so much coarser than the model that it is no fit target of pixels.
    """

    images: tuple[NDArray[np.uint8], ...]
    total: int
    background: int = 0
    left_out: int = 0
    damaged: int = 0
    coarser: bool = False


def _is_image_folder(path: Path) -> bool:
    return is_zarr_folder(path) or next(path.glob("*.dcm"), None) is not None


def _walk(root: Path) -> list[Path]:
    found = []
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        if RUN_MARK in files:
            folders.clear()
            continue
        inner = [n for n in folders if not n.startswith(".")]
        images = {n for n in inner if _is_image_folder(here / n)}
        folders[:] = [n for n in inner if n not in images]
        found += [here / n for n in images]
        found += [
            here / n
            for n in files
            if not n.startswith(".")
            and (Path(n).suffix.lower() in _FILES or n.lower().endswith(_ZIPPED))
        ]
    return sorted(found)


def find_images(data: Sequence[Path]) -> list[Source]:
    """Every image in files and folders, folders searched to the bottom but for those of runs.

    Names are relative to their folder, and begin with the folder's own where there are several:
    they decide which images are kept for validation, so they must not change with the machine.

    Raises
    ------
    InputError
        If a path does not exist, or nothing is found.
    """
    found: dict[Path, Source] = {}
    for root in data:
        if not root.exists():
            raise InputError(f"no folder of images, and no image, at {root}")
        if root.is_file() or _is_image_folder(root):
            found.setdefault(root.resolve(), Source(root, root.name))
            continue
        front = f"{root.name}/" if len(data) > 1 else ""
        for path in _walk(root):
            name = f"{front}{path.relative_to(root).as_posix()}"
            found.setdefault(path.resolve(), Source(path, name))
    if not found:
        where = ", ".join(str(root) for root in data)
        raise InputError(
            f"no image in {where}: JPEG, PNG, TIFF, SVS, GeoTIFF, OME-Zarr and other slides can be "
            "trained on"
        )
    return list(found.values())


def open_sized(path: Path, exact: PixelSize | None, fallback: PixelSize | None) -> Scene:
    """Open an image so that ``encoder_pixel_size`` is physical.

    Parameters
    ----------
    exact
        Holds whatever the file says.
    fallback
        Holds where the file says nothing.

    Raises
    ------
    Unreadable
        If it cannot be opened.
    InputError
        If nothing tells how large its pixels are.
    """
    try:
        scene = open_scene(path)
    except InputError as error:
        raise Unreadable(str(error)) from None
    size = exact or (fallback if scene.encoder_pixel_size.unit == "pixel" else None)
    if size is not None:
        return replace(scene, pixel_size=size, ground_pixel_size=None)
    if scene.encoder_pixel_size.unit == "pixel":
        scene.close()
        raise InputError(
            f"{path} does not say how large its pixels are: give --pixel-size, such as 0.5um or "
            "0.6m, or pixel_size in the configuration"
        )
    return scene


def common_size(sources: Sequence[Source], fallback: PixelSize | None, most: int = 25) -> PixelSize:
    """The median pixel size of up to ``most`` of the images.

    Raises
    ------
    InputError
        If none can be opened, one has no pixel size, or some measure in micrometers and others
        in meters.
    """
    every = -(-len(sources) // most)
    sizes: list[float] = []
    units: dict[str, Path] = {}
    reason = ""
    for source in sources[::every]:
        try:
            with open_sized(source.path, None, fallback) as scene:
                size = scene.encoder_pixel_size
        except Unreadable as error:
            reason = reason or str(error)
            continue
        sizes.append(round((size.y * size.x) ** 0.5, 4))
        units.setdefault(size.unit, source.path)
    if not sizes:
        raise InputError(f"none of the {len(sources)} images can be read; the first: {reason}")
    if len(units) > 1:
        (a, first), (b, second) = list(units.items())[:2]
        raise InputError(
            f"{first} measures pixels in {a}, {second} in {b}: train slides and scenes apart, or "
            "as two domains of one configuration"
        )
    middle = float(sorted(sizes)[len(sizes) // 2])
    return PixelSize(middle, middle, next(iter(units)))


def tile_grid(height: int, width: int, size: int = TILE) -> list[Box]:
    """Boxes of nearly equal shape, edges near ``size``, that cover an image without overlap."""

    def cuts(length: int) -> list[int]:
        parts = max(1, round(length / size))
        return [round(i * length / parts) for i in range(parts + 1)]

    rows, columns = cuts(height), cuts(width)
    return [Box(y, x, y1 - y, x1 - x) for y, y1 in pairwise(rows) for x, x1 in pairwise(columns)]


def tissue_share(image: NDArray[np.uint8], background: tuple[int, int, int], cell: int) -> float:
    """Share of an image's cells that differ from the background; see :func:`holds_tissue`."""
    cell = min(cell, *image.shape[:2])
    rows, columns = image.shape[0] // cell, image.shape[1] // cell
    cut = image[: rows * cell, : columns * cell]
    cells = cut.reshape(rows, cell, columns, cell, 3).transpose(0, 2, 1, 3, 4)
    return float(holds_tissue(cells.reshape(-1, cell, cell, 3), background).mean())


def holds_hole(image: NDArray[np.uint8], scene: Scene) -> bool:
    """Whether a part of a scene that could not be decoded shows in an image read from it.

    A scene says once that a piece is bad and marks it in every read; so does this look at marks.
    """
    if not scene.problems:
        return False
    bands = scene.levels[0].shape[2]
    mark = scene.display.to_rgb(hole_value(scene.dtype, bands)[None, None])[0, 0]
    return bool((image == mark).all(-1).mean() > 0.001)


def read_tiles(
    scene: Scene, resolution: PixelSize, room: int, rng: np.random.Generator, tile: int = TILE
) -> Tiles:
    """Cut a scene into tiles at ``resolution``, without its background.

    Parameters
    ----------
    resolution
        Of the model; must be in the scene's unit.
    room
        Bytes to keep to. At least one tile is read; which ones, ``rng`` draws.
    tile
        Edge that tiles come near to.

    Raises
    ------
    InputError
        If the scene measures in another unit.
    """
    own = scene.encoder_pixel_size
    if own.unit != resolution.unit:
        raise InputError(
            f"{scene.path} measures pixels in {own.unit}, the model in {resolution.unit}: "
            "train slides and scenes apart"
        )
    scale = resolution.y / own.y, resolution.x / own.x
    # 0.499 and 0.5 are the same to every scanner; resampling would only blur.
    scale = (1.0, 1.0) if max(abs(s - 1) for s in scale) < 0.01 else scale
    pixel = PixelSize(own.y * scale[0], own.x * scale[1], own.unit)
    height, width = (max(1, round(n / s)) for n, s in zip(scene.shape, scale, strict=True))
    boxes = tile_grid(height, width, tile)
    most = max(1, room // (3 * max(box.area for box in boxes)))
    wanted, bare = boxes, 0
    if len(boxes) > most:
        wanted = _with_tissue(scene, pixel, boxes)
        bare = len(boxes) - len(wanted)
        wanted = [wanted[i] for i in rng.permutation(len(wanted))]
    images: list[tuple[Box, NDArray[np.uint8]]] = []
    damaged = seen = 0
    for box in wanted:
        if len(images) == most:
            break
        seen += 1
        image = read_at(scene, box, pixel)
        if holds_hole(image, scene):
            damaged += 1
        elif tissue_share(image, scene.background, _CELL) < TISSUE:
            bare += 1
        else:
            images.append((box, image))
    images.sort(key=lambda pair: (pair[0].y, pair[0].x))
    return Tiles(
        tuple(i for _, i in images),
        len(boxes),
        bare,
        len(wanted) - seen,
        damaged,
        max(scale) < 1 / COARSER,
    )


def _with_tissue(scene: Scene, pixel: PixelSize, boxes: Sequence[Box]) -> list[Box]:
    """Boxes that hold tissue at a coarse look, which reads one row of tiles at a time."""
    coarse = PixelSize(pixel.y * _COARSE, pixel.x * _COARSE, pixel.unit)
    kept = []
    strip, place = np.empty((0, 0, 3), np.uint8), (-1, -1)
    width = -(-max(box.x1 for box in boxes) // _COARSE)
    for box in boxes:
        if place != (box.y, box.y1):
            place, top = (box.y, box.y1), box.y // _COARSE
            strip = read_at(scene, Box(top, 0, -(-box.y1 // _COARSE) - top, width), coarse)
        part = strip[:, box.x // _COARSE : -(-box.x1 // _COARSE)]
        if tissue_share(part, scene.background, 4) >= TISSUE:
            kept.append(box)
    return kept
