"""What an image shows, measured from its pixels: the facts that captions state and prompts ask for.

Every fact is the share of an area's pixels that pass a rule on colour, so that of a larger area
is the mean of those of its parts. The rules are simple on purpose: they say what a word is held
to, for training and for measurement alike, and anybody can check them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter  # type: ignore[import-untyped]

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


def _nuclei(rgb: Pixels) -> Mask:
    """Blue to purple and darker than what is around: haematoxylin, whatever the batch's stain."""
    soft = np.stack([gaussian_filter(rgb[..., i], 0.8) for i in range(3)], -1)
    light = soft.mean(-1)
    darker = gaussian_filter(light, 10) - light
    blue = soft[..., 2] - soft[..., 0] > -0.1
    return np.asarray(blue & (darker > 0.04) & (light < 0.68))


def _dark(rgb: Pixels) -> Mask:
    """Deeply stained."""
    return np.asarray(gaussian_filter(rgb.mean(-1), 1.0) < 0.47)


def _eosin(rgb: Pixels) -> Mask:
    """Pink: red well above green, and no darker than stroma is."""
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.asarray((r - g > 0.16) & (r > b - 0.02) & (rgb.mean(-1) > 0.5))


def _white(rgb: Pixels) -> Mask:
    """Nothing on the glass: lumina, vessels, fat, cracks."""
    return np.asarray((rgb.min(-1) > 0.8) & (np.ptp(rgb, -1) < 0.12))


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


#: By domain: the fact's name and its rule on ``(h, w, 3)`` float32 in [0, 1].
RULES: dict[str, dict[str, Callable[[Pixels], Mask]]] = {
    "histology": {"nuclei": _nuclei, "dark": _dark, "eosin": _eosin, "white": _white},
    "remote sensing": {
        "trees": _trees, "grass": _grass, "paved": _paved, "bright": _bright, "soil": _soil,
        "detail": _detail,
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
