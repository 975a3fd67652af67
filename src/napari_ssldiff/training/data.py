"""Training images: which files are whose, and crops of them by place and step.

A data set is a list of :class:`ImageSet`, read by :mod:`napari_ssldiff.training.reading`; crops
are drawn from a generator that is seeded by ``(seed, step)``, so a run that was killed sees the
same batches when it goes on.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.training.sources import Source, find_images

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
    sources
        Name of the file that each image was cut from.
    """

    name: str
    images: tuple[Crop, ...]
    weight: float = 1.0
    sources: tuple[str, ...] = ()


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


def list_files(root: Path, entry: Mapping[str, Any]) -> list[Path]:
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
    if folds and files:
        table = fold_of(root, folds["table"], folds["key"])

        def name(path: Path) -> str:
            return path.stem if folds["key"] == "name" else path.relative_to(root).as_posix()

        files = [f for f in files if table.get(name(f)) == folds["fold"]]
    if not files:
        fold = f" in the fold {folds['fold']}" if folds else ""
        raise InputError(
            f"no image matches {entry['glob']!r}{fold} in {root}: the configuration's globs are "
            "relative to the first DATA; --config own takes every image there is"
        )
    return files


def split_share(sources: Sequence[Source], share: float, seed: int) -> set[str]:
    """Names of the images kept for validation: about ``share`` of them, at least one.

    Each name is hashed with the seed, so an image stays on its side when others are added, in
    whatever order, folder or machine.
    """

    def place(source: Source) -> float:
        digest = hashlib.sha256(f"{seed}:{source.name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    chosen = {s.name for s in sources if place(s) < share}
    if len(chosen) in (0, len(sources)):
        chosen = {min(sources, key=place).name}
    return chosen


def list_sources(
    data: Sequence[Path],
    entry: Mapping[str, Any],
    *,
    validation: str | float | None = None,
    part: str = "train",
    seed: int = 0,
) -> list[Source]:
    """Images of an entry that belong to a part of the data.

    Parameters
    ----------
    data
        Files and folders. Globs and tables of folds are relative to the first; an entry without
        a glob takes every image in all of them.
    validation
        The name of a fold: images of that fold are for validation and those of the entry's own
        for training. A share in (0, 1): so many images are set aside, by hash of their names.
        ``None``: there is no validation.
    part
        ``"train"`` or ``"validation"``.

    Raises
    ------
    InputError
        If there is nothing, or the entry has no folds to replace.
    """
    if part == "validation" and validation is None:
        return []
    folds = entry.get("folds")
    if isinstance(validation, str) and part == "validation":
        if not folds:
            raise InputError(
                f"validation: {validation} names a fold, but the entry {entry['name']!r} has no "
                "folds; give a share such as 0.05"
            )
        folds = {**folds, "fold": validation}
    if "glob" in entry:
        files = list_files(data[0], {**entry, "folds": folds})
        found = [Source(f, f.relative_to(data[0]).as_posix()) for f in files]
    else:
        found = find_images(data)
        if folds:
            table = fold_of(data[0], folds["table"], folds["key"])
            stem = folds["key"] == "name"
            found = [
                s for s in found if table.get(s.path.stem if stem else s.name) == folds["fold"]
            ]
            if not found:
                raise InputError(f"no image is in the fold {folds['fold']} of {folds['table']}")
    if isinstance(validation, int | float) and len(found) > 1:
        aside = split_share(found, float(validation), seed)
        found = [s for s in found if (s.name in aside) == (part == "validation")]
    elif isinstance(validation, int | float) and part == "validation":
        return []
    return found


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
