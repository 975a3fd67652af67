"""Numbers as conditions: columns of a table, standardised, with what is not known left open.

The vector of ``c`` columns is ``[z · known, known]`` on the unit sphere, ``2 c`` long: ``z`` are
standardised values, ``known`` is 1 where there is one. Any subset of columns may so be given, and
none at all is the null condition, the zero vector.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_ssldiff.embeddings.field import Vectors
from napari_ssldiff.errors import InputError

#: The column that says which image a row is about, relative to the data's folder.
KEY = "path"
#: What stands in cells that hold no value.
MISSING = frozenset(("", "na", "n/a", "nan", "none", "null", "-"))


@dataclass(frozen=True)
class Column:
    """One column as it was in training: mean, standard deviation, smallest and largest value."""

    name: str
    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True)
class Columns:
    """The columns that a prior was trained with."""

    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the vector."""
        return tuple(column.name for column in self.columns)

    @property
    def width(self) -> int:
        """Length of condition vectors."""
        return 2 * len(self.columns)

    def encode(self, values: ArrayLike) -> Vectors:
        """``(…, c)`` values, NaN where unknown → ``(…, 2 c)`` float32, unit length or zero."""
        x = np.asarray(values, np.float64)
        known = ~np.isnan(x)
        mean = np.array([c.mean for c in self.columns])
        std = np.array([c.std for c in self.columns])
        z = np.where(known, (np.where(known, x, 0) - mean) / std, 0)
        joined = np.concatenate([z, known], -1)
        length = np.linalg.norm(joined, axis=-1, keepdims=True)
        unit: Vectors = (joined / np.where(length > 0, length, 1)).astype(np.float32)
        return unit

    def vector(self, values: Mapping[str, float]) -> Vectors:
        """The condition of some values.

        Raises
        ------
        InputError
            If there is none, one is of no column or not finite.
        """
        if not values:
            raise InputError(f"there is no number: give some of {', '.join(self.names)}")
        for name, value in values.items():
            if name not in self.names:
                near = difflib.get_close_matches(name, self.names, n=3, cutoff=0.5)
                known = f"near: {', '.join(near)}" if near else f"it has {_short(self.names)}"
                raise InputError(f"the prior has no column {name!r} ({known})")
            if not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, got {value}; leave it out where "
                                 "it is not known")  # fmt: skip
        return self.encode([values.get(name, np.nan) for name in self.names])

    def beyond(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """A line for every value outside what training has seen."""
        seen = {column.name: column for column in self.columns}
        return tuple(
            f"{name} {value:g} lies outside what the prior has seen "
            f"({seen[name].min:g} … {seen[name].max:g})"
            for name, value in values.items()
            if name in seen and not seen[name].min <= value <= seen[name].max
        )

    def to_list(self) -> list[dict[str, Any]]:
        """For a card."""
        return [asdict(column) for column in self.columns]

    @classmethod
    def from_list(cls, listed: Sequence[Mapping[str, Any]]) -> Columns:
        """What :meth:`to_list` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is something else.
        """
        names = ("mean", "std", "min", "max")
        found = [Column(str(c["name"]), *(float(c[n]) for n in names)) for c in listed]
        if not found or not all(c.std > 0 for c in found):
            raise ValueError("a table has at least one column, and each of them varies")
        return cls(tuple(found))


@dataclass(frozen=True)
class Table:
    """The numeric columns of a CSV.

    Parameters
    ----------
    names
        Of the columns.
    rows
        ``{path: (c,) float64}``, NaN where a cell is empty.
    left_out
        Names of columns that are not numbers.
    """

    names: tuple[str, ...]
    rows: Mapping[str, NDArray[np.float64]]
    left_out: tuple[str, ...] = ()


def read_table(path: Path) -> Table:
    """Read a CSV with the column ``path`` and numeric ones.

    Raises
    ------
    InputError
        If it cannot be read, has no such columns, names a path or a column twice, or holds a
        number that is not finite.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, cells) for cells in reader if any(c.strip() for c in cells)]
    except OSError as error:
        raise InputError(f"cannot read the table {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the table {path} is no CSV in UTF-8: {error}") from None
    if KEY not in header:
        shown = _short(header) or "nothing"
        raise InputError(
            f"the table {path} has no column {KEY!r}, which says whose numbers a row holds (paths "
            f"relative to the data): its first line names {shown}"
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(f"the table {path} has the column {twice[0]!r} twice")
    key = header.index(KEY)
    others = [(i, name) for i, name in enumerate(header) if i != key and name]
    texts: dict[str, list[str]] = {}
    for number, cells in lines:
        full = [*(c.strip() for c in cells), *([""] * (len(header) - len(cells)))]
        where = full[key].replace("\\", "/").removeprefix("./")
        if where in texts:
            raise InputError(f"the table {path} names {where} twice, at last in line {number}")
        texts[where] = full
    columns: dict[str, list[float]] = {}
    for i, name in others:
        numbers = [_number(cells[i]) for cells in texts.values()]
        if None not in numbers:
            columns[name] = [float(n) for n in numbers if n is not None]
    for name, values in columns.items():
        for where, value in zip(texts, values, strict=True):
            if math.isinf(value):
                raise InputError(f"the table {path} holds {value} as {name} of {where}: leave "
                                 "cells empty where nothing is known")  # fmt: skip
    if not columns:
        raise InputError(
            f"the table {path} has no column of numbers beside {KEY!r}: it has {_short(header)}"
        )
    grid = np.array(list(columns.values()), np.float64).T
    left_out = tuple(name for _, name in others if name not in columns)
    return Table(tuple(columns), dict(zip(texts, grid, strict=True)), left_out)


def read_row(path: Path, key: str) -> dict[str, float]:
    """The known numbers of one row, by its path or its number from 1.

    Raises
    ------
    InputError
        If there is no such row.
    """
    table = read_table(path)
    row = table.rows.get(key)
    if row is None and key.isdecimal() and 1 <= int(key) <= len(table.rows):
        row = list(table.rows.values())[int(key) - 1]
    if row is None:
        near = difflib.get_close_matches(key, list(table.rows), n=2)
        hint = f", near: {', '.join(near)}" if near else ""
        raise InputError(
            f"the table {path} has no row {key!r}: name one of its {len(table.rows)} by its path "
            f"or by a number from 1{hint}"
        )
    return {n: float(v) for n, v in zip(table.names, row, strict=True) if not np.isnan(v)}


def parse_numbers(text: str) -> dict[str, float]:
    """``name=value,name=value`` → numbers by name.

    Raises
    ------
    InputError
        Naming the part that is none.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, sign, value = (x.strip() for x in part.rpartition("="))
        number = _number(value)
        if not sign or not name or number is None or np.isnan(number):
            raise InputError(f"numbers are given as name=value,name=value; got {part.strip()!r}")
        if name in found:
            raise InputError(f"{name} is given twice")
        found[name] = number
    return found


def _number(text: str) -> float | None:
    """A cell's value, NaN where it is empty, ``None`` where it is no number."""
    if text.casefold() in MISSING:
        return math.nan
    try:
        return float(text)
    except ValueError:
        return None


def _short(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
