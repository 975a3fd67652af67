"""Coarse pictures that a variation keeps to: of the source, or of what a layer shows.

What is chosen on the main thread is read by the worker, when the variation's turn comes: what a job
before it paints is then there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ssldiff.errors import InputError
from napari_ssldiff.export.composite import composite_scene
from napari_ssldiff.geometry import Region
from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.scenes.resample import read_span
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.viewer.endless import slide_of
from napari_ssldiff.viewer.layer_scene import is_source, scene_of
from napari_ssldiff.viewer.overlay import PAINTING_KEY, OverlayController
from napari_ssldiff.viewer.regions import Points, to_scene_pixels
from napari_ssldiff.viewer.session import Guide
from napari_ssldiff.viewer.units import factor

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_ssldiff.models.load import ModelBundle
    from napari_ssldiff.synthesis.coarse import CoarsePicture

#: Level-0 pixels by which a region may leave a layer: both are rounded to whole pixels.
_SLACK = 1.0


@dataclass(frozen=True, eq=False)
class Coarse:
    """A guide as the worker takes it.

    Parameters
    ----------
    scene
        What is seen: the source, or what a layer shows.
    pixel
        Length of the picture's pixels; 0: that of the scene's own.
    strength
        In [0, 1].
    corners
        ``(2, 2)``: the region's bounds, low and high, in level-0 pixels of ``scene``; ``None``
        where that lies as the source does.
    """

    scene: Scene
    pixel: Length
    strength: float = 1.0
    corners: Points | None = None

    def picture(
        self, source: Scene, region: Region, bundle: ModelBundle, *, around: int, grow: int
    ) -> CoarsePicture:
        """Read it. Loads torch, so this is for the worker.

        Parameters
        ----------
        around, grow
            Of the request.

        Raises
        ------
        InputError
            If it is not coarser than the model, or measured in another unit.
        """
        from napari_ssldiff.embeddings.extract import grid_scale
        from napari_ssldiff.synthesis.coarse import coarse_shape, guide_resolution
        from napari_ssldiff.synthesis.prepare import picture_guide, source_guide

        card = bundle.card
        how: dict[str, Any] = {"strength": self.strength, "around": around, "grow": grow}
        resolution = guide_resolution(self.pixel, card.resolution, card.unit, card.id)
        if self.corners is None:
            return source_guide(self.scene, region, bundle, resolution, **how)
        (y0, x0), (y1, x1) = self.corners.tolist()
        bounds, (sy, sx) = region.bounds, grid_scale(source, bundle.encoder.spec)
        # Pixels of the model, and of the picture, along the region.
        model = bounds.h / sy, bounds.w / sx
        own = (y1 - y0, x1 - x0)
        if resolution:
            own = (model[0] * card.resolution / resolution, model[1] * card.resolution / resolution)
        # Refused before anything is read, which may be much.
        coarse_shape((1, 1), min(model[0] / own[0], model[1] / own[1]))
        shape = max(1, round(own[0])), max(1, round(own[1]))
        pixels = read_span(self.scene, (y0, y1), (x0, x1), shape)
        return picture_guide(pixels, source, region, bundle, **how)


def offered(layers: Iterable[Any], source: Any) -> list[Any]:
    """The layers that may show a coarse picture, topmost first: overlays, and other images."""
    return [
        layer
        for layer in reversed(list(layers))
        if layer is not source
        and slide_of(layer) is None
        and (PAINTING_KEY in layer.metadata or is_source(layer))
    ]


def guide_for(
    guide: Guide,
    region: Region,
    source: Image,
    scene: Scene,
    overlays: Iterable[OverlayController],
    waiting: Iterable[tuple[OverlayController, Region, Length]] = (),
) -> Coarse | None:
    """What the worker needs for a region's guide; ``None`` for nothing.

    Parameters
    ----------
    source, scene
        What is varied.
    overlays
        Those that there are.
    waiting
        Overlays that will have been painted when the variation's turn comes: the region, and the
        length of the pixels that it is made in.

    Raises
    ------
    InputError
        If the layer does not show the region, or nobody has painted there.
    """
    if guide.of == "nothing":
        return None
    if guide.of == "source":
        return Coarse(scene, guide.pixel, guide.strength)
    layer, pixel = guide.layer, guide.pixel
    overlay = next((o for o in overlays if o.layer is layer and not o.closed), None)
    shown = scene_of(layer) if overlay is None else composite_scene(overlay.scene, overlay.store)
    corners = None
    if overlay is None or overlay.source is not source:
        corners = corners_on(region, source, layer, shown.shape, "no coarse picture of all of it")
    if overlay is not None and not pixel.value:
        later = [(r, size) for o, r, size in waiting if o is overlay]
        pixel = _painted_in(overlay, None if corners is not None else region, later)
    return Coarse(shown, pixel, guide.strength, corners)


def corners_on(
    region: Region, source: Image, layer: Any, shape: tuple[int, ...], lacking: str
) -> Points:
    """A region's bounds on another layer, low and high.

    Parameters
    ----------
    shape
        ``(h, w)`` of what the layer shows.
    lacking
        What there is not where it does not cover the region, for the message.

    Raises
    ------
    InputError
        If it does not, or it is turned, or measured in another kind of unit.
    """
    name, b = str(layer.name), region.bounds
    if None in [factor(a, b) for a, b in zip(source.units, layer.units, strict=True)]:
        raise InputError(
            f"the layer {name!r} is in {layer.units[0]}, {source.name} in {source.units[0]}: give "
            "both the same kind of unit"
        )
    # napari counts from the middles of pixels.
    ends = np.array([[b.y, b.x], [b.y1, b.x1], [b.y, b.x1]], float) - 0.5
    low, high, other = to_scene_pixels(ends, source, layer)
    if (high <= low).any() or not np.allclose(other, (low[0], high[1]), atol=_SLACK):
        raise InputError(f"the layer {name!r} is turned or mirrored: lay it as the image lies")
    size = np.asarray(shape, float)
    if (low < -_SLACK).any() or (high > size + _SLACK).any():
        raise InputError(f"the layer {name!r} does not cover the region: there is {lacking}")
    return np.array([np.maximum(low, 0), np.minimum(high, size)])


def _painted_in(
    overlay: OverlayController, region: Region | None, later: list[tuple[Region, Length]]
) -> Length:
    """How long the pixels are in which a region of an overlay was last made, or will be."""
    made = [*overlay.painted_in, *later]
    for where, pixel in reversed(made):
        if region is None or where.bounds.intersect(region.bounds).area:
            return pixel
    raise InputError(
        f"nothing is painted in {overlay.layer.name} there: vary the region at a lower "
        "magnification first, or keep the coarse picture of the source"
    )
