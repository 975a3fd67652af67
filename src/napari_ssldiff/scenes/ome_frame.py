"""Axes, scale and translation of an OME-Zarr multiscales entry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes.scene import PixelSize

_UNITS = {
    "micrometer": (1.0, "micrometer"),
    "nanometer": (1e-3, "micrometer"),
    "millimeter": (1e3, "micrometer"),
    "centimeter": (1e4, "micrometer"),
    "angstrom": (1e-4, "micrometer"),
    "meter": (1.0, "meter"),
    "kilometer": (1e3, "meter"),
    "degree": (1.0, "degree"),
}


@dataclass(frozen=True)
class Frame:
    """Where an image lies.

    ``axes`` has one capital letter per axis; ``translation`` is the *centre* of pixel (0, 0) in
    ``pixel_size.unit``, and means something only where ``placed``; ``scales`` are level-0
    pixels per pixel of each level.
    """

    axes: str
    pixel_size: PixelSize
    translation: tuple[float, float]
    placed: bool
    scales: tuple[tuple[float, float], ...]


def frame(entry: Mapping[str, Any], location: str) -> Frame:
    """Read one entry of ``multiscales``.

    Raises
    ------
    InputError
        If its axes or datasets are not those of an image.
    """
    axes, units = _axes(entry, location)
    datasets = entry.get("datasets")
    if not isinstance(datasets, Sequence) or not datasets:
        raise InputError(f"{location} lists no datasets in its multiscales metadata")
    iy, ix = axes.index("Y"), axes.index("X")
    outer_scale, outer_shift, outer = _transform(entry, len(axes), location)
    sizes, first_shift, placed = [], [0.0] * len(axes), outer
    for i, dataset in enumerate(datasets):
        scale, shift, has = _transform(dataset, len(axes), location)
        sizes.append((scale[iy] * outer_scale[iy], scale[ix] * outer_scale[ix]))
        if i == 0:
            first_shift = [
                t * s + o for t, s, o in zip(shift, outer_scale, outer_shift, strict=True)
            ]
            placed = placed or has
    factor, unit = _UNITS.get(units[iy] or "", (1.0, "pixel"))
    if units[iy] != units[ix]:
        raise InputError(f"{location} measures y in {units[iy]} and x in {units[ix]}")
    return Frame(
        axes=axes,
        pixel_size=PixelSize(sizes[0][0] * factor, sizes[0][1] * factor, unit),
        translation=(first_shift[iy] * factor, first_shift[ix] * factor),
        placed=placed,
        scales=tuple((y / sizes[0][0], x / sizes[0][1]) for y, x in sizes),
    )


def _axes(entry: Mapping[str, Any], location: str) -> tuple[str, list[str | None]]:
    listed = entry.get("axes")
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        return "TCZYX", [None] * 5  # before 0.3 the five axes were implied
    names = [a if isinstance(a, str) else str(a.get("name", "")) for a in listed]
    units = [None if isinstance(a, str) else a.get("unit") for a in listed]
    if any(len(n) != 1 for n in names) or not {"y", "x"} <= {n.lower() for n in names}:
        raise InputError(f"{location} has the axes {names}: y and x are needed")
    return "".join(names).upper(), units


def _transform(
    holder: Mapping[str, Any], count: int, location: str
) -> tuple[list[float], list[float], bool]:
    """Scale, translation, and whether there is a translation."""
    scale, shift, placed = [1.0] * count, [0.0] * count, False
    for step in holder.get("coordinateTransformations") or ():
        kind = step.get("type")
        if kind == "identity":
            continue
        values = step.get(kind) if kind in ("scale", "translation") else None
        if not isinstance(values, Sequence) or len(values) != count:
            raise InputError(
                f"{location} has a coordinate transformation of type {kind!r} that cannot be "
                "read: scale and translation with one number per axis can"
            )
        numbers = [float(v) for v in values]
        if not all(map(math.isfinite, numbers)):
            raise InputError(f"{location} has a {kind} that is not finite: {numbers}")
        if kind == "scale":
            if min(numbers) <= 0:
                raise InputError(f"{location} has a scale that is not positive: {numbers}")
            scale = [a * b for a, b in zip(scale, numbers, strict=True)]
            shift = [a * b for a, b in zip(shift, numbers, strict=True)]
        else:
            shift = [a + b for a, b in zip(shift, numbers, strict=True)]
            placed = True
    return scale, shift, placed
