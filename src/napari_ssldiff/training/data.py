"""Training images: read at the model's resolution, kept in memory, cropped by place and step.

A data set is a list of :class:`ImageSet`; crops are drawn from a generator that is seeded by
``(seed, step)``, so a run that was killed sees the same batches when it goes on.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from napari_ssldiff.errors import InputError

Crop = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageSet:
    """One source of images.

    Parameters
    ----------
    name
        For messages and cards.
    images
        ``(h, w, 3)`` uint8 at the model's resolution.
    weight
        Share of crops drawn from this set.
    """

    name: str
    images: tuple[Crop, ...]
    weight: float = 1.0


def fold_of(root: Path, table: str, key: str) -> dict[str, str]:
    """``{name: fold}`` from a CSV with the columns ``key`` and ``fold``.

    Raises
    ------
    InputError
        If the table is missing or lacks a column.
    """
    try:
        with (root / table).open(newline="") as file:
            return {row[key]: row["fold"] for row in csv.DictReader(file)}
    except OSError as error:
        raise InputError(f"cannot read the folds {root / table}: {error.strerror}") from None
    except KeyError as error:
        raise InputError(f"the folds {root / table} have no column {error}") from None


def list_files(root: Path, entry: dict[str, Any]) -> list[Path]:
    """Files that a data entry names, cut to its fold.

    Parameters
    ----------
    root
        Folder of the data.
    entry
        ``glob`` relative to ``root``; optionally ``folds: {table, key, fold}`` where ``key``
        is ``path`` (relative to the root) or ``name`` (the file's stem).

    Raises
    ------
    InputError
        If nothing is found.
    """
    files = sorted(root.glob(entry["glob"]))
    folds = entry.get("folds")
    if folds:
        table = fold_of(root, folds["table"], folds["key"])

        def name(path: Path) -> str:
            return path.stem if folds["key"] == "name" else path.relative_to(root).as_posix()

        files = [f for f in files if table.get(name(f)) == folds["fold"]]
    if not files:
        raise InputError(f"no image matches {entry['glob']!r} in {root}")
    return files


def load_image(path: Path, pixel_size: float, resolution: float) -> Crop:
    """An image file at ``resolution``, area-averaged down or Lanczos-interpolated up.

    Raises
    ------
    InputError
        If it cannot be decoded.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, ValueError) as error:
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


def load_sets(
    root: Path, entries: Sequence[dict[str, Any]], resolution: float
) -> tuple[ImageSet, ...]:
    """Read every entry of a training configuration's ``data`` list.

    Parameters
    ----------
    root
        Folder that the globs are relative to.
    entries
        Each ``{name, glob, pixel_size, weight?, folds?, tissue?}``; ``pixel_size`` in the unit
        of ``resolution``; ``aspect`` undoes a known squeeze (width over height).
    resolution
        Of the model.
    """
    sets = []
    for entry in entries:
        images: list[Crop] = []
        for path in list_files(root, entry):
            image = load_image(path, float(entry["pixel_size"]), resolution)
            if "aspect" in entry:
                size = (round(image.shape[0] * float(entry["aspect"])), image.shape[0])
                image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
            images.extend(tissue_tiles(image) if entry.get("tissue") else [image])
        if not images:
            raise InputError(f"no usable tissue in {entry['glob']!r}")
        sets.append(ImageSet(entry["name"], tuple(images), float(entry.get("weight", 1.0))))
    return tuple(sets)


def draw_crops(
    sets: Sequence[ImageSet], size: int, count: int, rng: np.random.Generator
) -> torch.Tensor:
    """``(count, 3, size, size)`` uint8 crops: sets by weight, images and places uniformly.

    An image smaller than ``size`` is extended by reflection.
    """
    weights = np.array([s.weight for s in sets])
    chosen = rng.choice(len(sets), count, p=weights / weights.sum())
    crops = np.empty((count, size, size, 3), np.uint8)
    for i, which in enumerate(chosen):
        images = sets[which].images
        image = images[rng.integers(len(images))]
        short = max(0, size - image.shape[0]), max(0, size - image.shape[1])
        if any(short):
            image = np.pad(image, ((0, short[0]), (0, short[1]), (0, 0)), mode="symmetric")
        y = rng.integers(image.shape[0] - size + 1)
        x = rng.integers(image.shape[1] - size + 1)
        crops[i] = image[y : y + size, x : x + size]
    return torch.from_numpy(crops).permute(0, 3, 1, 2)
