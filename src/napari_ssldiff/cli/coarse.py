"""Options of several magnifications: what a variation keeps to, and fields that are given."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from napari_ssldiff.errors import InputError

if TYPE_CHECKING:
    from napari_ssldiff.embeddings import EmbeddingField
    from napari_ssldiff.geometry import Region
    from napari_ssldiff.models import ModelBundle
    from napari_ssldiff.scenes import Scene
    from napari_ssldiff.synthesis.coarse import CoarsePicture


def field_of(path: Path | None) -> tuple[EmbeddingField | None, tuple[str, ...]]:
    """``--field`` and how it came about."""
    if path is None:
        return None, ()
    from napari_ssldiff.embeddings import EmbeddingField
    from napari_ssldiff.embeddings.field import history_of

    return EmbeddingField.load(path), history_of(path)


def guide_of(
    arguments: argparse.Namespace,
    scene: Scene,
    region: Region,
    bundle: ModelBundle,
    *,
    around: int,
    grow: int,
) -> CoarsePicture | None:
    """``--guide``: a file's picture, or the source in pixels of a length.

    Raises
    ------
    InputError
        If it is neither, or not coarser than the model.
    """
    if not arguments.guide:
        return None
    from napari_ssldiff.synthesis.coarse import guide_resolution
    from napari_ssldiff.synthesis.prepare import picture_guide, source_guide

    how = {"strength": arguments.guide_strength, "grid": arguments.grid, "around": around,
           "grow": grow}  # fmt: skip
    if Path(arguments.guide).exists():
        from napari_ssldiff.scenes import open_scene
        from napari_ssldiff.scenes.resample import read_at

        with open_scene(arguments.guide) as picture:
            own = picture.encoder_pixel_size
            return picture_guide(read_at(picture, picture.box, own), scene, region, bundle, **how)
    from napari_ssldiff.scenes.lengths import parse_length

    try:
        length = parse_length(arguments.guide, "--guide")
    except InputError:
        raise InputError(
            f"--guide is a picture of the region, or the length of a pixel such as 8um; there is "
            f"no file {arguments.guide!r}"
        ) from None
    card = bundle.card
    resolution = guide_resolution(length, card.resolution, card.unit, card.id)
    return source_guide(scene, region, bundle, resolution, **how)
