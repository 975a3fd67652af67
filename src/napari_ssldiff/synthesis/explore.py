"""From a region to a slide without bounds that is made of what the region holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from napari_ssldiff.embeddings.endless import MirroredField, Places, territories_of
from napari_ssldiff.embeddings.extract import cell_colours
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Region
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.synthesis.cancel import CancelToken
from napari_ssldiff.synthesis.endless import LazyScene
from napari_ssldiff.synthesis.palette import fit_palette
from napari_ssldiff.synthesis.prepare import Report, embed_region, frame_of
from napari_ssldiff.synthesis.request import Sampler

#: ``mirror``: the region's own layout, continued by reflection. ``shuffle``: its cells, drawn by
#: chance and spread over the plane as territories with soft borders.
Arrangement = Literal["mirror", "shuffle"]
#: Cells from one territory's middle to the next.
TERRITORY = 3


def explore(
    scene: Scene,
    region: Region,
    bundle: ModelBundle,
    sampler: Sampler | None = None,
    *,
    shape: tuple[int, int] = (2**20, 2**20),
    arrangement: Arrangement = "mirror",
    cache_bytes: int | None = None,
    progress: Report | None = None,
    cancel: CancelToken | None = None,
) -> LazyScene:
    """An endless slide of what a region holds.

    Parameters
    ----------
    scene, region
        Where its embeddings and colours are taken from.
    sampler
        Preset ``lazy``; its seed also shuffles.
    shape
        ``(h, w)`` of the slide, in pixels of the model.
    arrangement
        How the plane is filled.
    cache_bytes
        As for :class:`~napari_ssldiff.synthesis.endless.LazyScene`.
    progress, cancel
        As for :func:`~napari_ssldiff.synthesis.prepare.embed_region`.

    Raises
    ------
    InputError
        If the region leaves the scene, the arrangement is unknown, or the sampler does not suit.
    """
    sampler = sampler or Sampler("lazy")
    if arrangement not in ("mirror", "shuffle"):
        raise InputError(f"arrangement must be 'mirror' or 'shuffle', got {arrangement!r}")
    spec = bundle.encoder.spec
    found = embed_region(scene, region, bundle, progress=progress, cancel=cancel)
    canvas = frame_of(scene, region, bundle, "source").canvas
    check = cancel.raise_if_cancelled if cancel else lambda: None
    palette = fit_palette(found, cell_colours(scene, canvas, spec, check))
    # The slide has a frame of its own: pixels of the model, from its corner.
    field = replace(found, origin=(0.0, 0.0), cell=(float(spec.cell), float(spec.cell)))
    places: Places = MirroredField(field)
    if arrangement == "shuffle":
        places = territories_of(field, TERRITORY * spec.cell, seed=sampler.seed)
    return LazyScene(bundle, places, palette, shape, sampler, cache_bytes=cache_bytes)
