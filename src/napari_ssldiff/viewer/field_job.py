"""Opening a region's field on the worker: its embeddings, and what they consist of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.colours import Method, colours_for
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.embeddings.look import Prototypes, prototypes
from napari_ssldiff.geometry import Region
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.scenes.thumbnail import thumbnail
from napari_ssldiff.viewer.jobs import Post, Reporter, load_model, next_id
from napari_ssldiff.viewer.kinds import Kind
from napari_ssldiff.viewer.messages import ColoursFound, FieldOpened
from napari_ssldiff.viewer.worker import Engine, JobControl

if TYPE_CHECKING:
    from napari.layers import Image

#: Edge of a cell's picture in pixels.
PICTURE = 48


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
    history
        How the field came about, where it is not the region's own: JSON objects.
    """

    scene: Scene
    source: Image
    region: Region
    model_id: str
    field: EmbeddingField
    found: Prototypes
    kinds: tuple[Kind, ...]
    history: tuple[str, ...] = ()


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
                    self.scene,
                    self.source,
                    self.region,
                    self.model_id,
                    made,
                    found,
                    kinds,
                    getattr(bundle, "embedded", ()),
                ),
            )
        )
        rows, columns = made.shape
        return (
            f"{rows} × {columns} cells of {len(kinds)} kinds: pick one and paint, or point at "
            "the map."
        )


@dataclass(frozen=True, eq=False)
class ColoursJob:
    """Colours that take a while to fit.

    Parameters
    ----------
    made
        The field that they are fitted to.
    method, anew
        As of :func:`~napari_ssldiff.embeddings.colours.colours_for`.
    """

    made: EmbeddingField
    method: Method
    anew: bool = False
    id: int = field(default_factory=next_id)

    def run(self, engine: Engine, control: JobControl, post: Post) -> str:
        """Fit them; what is fitted is kept for the next time."""
        Reporter(self.id, post)("Fitting the colours")
        palette = colours_for(self.made, self.method, self.anew)
        control.raise_if_cancelled()
        post(ColoursFound(self.id, self.made.encoder, palette))
        return f"The map's colours are those of {self.method.upper()}."


def picture_of(scene: Scene, made: EmbeddingField, row: int, column: int) -> NDArray[np.uint8]:
    """``(PICTURE, PICTURE, 3)`` uint8: the real pixels of a cell."""
    (oy, ox), (h, w) = made.origin, made.cell
    return thumbnail(scene, (oy + row * h, ox + column * w), (h, w), PICTURE)
