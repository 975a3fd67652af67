"""Labelled pictures from a table: what the encoder's probes are tested on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_ssldiff.errors import InputError

_KINDS = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


@dataclass(frozen=True)
class Labelled:
    """One picture of a table.

    Parameters
    ----------
    path, label, fold
        From the table.
    group
        Place or patient; the picture itself where the table names none.
    pixel_size
        In the model's unit; ``None`` for the model's resolution.
    aspect
        Width over height that the picture should have, to undo a squeeze; ``None`` keeps it.
    """

    path: Path
    label: str
    fold: str
    group: str
    pixel_size: float | None = None
    aspect: float | None = None

    def read(self, resolution: float) -> NDArray[np.uint8]:
        """``(h, w, 3)`` uint8 at ``resolution``, the squeeze undone.

        Raises
        ------
        InputError
            If it cannot be decoded.
        """
        try:
            with Image.open(self.path) as file:
                image = file.convert("RGB")
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read the image {self.path}: {error}") from None
        scale = (self.pixel_size or resolution) / resolution
        height = round(image.height * scale)
        width = round(height * self.aspect) if self.aspect else round(image.width * scale)
        if (width, height) != image.size:
            image = image.resize((max(1, width), max(1, height)), Image.Resampling.LANCZOS)
        return np.asarray(image)


def _number(row: dict[str, str], key: str, table: Path) -> float | None:
    text = (row.get(key) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (value > 0 and np.isfinite(value)):
        raise InputError(f"{key} in {table} must be a number above 0, got {text!r}")
    return value


def _find(row: dict[str, str], table: Path) -> Path:
    """The file of a row: below the table's folder or the folder above it."""
    name = row.get("path") or row["name"]
    for base in (table.parent, table.parent.parent):
        if (base / name).is_file():
            return base / name
        for kind in _KINDS:
            if (base / f"{name}{kind}").is_file():
                return base / f"{name}{kind}"
    raise InputError(f"no image {name!r} beside {table} or one folder above it")


def read_labels(table: Path) -> list[Labelled]:
    """Read a CSV of labelled pictures.

    Parameters
    ----------
    table
        Columns ``path`` or ``name`` (file, relative to the table or the folder above it),
        ``label``, ``fold`` (``train``, anything else is tested); optional ``group`` (or
        ``place`` or ``patient``), ``pixel_size`` and ``aspect``. Rows without label or fold
        are passed over.

    Raises
    ------
    InputError
        If it cannot be read, lacks a column or names a file that is not there, or if either
        side is empty or the training side has one class only.
    """
    try:
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the labels in {table}: {error}") from None
    columns = set(rows[0]) if rows else set()
    missing = sorted({"label", "fold"} - columns)
    if not columns & {"path", "name"}:
        missing.append("path or name")
    if missing:
        raise InputError(f"the labels in {table} lack the column {', '.join(missing)}")
    out = []
    for row in rows:
        if not (row["label"] and row["fold"]):
            continue
        path = _find(row, table)
        group = next((row[k] for k in ("group", "place", "patient") if row.get(k)), path.stem)
        out.append(
            Labelled(
                path, row["label"], row["fold"], group,
                _number(row, "pixel_size", table), _number(row, "aspect", table),
            )
        )  # fmt: skip
    check_split(out, str(table))
    return out


def check_split(pictures: Sequence[Labelled], name: str) -> None:
    """Refuse a set that cannot be probed: a side empty, or one class only.

    Raises
    ------
    InputError
        Says which.
    """
    train = {p.label for p in pictures if p.fold == "train"}
    tested = [p for p in pictures if p.fold != "train"]
    if not train or not tested:
        side = "train" if not train else "other than train"
        raise InputError(f"the labels in {name} have no row of a fold {side}")
    if len(train) < 2:
        raise InputError(f"the labels in {name} have one class only in the fold train: {train}")
    unknown = {p.label for p in tested} - train
    if unknown:
        raise InputError(
            f"the labels in {name} test classes that the fold train lacks: "
            f"{', '.join(sorted(unknown))}"
        )
