"""Opening a region's field on the worker: its embeddings, and what they consist of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.edit import average
from napari_ssldiff.embeddings.field import EmbeddingField, Vectors
from napari_ssldiff.embeddings.look import Prototypes, prototypes
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.resample import read_at
from napari_ssldiff.scenes.scene import PixelSize, Scene
from napari_ssldiff.viewer.jobs import Post, Reporter, load_model, next_id
from napari_ssldiff.viewer.messages import FieldOpened, KindFound
from napari_ssldiff.viewer.session import Parameters
from napari_ssldiff.viewer.worker import Engine, JobControl

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_ssldiff.synthesis.imagine import Prompt

#: Edge of a cell's picture in pixels.
PICTURE = 48


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of cell that can be painted.

    Parameters
    ----------
    vector
        ``(d,)``, of unit length.
    name
        What it is called in a field's history.
    encoder
        Whose vector it is.
    picture
        ``(h, w, 3)`` uint8 of a real cell; ``None`` where there is none.
    """

    vector: Vectors
    name: str
    encoder: str
    picture: NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class OpenedField:
    """A region's field, as the editor takes it.

    Parameters
    ----------
    scene, source, region, model_id
        What it is of, and for which model.
    field
        The embeddings of the region's canvas, which may be a little larger.
    found
        What the field consists of.
    kinds
        A kind for each prototype, with the picture of a real cell.
    """

    scene: Scene
    source: Image
    region: Region
    model_id: str
    field: EmbeddingField
    found: Prototypes
    kinds: tuple[Kind, ...]


@dataclass(frozen=True, eq=False)
class OpenFieldJob:
    """Embed a region and find its prototypes.

    Parameters
    ----------
    source
        The scene's layer.
    count
        Prototypes at most.
    """

    scene: Scene
    source: Image
    region: Region
    model_id: str
    device: str
    count: int
    id: int = field(default_factory=next_id)

    def run(self, engine: Engine, control: JobControl, post: Post) -> str:
        """Load, embed, cluster, read a picture of each prototype."""
        report = Reporter(self.id, post)
        bundle, token = load_model(self, engine, control, report)
        report("Reading the region")
        made = engine.backend.embed(self.scene, self.region, bundle, progress=report, cancel=token)
        report("Sorting the cells")
        found = prototypes(made, self.count)
        control.raise_if_cancelled()
        kinds = tuple(
            Kind(vector, f"kind {i + 1}", made.encoder, picture_of(self.scene, made, *cell))
            for i, (vector, cell) in enumerate(zip(found.vectors, found.cells, strict=True))
        )
        post(
            FieldOpened(
                self.id,
                OpenedField(
                    self.scene, self.source, self.region, self.model_id, made, found, kinds
                ),
            )
        )
        rows, columns = made.shape
        return (
            f"{rows} × {columns} cells of {len(kinds)} kinds: pick one and paint, or point at "
            "the map."
        )


@dataclass(frozen=True, eq=False)
class WordsJob:
    """The kind of cell that words describe: the mean direction of a small field made of them.

    Parameters
    ----------
    scene, region
        Where it will be painted.
    prompt
        The words.
    """

    scene: Scene
    region: Region
    model_id: str
    device: str
    parameters: Parameters
    prompt: Prompt
    id: int = field(default_factory=next_id)

    def run(self, engine: Engine, control: JobControl, post: Post) -> str:
        """Load, imagine, average."""
        report = Reporter(self.id, post)
        bundle, token = load_model(self, engine, control, report)
        report("Reading the words")
        imagined = engine.backend.imagine(
            self.scene, self.region, bundle, self.prompt, self.parameters,
            progress=report, cancel=token,
        )  # fmt: skip
        post(
            KindFound(
                self.id,
                Kind(average(imagined.field), self.prompt.root.told, imagined.field.encoder),
            )
        )
        told = "".join(f" {note[:1].upper()}{note[1:]}." for note in imagined.notes)
        return f"{self.prompt.root.told!r} can be painted now.{told}"


def picture_of(scene: Scene, made: EmbeddingField, row: int, column: int) -> NDArray[np.uint8]:
    """``(PICTURE, PICTURE, 3)`` uint8: the real pixels of a cell."""
    (oy, ox), (h, w) = made.origin, made.cell
    size = scene.encoder_pixel_size
    pixel = PixelSize(size.y * h / PICTURE, size.x * w / PICTURE, size.unit)
    y, x = (round((o + i * c) / c * PICTURE) for o, i, c in ((oy, row, h), (ox, column, w)))
    return read_at(scene, Box(y, x, PICTURE, PICTURE), pixel)
