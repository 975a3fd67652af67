"""Numbers of images as a prior's conditions: a table's rows found again among the images.

What a prior was begun with is kept in its folder as ``condition.json``, in the words of its card:
a run that goes on must not go on with other columns or another text encoder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.text.columns import Column, Columns, read_table
from napari_ssldiff.training.images import Log
from napari_ssldiff.training.kept import stage_files
from napari_ssldiff.training.meanings import Area
from napari_ssldiff.training.state import replace_file

#: Where a prior's folder says what it is conditioned on.
KEPT = "condition.json"
#: Share of areas of which only some columns are told, each of them with this share too.
PARTLY = 0.5


@dataclass(frozen=True)
class ImageNumbers:
    """Conditions of areas by the numbers of the images that they lie in.

    Parameters
    ----------
    columns
        As they are on the training images.
    values
        ``(c,)`` by image name, NaN where unknown.
    """

    columns: Columns
    values: Mapping[str, NDArray[np.float64]]

    def __call__(self, areas: Sequence[Area], rng: np.random.Generator) -> torch.Tensor:
        """``(n, 2 c)`` unit vectors; of half of the areas only half of the columns are told, so
        that any of them may be left out later."""
        count = len(self.columns.names)
        nothing = np.full(count, np.nan)
        known = np.stack([self.values.get(area.source, nothing) for area in areas])
        partly = rng.random((len(areas), 1)) < PARTLY
        untold = partly & (rng.random((len(areas), count)) < PARTLY)
        # With one column the prior's own share of dropped conditions does the same.
        told = np.where(untold, np.nan, known) if count > 1 else known
        return torch.from_numpy(self.columns.encode(told))


def read_numbers(path: Path, train: Sequence[str], held: Sequence[str], log: Log) -> ImageNumbers:
    """Read a table and match it with images.

    Parameters
    ----------
    train, held
        Names of the images to train and to validate on, relative to the data; the table's column
        ``path`` says the same.
    log
        Told what does not match, and which columns are left out.

    Raises
    ------
    InputError
        If the table cannot be used, matches no image, or no column of it varies.
    """
    table = read_table(path)
    names = list(dict.fromkeys(train))
    matched = [name for name in names if name in table.rows]
    if not matched:
        raise InputError(
            f"no row of {path} names an image to train on: it says {next(iter(table.rows), '')!r}, "
            f"the {len(names)} images are called as {names[0]!r} (relative to the data)"
        )
    for name in table.left_out:
        log(f"{path.name}: the column {name} is left out: it holds something else than numbers")
    if len(matched) < len(names):
        log(f"{path.name}: {len(names) - len(matched)} of {len(names)} images have no row: they "
            "are learned without a condition")  # fmt: skip
    spare = len(set(table.rows) - set(names) - set(held))
    if spare:
        log(f"{path.name}: {spare} of {len(table.rows)} rows name no image here")
    grid = np.stack([table.rows[name] for name in matched])
    columns: list[Column] = []
    kept: list[int] = []
    for i, name in enumerate(table.names):
        known = grid[~np.isnan(grid[:, i]), i]
        if not len(known) or np.ptp(known) <= 1e-9 * np.abs(known).max():
            why = "is the same for all images" if len(known) else "has no value for any image"
            log(f"{path.name}: the column {name} is left out: it {why}")
            continue
        low, high = float(known.min()), float(known.max())
        columns.append(Column(name, float(known.mean()), float(known.std()), low, high))
        kept.append(i)
    if not columns:
        raise InputError(
            f"no column of {path} says anything: none has two different values among the "
            f"{len(matched)} images that have a row"
        )
    values = {n: table.rows[n][kept] for n in (*names, *held) if n in table.rows}
    return ImageNumbers(Columns(tuple(columns)), values)


def kept_condition(folder: Path) -> dict[str, Any]:
    """What the prior in a folder is conditioned on; words, where nothing is written."""
    try:
        read: dict[str, Any] = json.loads((folder / KEPT).read_text(encoding="utf-8"))
        return read
    except OSError:
        return {"kind": "text"}
    except ValueError:
        raise InputError(f"{folder / KEPT} is damaged: train this prior in a new folder") from None


def keep_condition(folder: Path, condition: Mapping[str, Any]) -> None:
    """Write down what a prior is conditioned on, before its first step.

    Raises
    ------
    InputError
        If the folder holds a prior that was begun with something else.
    """
    if stage_files(folder):
        if kept_condition(folder) != condition:
            what = "table" if condition["kind"] == "csv" else "text encoder"
            raise InputError(
                f"the prior in {folder} was begun with another {what}, or this one has changed: "
                "give the old one, or remove the folder to begin anew"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / KEPT, json.dumps(dict(condition), indent=2) + "\n")
