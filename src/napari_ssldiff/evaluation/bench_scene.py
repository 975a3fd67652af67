"""What a bench paints: a real field on a canvas of any size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.extract import embed_box, grid_scale, read_grid
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError
from napari_ssldiff.evaluation.regions import cells_of
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.samples import sample_path
from napari_ssldiff.scenes import PixelSize, Scene, open_scene
from napari_ssldiff.scenes.blank import blank_scene
from napari_ssldiff.scenes.levels import ArrayLevel, Problems
from napari_ssldiff.synthesis import Sampler, SynthesisRequest, make_request

SAMPLE = "synthetic-slide"


@dataclass(frozen=True)
class Ground:
    """A square of a scene as a bench uses it.

    Parameters
    ----------
    name
        Of the scene.
    note
        What a reader of the figures has to know of it, if anything.
    pixels
        ``(h, w, 3)`` uint8 at the model's resolution, whole cells.
    field
        Its embeddings, from its own corner.
    """

    name: str
    note: str | None
    pixels: NDArray[np.uint8]
    field: EmbeddingField


def _as_the_models(pixels: NDArray[np.uint8], bundle: ModelBundle, name: str) -> Scene:
    """Pixels as a scene at the model's resolution. No path: no cache is keyed by it."""
    spec = bundle.encoder.spec
    level = ArrayLevel(pixels, "YXC", "C", (512, 512), Problems(), name)
    size = PixelSize(spec.resolution, spec.resolution, spec.unit)
    return Scene(path="", name=name, levels=(level,), pixel_size=size)


def _middle(scene: Scene, bundle: ModelBundle, wanted: int) -> NDArray[np.uint8]:
    spec = bundle.encoder.spec
    scale = grid_scale(scene, spec)
    whole = [int(n / s + 1e-6) for n, s in zip(scene.shape, scale, strict=True)]
    h, w = (min(n, wanted) // spec.cell * spec.cell for n in whole)
    if not h or not w:
        raise InputError(
            f"{scene.name} is {whole[1]} × {whole[0]} px at the model's resolution and holds no "
            f"cell of {spec.cell} px: give a larger scene"
        )
    box = Box((whole[0] - h) // 2, (whole[1] - w) // 2, h, w)
    return read_grid(scene, box, spec)


def read_ground(bundle: ModelBundle, path: Path | None, wanted: int) -> Ground:
    """The middle of a scene, at most ``wanted`` model pixels a side, embedded.

    Parameters
    ----------
    path
        A scene in the model's unit. ``None`` takes the bundled synthetic slide, for models of
        another unit as if its pixels were theirs.

    Raises
    ------
    InputError
        If the scene does not suit the model or is smaller than a cell.
    """
    note = None
    with open_scene(path or sample_path(SAMPLE)) as scene:
        name = scene.name
        own, needed = scene.encoder_pixel_size.unit, bundle.encoder.spec.unit
        if path is None and own not in (needed, "pixel"):
            note = (
                f"{name} is a picture in {own}, read as if its pixels were the model's: seconds "
                "are right, ssl_cosine is of a domain that the model was not made for"
            )
            with _as_the_models(scene.read_rgb(scene.box), bundle, name) as read:
                pixels = _middle(read, bundle, wanted)
        else:
            pixels = _middle(scene, bundle, wanted)
    with _as_the_models(pixels, bundle, name) as square:
        field = embed_box(square, square.box, bundle.encoder)
    return Ground(name, note, pixels, field)


def tile_field(field: EmbeddingField, size: int) -> EmbeddingField:
    """A field over a canvas of ``size`` pixels a side, continued by reflection at its borders.

    The corner of the canvas is the corner of the field.
    """
    rows, columns = (-(-size // round(edge)) for edge in field.cell)
    more = [(0, max(0, n - have)) for n, have in zip((rows, columns), field.shape, strict=True)]
    vectors = np.pad(field.vectors, [*more, (0, 0)], mode="symmetric")[:rows, :columns]
    valid = None
    if field.valid is not None:
        valid = np.pad(field.valid, more, mode="symmetric")[:rows, :columns]
    return EmbeddingField(
        vectors=vectors, origin=(0, 0), cell=field.cell, encoder=field.encoder,
        resolution=field.resolution, unit=field.unit, valid=valid,
    )  # fmt: skip


def canvas_of(bundle: ModelBundle, size: int) -> Scene:
    """A blank scene of ``size`` pixels a side: at strength 1 nobody reads it."""
    spec = bundle.encoder.spec
    pixel_size = PixelSize(spec.resolution, spec.resolution, spec.unit)
    return blank_scene((size, size), pixel_size, f"canvas of {size} px")


def request_for(
    bundle: ModelBundle, scene: Scene, ground: Ground, sampler: Sampler
) -> SynthesisRequest:
    """The request to fill all of a blank scene from a ground's field."""
    field = tile_field(ground.field, scene.shape[0])
    region = Region.from_box(scene.box)
    return make_request(scene, region, bundle, sampler, field=field, grid="model")


def mean_cosine(bundle: ModelBundle, field: EmbeddingField, image: NDArray[np.uint8]) -> float:
    """Mean cosine between a field and the embeddings of what was made of it.

    Cells without content, such as glass, do not count, unless there are no others.
    """
    made = bundle.encoder.embed(cells_of(image, bundle.spec.cell))
    rows, columns = image.shape[0] // bundle.spec.cell, image.shape[1] // bundle.spec.cell
    asked = field.vectors[:rows, :columns].reshape(len(made), -1)
    cosines = np.sum(asked * made, 1)
    if field.valid is not None and field.valid[:rows, :columns].any():
        cosines = cosines[field.valid[:rows, :columns].ravel()]
    return float(cosines.mean())
