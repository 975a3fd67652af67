"""The embeddings of a region under one's hands: a map of them, a brush, and what it makes.

Strokes go into a napari Labels layer with one pixel per cell and one label per prototype. What
they cover is mixed with its prototype by the amount of the slider, always from the field that was
last kept, and only cells that differ from what the overlay shows are synthesised again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_ssldiff.embeddings import edit
from napari_ssldiff.embeddings.edited import EditedField
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.embeddings.look import Colours, Near, fit_colours, nearest, similarity
from napari_ssldiff.embeddings.outline import outlines
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.viewer.field_job import Kind, OpenedField, WordsJob, picture_of
from napari_ssldiff.viewer.field_layers import FieldLayers
from napari_ssldiff.viewer.messages import (
    FieldOpened,
    JobCancelled,
    JobDone,
    JobFailed,
    JobPainted,
    KindFound,
    Message,
)
from napari_ssldiff.viewer.overlay import PAINTING_KEY
from napari_ssldiff.viewer.session import Parameters, Severity
from napari_ssldiff.viewer.shown import Shown
from napari_ssldiff.viewer.told import told
from napari_ssldiff.viewer.wording import prompt_of

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_ssldiff.viewer.workbench import Workbench

#: Real cells that are shown beside one that was pointed at.
NEIGHBOURS = 5
#: Cells a side of what words are made into, before their mean is taken.
PATCH = 4


@dataclass(frozen=True)
class Pointed:
    """A cell that the user pointed at.

    Parameters
    ----------
    row, column
        Which.
    near
        The real cells most like it, of the field as it was opened.
    pictures
        Their pixels.
    """

    row: int
    column: int
    near: tuple[Near, ...]
    pictures: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True)
class _Content:
    field: EmbeddingField
    history: tuple[str, ...]


class FieldEditor:
    """One field at a time, over a :class:`Workbench`. Main thread only."""

    opened_changed = Signal()
    kinds_changed = Signal()
    pointed_at = Signal(object)
    #: Something was painted or erased.
    stroke = Signal()

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self.opened: OpenedField | None = None
        #: The field with the edits that were kept.
        self.edited: EditedField | None = None
        #: What can be painted; label ``i + 1`` of the brush is kind ``i``.
        self.kinds: list[Kind] = []
        self.amount = 1.0
        self._colours: dict[str, Colours] = {}
        self._shown: Shown | None = None
        self._drafts: set[int] = set()
        self._layers: FieldLayers | None = None
        bench.heard.connect(self._hear)
        bench.viewer.layers.events.removed.connect(self._on_removed)

    def say(self, text: str, severity: Severity = "info") -> None:
        """Put a line into the status."""
        self._bench.say(text, severity)

    @property
    def painted(self) -> NDArray[np.int64]:
        """``(rows, columns)``: the prototype, from 1, that lies on a cell; 0 for none."""
        self._field()
        assert self._layers is not None
        return self._layers.painted

    @property
    def current(self) -> EmbeddingField:
        """The kept field with what is painted on it."""
        field, labels = self._field(), self.painted
        for label in np.unique(labels[labels > 0]):
            if label > len(self.kinds):
                raise InputError(f"there is no kind {label}: paint with one of {len(self.kinds)}")
            mask = (labels == label) * np.float32(self.amount)
            field = edit.paint(field, self.kinds[label - 1].vector, mask)
        return field

    @told
    def open(self, count: int = 8) -> None:
        """Queue the embeddings of the first chosen region; asks before edits are given up."""
        if self.edited is not None and (self.edited.history or self.painted.any()):
            question = "Edits of the embeddings that are open can then not be taken back. Go on?"
            if not self._bench.confirm(question):
                raise InputError("the embeddings stay as they are")
        self._bench.open_field(count)

    @told
    def describe(self) -> None:
        """Queue a kind of cell that is as the session's prompt asks for."""
        self._field()
        opened, session = self.opened, self._bench.session
        assert opened is not None
        prompt, how = prompt_of(session), session.parameters
        # A patch of cells: the prior makes neighbours that agree.
        box = opened.region.bounds
        side = [round(PATCH * c) for c in opened.field.cell]
        patch = Box(box.y, box.x, *side).intersect(opened.scene.box)
        self._bench.submit(
            WordsJob(
                opened.scene, Region.from_box(patch), opened.model_id, session.device, how, prompt
            )
        )

    @told
    def choose(self, kind: int) -> None:
        """Give the user the brush with a kind of cell, counted from 0."""
        self._field()
        brush = self._brush()
        brush.selected_label = kind + 1
        brush.mode = "paint"
        self._bench.viewer.layers.selection.active = brush
        self.say("Paint cells; the eraser takes paint off again.")

    @told
    def draft(self) -> None:
        """Queue a quick look at what has changed; the one before it is dropped."""
        self._show(self._ready_draft(), draft=True)

    @told
    def keep(self) -> None:
        """Make what is painted part of the field, and queue it by the preset that is chosen."""
        self._ready()
        labels, field = self.painted, self.current
        assert self.edited is not None
        assert self._shown is not None
        if labels.any():
            self.edited = self.edited.then(
                field, "paint", amount=round(self.amount, 4), cells=self._counts()
            )
            self._clear()
            self._shown.forget(labels > 0)  # what has shown them was a draft
        elif not self._shown.stale(field).any():
            raise InputError("nothing is painted: pick a kind of cell and paint on the image")
        self._show(self._bench.session.parameters)

    @told
    def undo(self) -> None:
        """Take paint off, or else the last kept edit back."""
        self._ready()
        if self.painted.any():
            self._clear()
        else:
            assert self.edited is not None
            self.edited = self.edited.undone()
        self._draw_map()
        self._show(self._bench.session.parameters)

    @told
    def point(self, row: int, column: int) -> None:
        """Show how like every cell is to one, and the real cells that are most like it."""
        field = self.current
        assert self.opened is not None
        vector = field.vectors[row, column]
        assert self._layers is not None
        self._layers.show_heat(similarity(field, vector))
        real = self.opened.field
        near = tuple(nearest(real, vector, NEIGHBOURS, beside=(row, column)))
        scene = self.opened.scene
        pictures = tuple(picture_of(scene, real, n.row, n.column) for n in near)
        self.pointed_at.emit(Pointed(row, column, near, pictures))

    # Inside

    def _field(self) -> EmbeddingField:
        if self.edited is None:
            raise InputError("no embeddings are open: draw a region and open its embeddings")
        return self.edited.field

    def _ready(self) -> OpenedField:
        """The open field, if it can be edited now.

        Raises
        ------
        InputError
            If none is open, or another scene or model is chosen.
        """
        self._field()
        opened = self.opened
        assert opened is not None
        if self._bench.source is not opened.source:
            raise InputError(f"the embeddings are those of {opened.scene.name}: choose that scene")
        if self._bench.session.model_id != opened.model_id:
            raise InputError(
                f"the embeddings are those of {opened.model_id}: choose that model, or open them "
                "again"
            )
        return opened

    def _counts(self) -> dict[str, int]:
        """Cells that each kind is painted on."""
        labels, counts = self.painted, dict[str, int]()
        for k in np.unique(labels[labels > 0]):
            name = self.kinds[k - 1].name
            counts[name] = counts.get(name, 0) + int((labels == k).sum())
        return counts

    def _hear(self, message: Message) -> None:
        if isinstance(message, FieldOpened):
            self._take(message.opened)
        elif isinstance(message, JobPainted) and self._shown is not None:
            self._shown.painted(message.job)
        elif isinstance(message, JobDone | JobCancelled | JobFailed) and self._shown is not None:
            end = self._shown.done if isinstance(message, JobDone) else self._shown.stopped
            self._drafts.discard(message.job)
            if end(message.job):
                self._mend()
        elif isinstance(message, KindFound) and self.opened is not None:
            if message.kind.encoder != self.opened.field.encoder:
                return  # another field was opened meanwhile
            self.kinds.append(message.kind)
            self.kinds_changed.emit()
            self.choose(len(self.kinds) - 1)

    @told
    def _mend(self) -> None:
        """Make up for what a dropped draft has painted after it was dropped."""
        self._show(self._ready_draft(), draft=True)

    def _ready_draft(self) -> Parameters:
        self._ready()
        how = self._bench.session.parameters
        return replace(how, preset="draft", steps=None, guidance=None)

    def _take(self, opened: OpenedField) -> None:
        if opened.source not in self._bench.viewer.layers:
            return  # removed while its embeddings were made
        self._drop()
        self.opened, self.edited = opened, EditedField(opened.field)
        self._shown, self.kinds = Shown(opened.field), list(opened.kinds)
        if opened.field.encoder not in self._colours:
            self._colours[opened.field.encoder] = fit_colours(opened.field)
        self._layers = FieldLayers(
            self._bench.viewer, opened.source, opened.scene.name, opened.field, self.point,
            self.stroke.emit,
        )  # fmt: skip
        self._draw_map()
        self._brush()
        self._layers.activate()
        self.opened_changed.emit()

    def _show(self, parameters: Parameters, draft: bool = False) -> None:
        opened, field = self._ready(), self.current
        assert self.edited is not None
        assert self._shown is not None
        self._stop_drafts()
        touched = self._shown.stale(field)
        if not touched.any():
            return
        patches = patches_of(field, touched, opened.scene.box)
        inside = np.zeros(field.shape, bool)
        for cells, _ in patches:
            inside |= cells
        self._shown.settle(touched & ~inside, field)
        if not patches:
            raise InputError("the cells that were painted lie outside the image")
        edges = replace(parameters.edges, grow=Length(0))
        if not edges.context.value and not edges.match.value:
            # What lies around stays as it is, so that an edit grows into it.
            edges = replace(edges, context=Length(cell_of(opened)))
        history = self.edited.history
        if self.painted.any():
            painted = self.edited.then(
                field, "paint", amount=round(self.amount, 4), cells=self._counts()
            )
            history = painted.history
        content = _Content(field, history)
        how = replace(parameters, edges=edges, over=True, strength=1.0)
        for cells, region in patches:
            job = self._bench.render(region, content, how)
            self._shown.begin(job, cells, field)
            if draft:
                self._drafts.add(job)
        self._draw_map()

    def _stop_drafts(self) -> None:
        """Drop what is drafted; what of it is painted already counts as neither old nor new."""
        self._bench.worker.cancel(lambda job: job.id in self._drafts)
        for job in self._drafts:
            if self._shown is not None:
                self._shown.drop(job)
        self._drafts.clear()

    def _draw_map(self) -> None:
        if self._layers is not None:
            field = self.current
            self._layers.show_map(self._colours[field.encoder](field.vectors))

    def _brush(self) -> Labels:
        assert self._layers is not None
        return self._layers.brush([self.colour_of(kind) for kind in self.kinds])

    def colour_of(self, kind: Kind) -> NDArray[np.uint8]:
        """``(3,)``: a kind's colour on the map."""
        assert self.opened is not None
        return self._colours[self.opened.field.encoder](kind.vector)

    def _clear(self) -> None:
        if self._layers is not None:
            self._layers.clear()

    def _drop(self) -> None:
        self._stop_drafts()
        if self._layers is not None:
            self._layers.remove()
        self.opened = self.edited = self._shown = self._layers = None
        self.kinds = []

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        if self._layers is not None:
            self._layers.removed(layer)
        if self.opened is not None and layer is self.opened.source:
            self._drop()
            self.opened_changed.emit()
        elif self.opened is not None and PAINTING_KEY in layer.metadata:
            self._shown = Shown(self.opened.field)  # with its overlay went what it showed

    def close(self) -> None:
        """Take the layers away and stop listening. Safe to call twice."""
        self._drop()
        with suppress(ValueError):
            self._bench.viewer.layers.events.removed.disconnect(self._on_removed)
        self._bench.heard.disconnect(self._hear, missing_ok=True)


def cell_of(opened: OpenedField) -> float:
    """Edge of a cell in pixels of the model."""
    field, size = opened.field, opened.scene.encoder_pixel_size
    return float(round(field.cell[0] * size.y / field.resolution))


def patches_of(
    field: EmbeddingField, touched: NDArray[np.bool_], inside: Box
) -> list[tuple[NDArray[np.bool_], Region]]:
    """The cells that an edit has touched and no others: patches of them, each with its region, as
    far as it lies in the scene; none of those that do not.
    """
    frame = np.array([field.origin, field.cell])
    low, high = np.array([inside.y, inside.x]), np.array([inside.y1, inside.x1])
    found = []
    for cells, ring in outlines(touched):
        corners = np.clip(np.round(frame[0] + np.array(ring) * frame[1]), low, high)
        if np.ptp(corners, axis=0).all():
            found.append((cells, Region.from_vertices(corners)))
    return found
