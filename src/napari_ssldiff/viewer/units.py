"""Lengths of one layer in those of another; napari's own conversions ignore units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pint
from numpy.typing import NDArray

from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes.scene import PixelSize

_MAP = 1e-3  # metres: pixels at least this large are ground, not tissue


def factor(unit: pint.Unit, other: pint.Unit) -> float | None:
    """How many ``other`` one ``unit`` is; ``None`` where they do not compare."""
    if unit == other:
        return 1.0
    try:
        return float((1 * unit).to(other).magnitude)
    except (pint.DimensionalityError, AttributeError):
        return None


def pixel_size(name: str, scale: NDArray[np.float64], units: Any) -> tuple[PixelSize, float]:
    """A layer's scale as a pixel size, and how many of its unit one of the layer's units is.

    Parameters
    ----------
    name
        Of the layer, for messages.
    scale
        ``(y, x)``, in ``units``.
    units
        Two pint units.

    Raises
    ------
    InputError
        If the units are neither lengths, degrees nor pixels, or differ between the axes.
    """
    unit = units[0]
    across = factor(units[1], unit)
    if across is None:
        raise InputError(f"the layer {name!r} mixes the units {units[0]} and {units[1]}: use one")
    steps = np.array([scale[0], scale[1] * across])
    if str(unit) in ("pixel", "degree"):
        return PixelSize(float(steps[0]), float(steps[1]), str(unit)), 1.0
    metres = factor(unit, pint.Unit("meter"))
    if metres is None:
        raise InputError(
            f"the layer {name!r} has the unit {unit}: use pixel, degree or a metric length"
        )
    ground = float(steps.max()) * metres >= _MAP
    target, many = ("meter", metres) if ground else ("micrometer", metres * 1e6)
    # 0.499 and not 0.49900000000000005
    y, x = (float(f"{value * many:.12g}") for value in steps)
    return PixelSize(y, x, target), many
