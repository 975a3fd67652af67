"""Opening a region's field on the worker: its embeddings, and what they consist of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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

    from napari_ssldiff.embeddings.slide import Sampled

#: Edge of a cell's picture in pixels.
PICTURE = 48


@dataclass(frozen=True, eq=False)
class Whole:
    """What a whole scene consists of.

    Parameters
    ----------
    sampled
        Cells from all over it.
    found
        What they consist of.
    """

    sampled: Sampled
    found: Prototypes


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
        What the field consists of; of the whole scene's kinds, which its cells are most like.
    kinds
        A kind for each prototype, with the picture of a real cell.
    history
        How the field came about, where it is not the region's own: JSON objects.
    whole
        The whole scene, where the kinds are of it.
    """

    scene: Scene
    source: Image
    region: Region
    model_id: str
    field: EmbeddingField
    found: Prototypes
    kinds: tuple[Kind, ...]
    history: tuple[str, ...] = ()
    whole: Whole | None = None

    @property
    def sorted(self) -> tuple[EmbeddingField, Prototypes]:
        """The real cells that were sorted into kinds, of the region or of the scene, and how."""
        if self.whole is None:
            return self.field, self.found
        return self.whole.sampled.field, self.whole.found

    @property
    def shares(self) -> list[float]:
        """How much of these each kind has."""
        field, found = self.sorted
        labels = found.labels if field.valid is None else found.labels[field.valid]
        return [float((labels == i).mean()) for i in range(len(found.vectors))]

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """``(y, x)`` in level-0 pixels of one of these cells."""
        if self.whole is not None:
            return self.whole.sampled.corner(row, column)
        (y, x), (h, w) = self.field.origin, self.field.cell
        return y + row * h, x + column * w

    def picture(self, row: int, column: int) -> NDArray[np.uint8]:
        """``(PICTURE, PICTURE, 3)`` uint8: the real pixels of one of these cells."""
        return thumbnail(self.scene, self.corner(row, column), self.field.cell, PICTURE)


@dataclass(frozen=True, eq=False)
class OpenFieldJob:
    """Embed a region and find its prototypes, or those of all of its scene.

    Parameters
    ----------
    source
        The scene's layer.
    count
        Prototypes at most.
    whole
        Sort cells from all over the scene rather than the region's.
    """

    scene: Scene
    source: Image
    region: Region
    model_id: str
    device: str
    count: int
    whole: bool = False
    id: int = field(default_factory=next_id)

    def run(self, engine: Engine, control: JobControl, post: Post) -> str:
        """Load, embed, cluster, read a picture of each prototype."""
        report = Reporter(self.id, post)
        bundle, token = load_model(self, engine, control, report)
        report("Reading the region")
        made = engine.backend.embed(self.scene, self.region, bundle, progress=report, cancel=token)
        sampled = engine.backend.sample(self.scene, bundle, report, token) if self.whole else None
        report("Sorting the cells")
        whole, found = None, prototypes(made if sampled is None else sampled.field, self.count)
        if sampled is not None:
            whole = Whole(sampled, found)
            found = replace(found, labels=(made.vectors @ found.vectors.T).argmax(-1))
        control.raise_if_cancelled()
        opened = OpenedField(
            self.scene, self.source, self.region, self.model_id, made, found, (),
            getattr(bundle, "embedded", ()), whole,
        )  # fmt: skip
        kinds = tuple(
            Kind(vector, f"kind {i + 1}", made.encoder, opened.picture(*cell))
            for i, (vector, cell) in enumerate(zip(found.vectors, found.cells, strict=True))
        )
        post(FieldOpened(self.id, replace(opened, kinds=kinds)))
        rows, columns = made.shape
        seen = "" if sampled is None else f", found in {sampled.count} cells of the whole slide"
        return (
            f"{rows} × {columns} cells of {len(kinds)} kinds{seen}: pick one and paint, or point "
            "at the map."
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
