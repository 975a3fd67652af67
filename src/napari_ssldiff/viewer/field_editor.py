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
from napari_ssldiff.embeddings.edited import EditedField, changed_cells
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.embeddings.look import Colours, Near, fit_colours, nearest, similarity
from napari_ssldiff.embeddings.outline import outlines
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.viewer.field_job import Kind, OpenedField, WordsJob, picture_of
from napari_ssldiff.viewer.messages import FieldOpened, KindFound
from napari_ssldiff.viewer.overlay import place_at
from napari_ssldiff.viewer.session import Parameters, Severity
from napari_ssldiff.viewer.told import told

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer

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
        self._rendered: EmbeddingField | None = None
        self._drafts: set[int] = set()
        self._map: Image | None = None
        self._brush: Labels | None = None
        self._heat: Image | None = None
        bench.told_of_fields.connect(self._hear)
        bench.viewer.layers.events.removed.connect(self._on_removed)

    def say(self, text: str, severity: Severity = "info") -> None:
        """Put a line into the status."""
        self._bench.say(text, severity)

    @property
    def painted(self) -> NDArray[np.int64]:
        """``(rows, columns)``: the prototype, from 1, that lies on a cell; 0 for none."""
        field = self._field()
        if self._brush is None:
            return np.zeros(field.shape, np.int64)
        return np.asarray(self._brush.data, np.int64)

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
        """Queue the embeddings of the first chosen region."""
        self._bench.open_field(count)

    @told
    def describe(self) -> None:
        """Queue a kind of cell that the session's prompt describes."""
        from napari_ssldiff.synthesis.imagine import Prompt

        self._field()
        opened, session = self.opened, self._bench.session
        assert opened is not None
        words, how = session.wording, session.parameters
        if not words.prompt.strip():
            raise InputError("the prompt is empty: say under Words what shall be painted")
        prompt = Prompt(words.prompt, words.negative, seed=how.seed, guidance=words.guidance)
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
        brush = self._brush_layer()
        brush.selected_label = kind + 1
        brush.mode = "paint"
        self._bench.viewer.layers.selection.active = brush
        self.say("Paint cells; the eraser takes paint off again.")

    @told
    def draft(self) -> None:
        """Queue a quick look at what has changed; the one before it is dropped."""
        self._show(replace(self._bench.session.parameters, preset="draft", steps=None,
                           guidance=None), draft=True)  # fmt: skip

    @told
    def keep(self) -> None:
        """Make what is painted part of the field, and queue it by the preset that is chosen."""
        assert self.edited is not None or self._field()
        labels, field = self.painted, self.current
        if not labels.any():
            raise InputError("nothing is painted: pick a kind of cell and paint on the image")
        assert self.edited is not None
        self.edited = self.edited.then(
            field,
            "paint",
            amount=round(self.amount, 4),
            cells=self._counts(),
        )
        self._clear()
        if self._bench.session.parameters.preset != "draft":
            # All of the edit, and not what a draft has shown already.
            self._rendered = self.edited.before.field if self.edited.before else None
        self._show(self._bench.session.parameters)

    @told
    def undo(self) -> None:
        """Take paint off, or else the last kept edit back."""
        self._field()
        if self.painted.any():
            self._clear()
        else:
            assert self.edited is not None
            self.edited = self.edited.undone()
        self._draw_map()
        if changed_cells(self._shown(), self.current).any():
            self._show(self._bench.session.parameters)

    @told
    def point(self, row: int, column: int) -> None:
        """Show how like every cell is to one, and the real cells that are most like it."""
        field = self.current
        assert self.opened is not None
        vector = field.vectors[row, column]
        self._show_heat(similarity(field, vector))
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

    def _shown(self) -> EmbeddingField:
        """What the overlay was made of, as far as this editor knows."""
        return self._field() if self._rendered is None else self._rendered

    def _counts(self) -> dict[str, int]:
        """Cells that each kind is painted on."""
        labels = self.painted
        marked = np.unique(labels[labels > 0])
        return {self.kinds[k - 1].name: int((labels == k).sum()) for k in marked}

    def _hear(self, message: FieldOpened | KindFound) -> None:
        if isinstance(message, FieldOpened):
            self._take(message.opened)
        elif self.opened is not None:
            self.kinds.append(message.kind)
            brush = self._brush_layer()
            brush.colormap = self._palette()
            self.kinds_changed.emit()
            self.choose(len(self.kinds) - 1)

    def _take(self, opened: OpenedField) -> None:
        self._drop()
        self.opened, self.edited = opened, EditedField(opened.field)
        self._rendered, self.kinds = opened.field, list(opened.kinds)
        self._colours.setdefault(opened.field.encoder, fit_colours(opened.field))
        self._draw_map()
        self._brush_layer()
        self.opened_changed.emit()

    def _show(self, parameters: Parameters, draft: bool = False) -> None:
        assert self.opened is not None or self._field()
        field, opened = self.current, self.opened
        assert opened is not None
        assert self.edited is not None
        if self._bench.source is not opened.source:
            raise InputError(f"the embeddings are those of {opened.scene.name}: choose that scene")
        touched = changed_cells(self._shown(), field)
        if not touched.any():
            return
        regions = regions_of(field, touched, opened.scene.box)
        edges = parameters.edges
        if not edges.context.value and not edges.match.value:
            # What lies around stays as it is, so that an edit grows into it.
            edges = replace(edges, context=Length(float(self._cell_of_model(opened))))
        self._bench.worker.cancel(lambda job: job.id in self._drafts)
        history = self.edited.history
        if self.painted.any():
            painted = self.edited.then(
                field, "paint", amount=round(self.amount, 4), cells=self._counts()
            )
            history = painted.history
        content, how = _Content(field, history), replace(parameters, edges=edges, over=True)
        jobs = {self._bench.render(region, content, how) for region in regions}
        self._drafts = jobs if draft else set()
        self._rendered = field
        self._draw_map()

    def _cell_of_model(self, opened: OpenedField) -> int:
        card = self._bench.card(opened.model_id)
        return 64 if card is None else card.window // 2

    def _draw_map(self) -> None:
        from napari.layers import Image

        if self.opened is None:
            return
        field = self.current
        colours = self._colours[field.encoder](field.vectors)
        if self._map is not None:
            self._map.data = colours
            return
        self._map = Image(
            colours, rgb=True, name=f"{self.opened.scene.name} · embeddings", opacity=0.5,
            interpolation2d="nearest", **self._place(),
        )  # fmt: skip
        self._map.mouse_drag_callbacks.append(self._on_press)
        self._add(self._map)

    def _brush_layer(self) -> Labels:
        from napari.layers import Labels

        if self._brush is not None:
            return self._brush
        assert self.opened is not None
        brush = Labels(
            np.zeros(self.opened.field.shape, np.uint8),
            name=f"{self.opened.scene.name} · brush",
            colormap=self._palette(),
            opacity=0.8,
            **self._place(),
        )
        brush.brush_size = 1
        brush.events.paint.connect(lambda event: self.stroke.emit())
        self._brush = brush
        self._add(brush)
        return brush

    def colour_of(self, kind: Kind) -> NDArray[np.uint8]:
        """``(3,)``: a kind's colour on the map."""
        assert self.opened is not None
        return self._colours[self.opened.field.encoder](kind.vector)

    def _palette(self) -> Any:
        from napari.utils.colormaps import DirectLabelColormap

        table: dict[int | None, Any] = {None: (0, 0, 0, 0), 0: (0, 0, 0, 0)}
        for i, kind in enumerate(self.kinds):
            table[i + 1] = (*(self.colour_of(kind) / 255), 1.0)
        return DirectLabelColormap(color_dict=table)

    def _show_heat(self, values: NDArray[np.float32]) -> None:
        from napari.layers import Image

        limits = (float(values.min()), 1.0)
        if self._heat is not None:
            self._heat.data, self._heat.contrast_limits = values, limits
            return
        assert self.opened is not None
        self._heat = Image(
            values, name=f"{self.opened.scene.name} · similarity", colormap="inferno",
            contrast_limits=limits, opacity=0.6, interpolation2d="nearest", **self._place(),
        )  # fmt: skip
        self._add(self._heat)

    def _place(self) -> dict[str, Any]:
        assert self.opened is not None
        field = self.opened.field
        return place_at(self.opened.source, field.origin, field.cell)

    def _add(self, layer: Layer) -> None:
        active = self._bench.viewer.layers.selection.active
        self._bench.viewer.add_layer(layer)
        if active is not None and active in self._bench.viewer.layers:
            self._bench.viewer.layers.selection.active = active

    def _on_press(self, layer: Image, event: Any) -> None:
        """A click on the map, not a drag."""
        at = layer.world_to_data(event.position)
        row, column = (round(float(v)) for v in at[-2:])
        rows, columns = layer.data.shape[:2]
        if 0 <= row < rows and 0 <= column < columns:
            self.point(row, column)

    def _clear(self) -> None:
        if self._brush is not None:
            self._brush.data = np.zeros_like(self._brush.data)

    def _drop(self) -> None:
        for layer in (self._map, self._brush, self._heat):
            if layer is not None and layer in self._bench.viewer.layers:
                self._bench.viewer.layers.remove(layer)
        self._map = self._brush = self._heat = None
        self.opened = self.edited = self._rendered = None
        self.kinds = []

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        for name in ("_map", "_brush", "_heat"):
            if layer is getattr(self, name):
                setattr(self, name, None)
        if self.opened is not None and layer is self.opened.source:
            self._drop()
            self.opened_changed.emit()

    def close(self) -> None:
        """Stop listening."""
        with suppress(ValueError):
            self._bench.viewer.layers.events.removed.disconnect(self._on_removed)


def regions_of(field: EmbeddingField, touched: NDArray[np.bool_], inside: Box) -> list[Region]:
    """The cells that an edit has touched and no others: one region per patch of them, as far as
    they lie in the scene.

    Raises
    ------
    InputError
        If none does.
    """
    frame = np.array([field.origin, field.cell])
    low, high = np.array([inside.y, inside.x]), np.array([inside.y1, inside.x1])
    found = []
    for ring in outlines(touched):
        corners = np.clip(np.round(frame[0] + np.array(ring) * frame[1]), low, high)
        if np.ptp(corners, axis=0).all():
            found.append(Region.from_vertices(corners))
    if not found:
        raise InputError("the cells that were painted lie outside the image")
    return found
