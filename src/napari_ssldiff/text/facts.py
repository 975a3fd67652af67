"""What an image shows, measured from its pixels: the facts that captions state and prompts ask for.

Every fact is the share of an area's pixels that pass a rule on colour and form, so that of a larger
area is the mean of those of its parts. The rules are simple on purpose: they say what a word is
held to, for training and for measurement alike, and anybody can check them. Lengths are in pixels
of the domain's usual resolution: 0.5 µm in histology, 0.6 m in remote sensing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (  # type: ignore[import-untyped]
    binary_dilation,
    binary_opening,
    gaussian_filter,
    label,
    maximum_filter,
    uniform_filter,
)
from skimage.color import rgb2hed
from skimage.measure import regionprops
from skimage.morphology import disk

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


def _stains(rgb: Pixels, soft: float) -> tuple[Pixels, Pixels]:
    """Haematoxylin and eosin (colour deconvolution of Ruifrok & Johnston 2001), smoothed.

    In scikit-image's units, in which deep stain is about 0.1.
    """
    stains = rgb2hed(rgb)
    haematoxylin, eosin = (gaussian_filter(stains[..., i], soft) for i in (0, 1))
    return haematoxylin.astype(np.float32), eosin.astype(np.float32)


def _nuclei(rgb: Pixels) -> Mask:
    """More haematoxylin than around, and not outweighed by eosin."""
    haematoxylin, eosin = _stains(rgb, 0.8)
    more = haematoxylin - gaussian_filter(haematoxylin, 10)
    return np.asarray((more > 0.006) & (haematoxylin > 0.013) & (haematoxylin > 0.6 * eosin))


def _dark(rgb: Pixels) -> Mask:
    """Deeply stained."""
    return np.asarray(gaussian_filter(rgb.mean(-1), 1.0) < 0.47)


def _eosin(rgb: Pixels) -> Mask:
    """Pink: eosin, and about as much of it as of haematoxylin."""
    haematoxylin, eosin = _stains(rgb, 1.0)
    return np.asarray((eosin > 0.01) & (eosin > 0.9 * haematoxylin))


def _white(rgb: Pixels) -> Mask:
    """Nothing on the glass: lumina, vessels, fat, cracks."""
    return np.asarray((rgb.min(-1) > 0.8) & (np.ptp(rgb, -1) < 0.12))


def _compact(mask: Mask, area: tuple[int, int], solidity: float, slender: float) -> Mask:
    """The connected parts of a mask that are of a size, without large bays, and not too long.

    Parameters
    ----------
    area
        Least and most pixels.
    solidity
        Least share of the convex hull.
    slender
        Longest axis over the shortest, at most.
    """
    found, _ = label(mask)
    keep = np.zeros(found.max() + 1, bool)
    for part in regionprops(found):
        if area[0] <= part.area <= area[1] and part.solidity >= solidity:
            keep[part.label] = part.axis_major_length < slender * max(part.axis_minor_length, 1)
    chosen: Mask = keep[found]
    return chosen


def _fat(rgb: Pixels) -> Mask:
    """Round and empty, 14 to 110 µm across: fat cells and vacuoles; lumina are less regular."""
    return _compact(binary_opening(_white(rgb), disk(4)), (600, 40_000), 0.85, 2)


def _greenness(rgb: Pixels) -> Pixels:
    """Excess green of chromaticities (Woebbecke et al. 1995)."""
    total = np.maximum(rgb.sum(-1, keepdims=True), 1e-3)
    c = rgb / total
    index: Pixels = 2 * c[..., 1] - c[..., 0] - c[..., 2]
    return index


def _smooth(rgb: Pixels) -> Pixels:
    return np.stack([uniform_filter(rgb[..., i], 3) for i in range(3)], -1)


def _trees(rgb: Pixels) -> Mask:
    """Dark green."""
    soft = _smooth(rgb)
    return np.asarray((_greenness(soft) > 0.03) & (soft.mean(-1) < 0.42))


def _grass(rgb: Pixels) -> Mask:
    """Light green."""
    soft = _smooth(rgb)
    return np.asarray((_greenness(soft) > 0.03) & (soft.mean(-1) >= 0.42))


def _paved(rgb: Pixels) -> Mask:
    """Grey, neither dark nor bright: asphalt and concrete."""
    soft = _smooth(rgb)
    grey = np.ptp(soft, -1) < 0.09
    return np.asarray(grey & (soft.mean(-1) > 0.3) & (soft.mean(-1) < 0.68))


def _bright(rgb: Pixels) -> Mask:
    """Very bright: large roofs, and light concrete."""
    return np.asarray(_smooth(rgb).mean(-1) >= 0.72)


def _soil(rgb: Pixels) -> Mask:
    """Tan: bare soil and dry grass."""
    soft = _smooth(rgb)
    r, g, b = soft[..., 0], soft[..., 1], soft[..., 2]
    warm = (r - b > 0.1) & (r >= g - 0.01) & (_greenness(soft) <= 0.03)
    return np.asarray(warm & (soft.mean(-1) > 0.4))


def _detail(rgb: Pixels) -> Mask:
    """Edges of the size of houses, trees and cars."""
    grey = gaussian_filter(rgb.mean(-1), 1.0)
    gy, gx = np.gradient(grey)
    return np.asarray(np.hypot(gy, gx) > 0.035)


def _vegetated(rgb: Pixels) -> Mask:
    """Green, dark or light."""
    return np.asarray(_greenness(_smooth(rgb)) > 0.03)


def _crowns(rgb: Pixels) -> Mask:
    """Tops of trees, one pixel each, so that shares are counts: the greenest spots of dark green.

    The count follows that of the published table of trees better than the share of dark green
    does; a test holds it to that.
    """
    soft = _smooth(rgb)
    green, light = gaussian_filter(_greenness(soft), 3.5), gaussian_filter(soft.mean(-1), 3.5)
    return np.asarray((maximum_filter(green, 9) == green) & (green > 0.03) & (light < 0.45))


def _built(rgb: Pixels) -> Mask:
    """Roofs: even patches of the size of a house or a hall, compact, and not green."""
    soft = _smooth(rgb)
    even = ~_detail(rgb) & (_greenness(soft) < 0.02) & (soft.mean(-1) > 0.3)
    patches = _compact(binary_opening(even, np.ones((3, 3))), (60, 8000), 0.75, 4.5)
    return np.asarray(binary_dilation(patches, np.ones((3, 3))))


def _grid(rgb: Pixels) -> Mask:
    """Among edges that run in two directions at right angles: straight streets and rows of houses.

    Directions are averaged over the weight of edges within some 25 m, four times the angle, so
    that right angles agree (as moments of direction fields of fourfold symmetry do).
    """
    grey = gaussian_filter(rgb.mean(-1), 1.0)
    gy, gx = np.gradient(grey)
    weight = np.hypot(gy, gx)
    weight = np.where(weight > 0.03, weight, 0)
    angle = 4 * np.arctan2(gy, gx)
    parts = weight * np.cos(angle), weight * np.sin(angle), weight
    along, across, total = (gaussian_filter(part, 40) for part in parts)
    return np.asarray(np.hypot(along, across) > 0.35 * np.maximum(total, 1e-4))


#: By domain: the fact's name and its rule on ``(h, w, 3)`` float32 in [0, 1].
RULES: dict[str, dict[str, Callable[[Pixels], Mask]]] = {
    "histology": {
        "nuclei": _nuclei, "dark": _dark, "eosin": _eosin, "white": _white, "fat": _fat,
    },
    "remote sensing": {
        "trees": _trees, "grass": _grass, "paved": _paved, "bright": _bright, "soil": _soil,
        "detail": _detail, "vegetated": _vegetated, "crowns": _crowns, "built": _built,
        "grid": _grid,
    },
}  # fmt: skip


def fact_names(domain: str) -> tuple[str, ...]:
    """The facts of a domain, in the order of :func:`fact_map`'s last axis."""
    return tuple(RULES.get(domain, {}))


def fact_map(pixels: NDArray[np.uint8], domain: str, cell: int) -> NDArray[np.float32]:
    """``(h, w, 3)`` uint8 at the model's resolution → ``(h // cell, w // cell, facts)`` in [0, 1].

    Facts are in the order of :func:`fact_names`.
    """
    rows, columns = pixels.shape[0] // cell, pixels.shape[1] // cell
    rgb: Pixels = (pixels / np.float32(255)).astype(np.float32)
    maps = []
    for rule in RULES.get(domain, {}).values():
        passed = rule(rgb)[: rows * cell, : columns * cell].astype(np.float32)
        maps.append(passed.reshape(rows, cell, columns, cell).mean((1, 3)))
    return np.stack(maps, -1) if maps else np.zeros((rows, columns, 0), np.float32)


def facts_of(pixels: NDArray[np.uint8], domain: str) -> dict[str, float]:
    """The facts of a whole image."""
    rgb: Pixels = (pixels / np.float32(255)).astype(np.float32)
    return {name: float(rule(rgb).mean()) for name, rule in RULES.get(domain, {}).items()}
