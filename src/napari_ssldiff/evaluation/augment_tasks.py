"""What is to be told apart: labelled images, split by fold and by place."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_ssldiff.errors import InputError

TRAIN, HELDOUT = "train", "heldout"
#: A class with fewer training images than this is left out of a task that has others.
LEAST = 32


@dataclass(frozen=True)
class Item:
    """One labelled image.

    Parameters
    ----------
    group
        The place or patient: images of one group never stand on both sides of a split.
    fold
        ``"train"`` or ``"heldout"``.
    """

    path: Path
    label: str
    group: str
    fold: str


@dataclass(frozen=True)
class Task:
    """A classification with its images.

    Parameters
    ----------
    model
        Identifier of the model that varies these images.
    pixel_size
        Of the image files, in the unit of the model's resolution; ``None`` takes the model's.
    aspect
        Width over height that a squeezed image is stretched to; ``None`` leaves it as it is.
    left_out
        Classes that were too small, with their number of training images.

    Raises
    ------
    InputError
        If there are fewer than two classes, a class is missing on one side of the split, or a
        group is on both sides.
    """

    name: str
    model: str
    items: tuple[Item, ...]
    pixel_size: float | None = None
    aspect: float | None = None
    left_out: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            found = ", ".join(self.classes) or "none"
            raise InputError(f"the task {self.name} needs at least two classes, found {found}")
        for fold in (TRAIN, HELDOUT):
            missing = set(self.classes) - {item.label for item in self.fold(fold)}
            if missing:
                names = ", ".join(sorted(missing))
                raise InputError(
                    f"the task {self.name} has no image of the class {names} in the fold "
                    f"{fold!r}: add some, or leave the class out of both folds"
                )
        both = {i.group for i in self.fold(TRAIN)} & {i.group for i in self.fold(HELDOUT)}
        if both:
            raise InputError(
                f"the task {self.name} has {min(both)!r} in both folds: put all images of a place "
                "or patient on one side"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels in alphabetical order."""
        return tuple(sorted({item.label for item in self.items}))

    def fold(self, name: str) -> tuple[Item, ...]:
        """The items of one side."""
        return tuple(item for item in self.items if item.fold == name)


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file that has these columns.

    Raises
    ------
    InputError
        If it cannot be read or lacks one of them.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"the table {path} lacks the column {', '.join(missing)}")
            return list(reader)
    except OSError as error:
        raise InputError(f"cannot read the table {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the table {path}: {error}") from None


def without_small_classes(
    items: Sequence[Item], least: int = LEAST
) -> tuple[tuple[Item, ...], tuple[tuple[str, int], ...]]:
    """Items of the classes with at least ``least`` training images; which were left out."""
    counts = Counter(item.label for item in items if item.fold == TRAIN)
    labels = {item.label for item in items}
    small = tuple(sorted((label, counts[label]) for label in labels if counts[label] < least))
    names = {label for label, _ in small}
    return tuple(item for item in items if item.label not in names), small


def oral(root: Path) -> Task:
    """Normal oral epithelium against squamous cell carcinoma, at 400×.

    The files are squeezed from 4:3 to a square and lie at about 1 µm/px once that is undone.
    Patients are not known, so that every image is a group of its own.
    """
    table = root / "histology" / "folds.csv"
    rows = read_table(table, ("path", "patient", "fold", "label"))
    items = tuple(
        Item(root / row["path"], row["label"], row["patient"] or row["path"], row["fold"])
        for row in rows
        if row["path"].startswith("histology/oral_224/400x/")
    )
    return Task("oral", "demo-histology", items, pixel_size=1.0, aspect=4 / 3)


def _naip_rows(root: Path) -> list[dict[str, str]]:
    table = root / "satellite" / "naip_60cm" / "tiles.csv"
    return read_table(table, ("name", "place", "fold", "city", "trees"))


def _naip_item(root: Path, row: dict[str, str], label: str) -> Item:
    path = root / "satellite" / "naip_60cm" / f"{row['name']}.jpg"
    return Item(path, label, row["place"], row["fold"])


def city(root: Path) -> Task:
    """Which Californian city a NAIP tile shows; cities with a handful of tiles are left out."""
    every = [_naip_item(root, row, row["city"]) for row in _naip_rows(root)]
    items, small = without_small_classes(every)
    return Task("city", "demo-naip", items, pixel_size=0.6, left_out=small)


def trees(root: Path) -> Task:
    """How many trees a NAIP tile holds, in terciles of the training fold.

    Raises
    ------
    InputError
        If a number of trees is none, or no tile is in the training fold.
    """
    rows = _naip_rows(root)
    try:
        counts = [float(row["trees"]) for row in rows]
    except ValueError as error:
        raise InputError(f"the column trees of tiles.csv must hold numbers: {error}") from None
    known = [n for n, row in zip(counts, rows, strict=True) if row["fold"] == TRAIN]
    if not known:
        raise InputError(f"tiles.csv has no tile of the fold {TRAIN!r}")
    low, high = np.quantile(known, [1 / 3, 2 / 3])
    items = [
        _naip_item(root, row, "few" if n <= low else "some" if n <= high else "many")
        for n, row in zip(counts, rows, strict=True)
    ]
    return Task("trees", "demo-naip", tuple(items), pixel_size=0.6)


def osteosarcoma(root: Path) -> tuple[Item, ...]:
    """The 1024² regions of osteosarcoma; the group is the case, there are no folds.

    The class stands before ``__`` in the file's name, then ``Case-N``.

    Raises
    ------
    InputError
        If there are none, or fewer than two cases.
    """
    folder = root / "histology" / "osteosarcoma_1024"
    items = []
    for path in sorted(folder.glob("*__Case-*-*.jpg")):
        label, _, rest = path.stem.partition("__")
        items.append(Item(path, label, "-".join(rest.split("-")[:2]), TRAIN))
    if len({item.group for item in items}) < 2:
        raise InputError(
            f"{folder} holds {len(items)} regions named CLASS__Case-N-….jpg of fewer than two cases"
        )
    return tuple(items)


def from_table(path: Path, root: Path, model: str, pixel_size: float | None) -> Task:
    """A task of one's own: a CSV with ``path``, ``label``, ``fold`` and, optionally, ``group``.

    Paths are relative to ``root``; without a group every image is one of its own.
    """
    rows = read_table(path, ("path", "label", "fold"))
    items = tuple(
        Item(root / row["path"], row["label"], row.get("group") or row["path"], row["fold"])
        for row in rows
    )
    return Task(path.stem, model, items, pixel_size=pixel_size)


TASKS: dict[str, Callable[[Path], Task]] = {"oral": oral, "city": city, "trees": trees}


def read_picture(
    path: Path, scale: float, crop: int, aspect: float | None = None
) -> NDArray[np.uint8]:
    """The central square of an image file, resampled.

    Parameters
    ----------
    scale
        Model pixels per pixel of the file.
    crop
        Edge of the square, in model pixels.
    aspect
        Width over height that the image is stretched to.

    Returns
    -------
    ``(crop, crop, 3)`` uint8.

    Raises
    ------
    InputError
        If it cannot be decoded or is smaller than the square.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the image {path}: {error}") from None
    width = image.height * aspect if aspect else image.width
    size = round(width * scale), round(image.height * scale)
    if min(size) < crop:
        raise InputError(
            f"{path} is {size[0]} × {size[1]} pixels at the model's resolution, too small for a "
            f"crop of {crop}: choose a smaller --crop"
        )
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    x, y = (size[0] - crop) // 2, (size[1] - crop) // 2
    return np.asarray(image.crop((x, y, x + crop, y + crop)))


def pool_order(items: Sequence[Item], seed: int) -> list[int]:
    """An order of items that depends on their names and the seed only.

    One image of every group comes before the second of any: variations spread over places.
    Two tasks on the same images therefore vary the same ones first.
    """

    def mark(item: Item) -> str:
        return hashlib.sha256(f"{seed}/{item.path.stem}".encode()).hexdigest()

    by_mark = sorted(range(len(items)), key=lambda i: mark(items[i]))
    seen: Counter[str] = Counter()
    rank = {}
    for i in by_mark:
        rank[i] = seen[items[i].group]
        seen[items[i].group] += 1
    return sorted(by_mark, key=lambda i: rank[i])


def choose_pool(task: Task, items: Sequence[Item], size: int, seed: int) -> list[int]:
    """Indices of the training items to vary, ``size`` of each class where there are so many.

    Parameters
    ----------
    items
        ``task.fold("train")``.
    """
    taken: Counter[str] = Counter()
    pool = []
    for i in pool_order(items, seed):
        if taken[items[i].label] < size:
            taken[items[i].label] += 1
            pool.append(i)
    return sorted(pool)
