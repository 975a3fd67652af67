"""From image files to :class:`ImageSet`: at the model's resolution, within a memory budget."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes import PixelSize
from napari_ssldiff.training.data import Crop, ImageSet
from napari_ssldiff.training.sources import (
    NothingUsable,
    Source,
    Tiles,
    Unreadable,
    open_sized,
    read_tiles,
)

#: What the images of one entry may take, unless the configuration says otherwise.
BUDGET_MB = 4000.0
_WHOLE = (".jpg", ".jpeg", ".png")


def load_image(path: Path, pixel_size: float, resolution: float) -> Crop:
    """A whole image file at ``resolution``, resampled by Lanczos if it differs by more than 1 %.

    Raises
    ------
    InputError
        If it cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            # Sections of a hundred megapixels are no attack here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the image {path}: {error}") from None
    scale = pixel_size / resolution
    if abs(scale - 1) > 0.01:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image)


def tissue_tiles(image: Crop, size: int = 512, least: float = 0.5) -> list[Crop]:
    """Cut a slide-sized image into tiles and keep those that are mostly tissue.

    Tissue is what is darker than the bright background or has contrast: a crude test that
    serves for training only.
    """
    kept = []
    for y in range(0, image.shape[0] - size + 1, size):
        for x in range(0, image.shape[1] - size + 1, size):
            tile = image[y : y + size, x : x + size]
            grey = tile[::4, ::4].astype(np.float32).mean(-1)
            blocks = grey.reshape(16, size // 64, 16, size // 64).std(axis=(1, 3))
            if float(((blocks > 9) & (blocks < 60)).mean()) >= least:
                kept.append(np.ascontiguousarray(tile))
    return kept


def load_set(
    sources: Sequence[Source],
    entry: Mapping[str, Any],
    resolution: PixelSize,
    *,
    fallback: PixelSize | None = None,
    seed: int = 0,
    log: Callable[[str], None] = lambda text: None,
) -> ImageSet:
    """Read the images of one entry.

    JPEG and PNG of an entry that states their ``pixel_size`` are decoded whole (``tissue: true``
    cuts them into tiles). All else is opened as a scene and cut into tiles without background.
    Memory is shared out evenly among the images, what small ones leave going to large ones;
    ``seed`` decides which tiles stay.

    Parameters
    ----------
    entry
        ``{name, glob?, pixel_size?, weight?, folds?, tissue?, aspect?, limit?, budget_mb?}``;
        ``pixel_size`` in the unit of ``resolution``; ``aspect`` undoes a known squeeze (width
        over height).
    resolution
        Of the model.
    fallback
        Pixel size of images that do not say theirs.
    log
        Told what was skipped or left out.

    Raises
    ------
    NothingUsable
        If no image can be read, or none holds tissue.
    InputError
        If one has no pixel size, or is measured in another unit than the model.
    """
    where = repr(entry.get("glob", entry["name"]))
    left = float(entry.get("budget_mb", BUDGET_MB)) * 1e6
    budget = f"the budget of {left / 1e6:.0f} MB"
    # Within a size class the order is drawn, so that a budget too small for all takes a fair part.
    draw = np.random.default_rng(seed).permutation(len(sources))
    order = sorted(range(len(sources)), key=lambda i: (_size_class(sources[i].path), draw[i]))
    kept: dict[int, tuple[Crop, ...]] = {}
    unread: list[str] = []
    bare = skipped = coarse = 0
    for done, i in enumerate(order):
        if left <= 0:
            skipped = len(order) - done
            break
        path = sources[i].path
        rng = np.random.default_rng([seed, zlib.crc32(sources[i].name.encode())])
        try:
            tiles = _read(path, entry, resolution, fallback, int(left / (len(order) - done)), rng)
        except Unreadable as error:
            unread.append(f"{path.name} ({error})" if len(unread) < 3 else path.name)
            continue
        if tiles.damaged:
            log(f"warning: {path.name} is damaged: {tiles.damaged} of its tiles are skipped")
        if tiles.left_out:
            log(f"{path.name}: {len(tiles.images)} of {tiles.total} tiles fit {budget}")
        bare += tiles.background
        coarse += tiles.coarser
        if tiles.images:
            kept[i] = tiles.images
            left -= sum(image.nbytes for image in tiles.images)
    if unread and len(unread) == len(sources):
        raise NothingUsable(
            f"none of the {len(sources)} images in {where} can be read: {unread[0]}"
        )
    if unread:
        log(f"warning: {len(unread)} of {len(sources)} images in {where} cannot be read and are "
            f"skipped: {', '.join(unread[:20])}{', …' if len(unread) > 20 else ''}")  # fmt: skip
    if skipped:
        log(f"{skipped} of {len(sources)} images in {where} are beyond {budget}: budget_mb in the "
            "configuration raises it")  # fmt: skip
    if coarse:
        log(f"warning: {coarse} of {len(sources)} images in {where} are coarser than the model's "
            f"{resolution.y:g} {resolution.unit} per pixel, and blurred at it")  # fmt: skip
    if bare:
        log(f"{where}: {bare} tiles of background skipped")
    if not kept:
        raise NothingUsable(f"no usable tissue in {where}: all of it looks like background")
    images = [(image, sources[i].name) for i in sorted(kept) for image in kept[i]]
    if len(images) > int(entry.get("limit", len(images))):
        chosen = np.random.default_rng(0).permutation(len(images))[: int(entry["limit"])]
        images = [images[i] for i in sorted(chosen)]
    return ImageSet(
        str(entry["name"]),
        tuple(image for image, _ in images),
        float(entry.get("weight", 1.0)),
        tuple(name for _, name in images),
    )


def _size_class(path: Path) -> int:
    return len(str(path.stat().st_size)) if path.is_file() else 99


def _read(
    path: Path,
    entry: Mapping[str, Any],
    resolution: PixelSize,
    fallback: PixelSize | None,
    room: int,
    rng: np.random.Generator,
) -> Tiles:
    """One image of an entry, within ``room`` bytes (but at least one tile of it)."""
    exact = entry.get("pixel_size")
    if exact is None or path.suffix.lower() not in _WHOLE:
        known = PixelSize(float(exact), float(exact), resolution.unit) if exact else None
        with open_sized(path, known, fallback) as scene:
            return read_tiles(scene, resolution, room, rng)
    try:
        image = load_image(path, float(exact), resolution.y)
    except InputError as error:
        raise Unreadable(str(error)) from None
    if "aspect" in entry:
        size = (round(image.shape[0] * float(entry["aspect"])), image.shape[0])
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    if not entry.get("tissue"):
        return Tiles((image,), 1)
    tiles = tissue_tiles(image)
    total = (image.shape[0] // 512) * (image.shape[1] // 512)
    most = max(1, room // (3 * 512 * 512))
    kept = tiles
    if len(tiles) > most:
        kept = [tiles[i] for i in sorted(rng.permutation(len(tiles))[:most])]
    return Tiles(tuple(kept), total, total - len(tiles), len(tiles) - len(kept))
