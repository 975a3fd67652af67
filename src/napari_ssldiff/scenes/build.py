"""From what a backend found in a file to a complete :class:`Scene`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes import display as _display
from napari_ssldiff.scenes.levels import Level, Problems
from napari_ssldiff.scenes.pyramid import extend
from napari_ssldiff.scenes.scene import PixelSize, Scene


@dataclass
class Found:
    """What a backend knows about one image. Levels are the stored ones, finest first.

    ``scales`` are level-0 pixels per pixel of each level; ``None`` takes the ratio of shapes.
    ``background`` is the source's own word; ``None`` lets it be estimated.
    """

    path: str
    name: str
    levels: Sequence[Level]
    problems: Problems
    pixel_size: PixelSize = field(default_factory=lambda: PixelSize(1.0, 1.0))
    ground_pixel_size: PixelSize | None = None
    origin: tuple[float, float] = (0.0, 0.0)
    crs: str | None = None
    affine: tuple[float, float, float, float, float, float] | None = None
    band_names: tuple[str, ...] | None = None
    scales: Sequence[tuple[float, float]] | None = None
    nodata: float | None = None
    inverted: bool = False
    background: tuple[int, int, int] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    closers: Sequence[Callable[[], None]] = ()


def build_scene(found: Found, bands: tuple[int, int, int] | None) -> Scene:
    """Complete the pyramid, choose the display, estimate the background.

    Raises
    ------
    InputError
        If the samples are of a kind that cannot be shown, or ``bands`` does not fit.
    """
    finest = found.levels[0]
    if finest.dtype.kind not in "iuf":
        raise InputError(
            f"{found.name} holds {finest.dtype} samples: integers and floats can be opened"
        )
    count = finest.shape[2]
    names = found.band_names or default_band_names(count)
    chosen = _display.choose_bands(names, bands)
    plain = finest.dtype == np.uint8 and count <= 4
    glass = found.background is None and found.nodata is None and found.affine is None
    samples = _display.sample(found.levels) if glass or not plain else None
    display = _display.make_display(
        chosen, finest.dtype, count, samples, found.nodata, found.inverted
    )
    background = found.background
    if background is None and found.nodata is not None:
        empty = np.full((1, 1, count), found.nodata, np.float64)
        r, g, b = display.to_rgb(empty)[0, 0].tolist()
        background = (r, g, b)
    elif background is None and found.affine is not None:
        background = (0, 0, 0)  # what imagery without a nodata value is padded with
    elif background is None and samples is not None:
        background = _display.slide_background(display.to_rgb(samples))
    shapes = [level.shape for level in found.levels]
    scales = found.scales or [(shapes[0][0] / h, shapes[0][1] / w) for h, w, _ in shapes]
    levels, scales = extend(list(found.levels), list(scales), found.nodata)
    return Scene(
        path=found.path,
        name=found.name,
        levels=levels,
        pixel_size=found.pixel_size,
        ground_pixel_size=found.ground_pixel_size,
        origin=found.origin,
        crs=found.crs,
        affine=found.affine,
        band_names=names,
        display=display,
        background=background or (255, 255, 255),
        nodata=found.nodata,
        facts=found.facts,
        problems=found.problems,
        scales=scales,
        closers=(found.problems.close, *found.closers),
    )


def default_band_names(count: int) -> tuple[str, ...]:
    """Names where the source gives none."""
    if count == 1:
        return ("grey",)
    if count == 3:
        return ("red", "green", "blue")
    return tuple(f"band {i + 1}" for i in range(count))
