"""The embeddings of a region under one's hands: a map of them, a brush, and what it makes.

Strokes go into a napari Labels layer with one pixel per cell and one label per kind. What they
cover is mixed with its kind by the amount of the slider, always from the field that was last kept,
and only cells that differ from what the overlay shows are synthesised again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_ssldiff.embeddings.colours import Method, Palette, colours_for, kept_colours, need_umap
from napari_ssldiff.embeddings.edited import EditedField
from napari_ssldiff.embeddings.field import EmbeddingField, Vectors
from napari_ssldiff.embeddings.index import Index
from napari_ssldiff.embeddings.look import similarity
from napari_ssldiff.errors import InputError
from napari_ssldiff.viewer.field_job import ColoursJob, OpenedField
from napari_ssldiff.viewer.field_layers import FieldLayers
from napari_ssldiff.viewer.field_renders import Renders
from napari_ssldiff.viewer.field_tools import FieldTools
from napari_ssldiff.viewer.kinds import Kind, painted, told_of
from napari_ssldiff.viewer.lookup import Lookup, questions_of
from napari_ssldiff.viewer.magnification import fits
from napari_ssldiff.viewer.messages import (
    ColoursFound,
    FieldOpened,
    KindFound,
    Message,
    NearFound,
    PicturesRead,
)
from napari_ssldiff.viewer.overlay import PAINTING_KEY
from napari_ssldiff.viewer.pointing import Pointed, cell_of, heat_of, kind_of, map_of
from napari_ssldiff.viewer.session import Parameters, Severity
from napari_ssldiff.viewer.told import told

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_ssldiff.viewer.workbench import Workbench


class FieldEditor:
    """One field at a time, over a :class:`Workbench`. Main thread only."""

    opened_changed = Signal()
    kinds_changed = Signal()
    pointed_at = Signal(object)
    index_changed = Signal()
    #: What was read about it since: a ``PicturesRead``, or an ``Elsewhere``.
    looked_up = Signal(object)
    #: Something was painted or erased.
    stroke = Signal()

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.opened: OpenedField | None = None
        #: The field with the edits that were kept.
        self.edited: EditedField | None = None
        #: What can be painted; label ``i + 1`` of the brush is kind ``i``.
        self.kinds: list[Kind] = []
        self.amount = 1.0
        self.tools = FieldTools(self)
        #: A data set that is asked too when a cell is pointed at.
        self.index: Index | None = None
        self._lookup = Lookup(bench.deliver)
        #: How the map is coloured.
        self.method: Method = "pca"
        self._palette: Palette | None = None
        self._renders: Renders | None = None
        self._layers: FieldLayers | None = None
        #: Of the whole slide, where kinds are of it.
        self._slide: FieldLayers | None = None
        bench.heard.connect(self._hear)
        bench.viewer.layers.events.removed.connect(self._on_removed)

    def say(self, text: str, severity: Severity = "info") -> None:
        """Put a line into the status."""
        self.bench.say(text, severity)

    @property
    def kept(self) -> EmbeddingField:
        """The field with the edits that were kept.

        Raises
        ------
        InputError
            If none is open.
        """
        if self.edited is None:
            raise InputError("no embeddings are open: draw a region and open its embeddings")
        return self.edited.field

    @property
    def painted(self) -> NDArray[np.int64]:
        """``(rows, columns)``: the kind, from 1, that lies on a cell; 0 for none."""
        _, layers, _ = self._parts()
        return layers.painted

    @property
    def current(self) -> EmbeddingField:
        """The kept field with what is painted on it."""
        return painted(self.kept, self.painted, self.kinds, self.amount)

    def ready(self) -> OpenedField:
        """The open field, if it can be edited now.

        Raises
        ------
        InputError
            If none is open, or another scene or model is chosen.
        """
        opened, _, _ = self._parts()
        if self.bench.source is not opened.source:
            raise InputError(f"the embeddings are those of {opened.scene.name}: choose that scene")
        if not fits(self.bench.session, opened.model_id):
            raise InputError(
                f"the embeddings are those of {opened.model_id}: choose that model, or open them "
                "again"
            )
        return opened

    @told
    def open(self, count: int = 8, whole: bool = False) -> None:
        """Queue the embeddings of the first chosen region, sorted into its own kinds or into those
        of the whole slide; asks before edits are given up.
        """
        edited = self.edited is not None and self.edited.before is not None
        if self.edited is not None and (edited or self.painted.any()):
            question = "Edits of the embeddings that are open can then not be taken back. Go on?"
            if not self.bench.confirm(question):
                raise InputError("the embeddings stay as they are")
        self.bench.open_field(count, whole)

    @told
    def choose(self, kind: int) -> None:
        """Give the user the brush with a kind of cell, counted from 0, and show what is of it."""
        brush = self._brush()
        brush.selected_label = kind + 1
        brush.mode = "paint"
        self.bench.viewer.layers.selection.active = brush
        self.say("Paint cells; the eraser takes paint off again.")
        self._point(kind_of(self._parts()[0], self.kinds[kind], kind))

    @told
    def draft(self) -> None:
        """Queue a quick look at what has changed, in place of those that are no longer right."""
        self.ready()
        how = self.bench.session.parameters
        self._show(replace(how, preset="draft", steps=None, guidance=None), draft=True)

    @told
    def keep(self) -> None:
        """Make what is painted part of the field, and queue it by the preset that is chosen."""
        self.ready()
        _, _, renders = self._parts()
        labels = self.painted
        if labels.any():
            self.edited = self._with_paint()
            self._clear()
            renders.forget(labels > 0)  # what has shown them was a draft
        elif not renders.stale(self.kept).any():
            raise InputError("nothing is painted: pick a kind of cell and paint on the image")
        self._show(self.bench.session.parameters)

    @told
    def undo(self) -> None:
        """Take paint off, or else the last kept edit back."""
        self.ready()
        if self.painted.any():
            self._clear()
        else:
            assert self.edited is not None
            self.edited = self.edited.undone()
        self._draw_map()
        self._show(self.bench.session.parameters)

    @told
    def point(self, row: int, column: int, whole: bool = False) -> None:
        """Show how like every cell is to one, and the real cells that are most like it.

        Parameters
        ----------
        whole
            Whether it is a cell of the slide's sample rather than of the region.
        """
        (opened, layers, _), field = self._parts(), self.current
        if whole:
            field = opened.sorted[0]
            if field.valid is not None and not field.valid[row, column]:
                raise InputError("this is background, or between the cells that were looked at")
        vector = field.vectors[row, column]
        heats = [(layers, similarity(self.current, vector))]
        if self._slide is not None and opened.whole is not None:  # below the region's
            heats.insert(0, (self._slide, heat_of(opened.whole, vector)))
        low = min(float(np.nanmin(heat)) for _, heat in heats)  # one colour is one cosine
        for shown, heat in heats:
            shown.show_heat(heat, low)
        self._point(cell_of(opened, row, column, vector, whole), row, column)

    @told
    def colour(self, method: Method, anew: bool = False) -> None:
        """Colour the map by another method; ``anew``: fitted to the field that is open, for good.

        Colours of an encoder are fitted once and kept between sessions.
        """
        field = self.kept
        found = None if anew else kept_colours(field.encoder, field.width, method)
        if found is None and method == "umap":
            need_umap()
            self.bench.submit(ColoursJob(field, method, anew))
        else:
            self._take_colours(found or colours_for(field, method, anew), method)

    @told
    def open_index(self, folder: str | Path) -> None:
        """Have a data set asked too, of which ``napari-ssldiff index`` has made an index."""
        index = Index.open(folder)
        index.check(self.kept.encoder)
        self.index = index
        self.index_changed.emit()
        gone = index.missing()
        moved = f"; moved or removed since: {', '.join(gone[:3])}" if gone else ""
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        self.say(
            f"{index.cells} cells of {len(index.images)} images can be pointed at{moved}{more}"
        )

    # What the tools do with the brush

    @property
    def brush_label(self) -> int:
        """The kind, from 1, that the brush paints."""
        return int(self._brush().selected_label)

    def put(self, kind: Kind, index: int | None = None) -> int:
        """Add a kind, or put it in the place of another; which one it is, from 0."""
        if index is None:
            self.kinds.append(kind)
            index = len(self.kinds) - 1
        else:
            self.kinds[index] = kind
        self.kinds_changed.emit()
        return index

    def lay(self, label: int, cells: NDArray[np.bool_], alone: bool = False) -> None:
        """Paint cells with a kind, counted from 1; ``alone``: and take it off all others."""
        _, layers, _ = self._parts()
        self._brush()
        labels = layers.painted.copy()
        if alone:
            labels[labels == label] = 0
        labels[cells] = label
        layers.cover(labels)
        self.stroke.emit()  # also where the labels are the same and their meaning is not

    def draw_path(self) -> None:
        """Give the user the tool that draws a path; :attr:`tools` hear of it."""
        self._parts()[1].draw_path()

    # Inside

    def _point(self, pointed: Pointed, row: int = -1, column: int = -1) -> None:
        self.pointed_at.emit(pointed)
        self._lookup.ask(*questions_of(self._parts()[0], pointed, self.index, row, column))

    def _parts(self) -> tuple[OpenedField, FieldLayers, Renders]:
        """What belongs to the field that is open."""
        self.kept  # noqa: B018  (says that none is)
        assert self.opened is not None
        assert self._layers is not None
        assert self._renders is not None
        return self.opened, self._layers, self._renders

    def _with_paint(self) -> EditedField:
        """The kept field and, where something is painted, one more edit."""
        field, labels = self.current, self.painted
        assert self.edited is not None
        if not labels.any():
            return self.edited
        op, facts = told_of(labels, self.kinds, self.amount)
        return self.edited.then(field, op, **facts)

    def _hear(self, message: Message) -> None:
        if isinstance(message, FieldOpened):
            self._take(message.opened)
        elif isinstance(message, KindFound):
            self.tools.take(message.kind, message.of)
        elif isinstance(message, PicturesRead):
            self.looked_up.emit(message)
        elif isinstance(message, NearFound):
            if self.opened is not None and self.index is not None:
                self.looked_up.emit(message.found)
        elif isinstance(message, ColoursFound):
            if self.opened is not None and self.opened.field.encoder == message.encoder:
                self._take_colours(message.palette, "umap")
        elif self._renders is not None and self._renders.hear(message):
            self.draft()  # makes up for what a dropped draft has painted after it was dropped

    def _take(self, opened: OpenedField) -> None:
        if opened.source not in self.bench.viewer.layers:
            return  # removed while its embeddings were made
        self._drop()
        if self.index is not None and self.index.encoder != opened.field.encoder:
            self.index = None
            self.index_changed.emit()
        self.opened, self.edited = opened, EditedField(opened.field, origin=opened.history)
        self._renders, self.kinds = Renders(self.bench, opened), list(opened.kinds)
        self._palette = kept_colours(opened.field.encoder, opened.field.width, self.method)
        if self._palette is None:  # never fitted, which by UMAP takes a while
            self.method = "pca"
            self._palette = colours_for(opened.field)
        if opened.whole is not None:
            self._slide = FieldLayers(
                self.bench.viewer, opened.source, f"{opened.scene.name} · whole slide",
                opened.whole.sampled.field, lambda row, column: self.point(row, column, True),
            )  # fmt: skip
        self._layers = FieldLayers(
            self.bench.viewer, opened.source, opened.scene.name, opened.field, self.point,
            self.stroke.emit, self.tools.lead,
        )  # fmt: skip
        self._draw_slide()
        self._draw_map()
        self._brush()
        self._layers.activate()
        self.opened_changed.emit()

    def _take_colours(self, palette: Palette, method: Method) -> None:
        self._palette, self.method = palette, method
        self._draw_slide()
        self._draw_map()
        self._brush()
        self.kinds_changed.emit()

    def _show(self, parameters: Parameters, draft: bool = False) -> None:
        _, _, renders = self._parts()
        if renders.show(self._with_paint(), parameters, draft):
            self._draw_map()

    def _draw_slide(self) -> None:
        if self._slide is not None and self.opened is not None and self.opened.whole is not None:
            whole = self.opened.whole
            self._slide.show_map(map_of(whole, self._colours(whole.sampled.field.vectors)))

    def _draw_map(self) -> None:
        if self._layers is not None:
            self._layers.show_map(self._colours(self.current.vectors))

    def _brush(self) -> Labels:
        _, layers, _ = self._parts()
        return layers.brush([self.colour_of(kind) for kind in self.kinds])

    def colour_of(self, kind: Kind) -> NDArray[np.uint8]:
        """``(3,)``: a kind's colour on the map."""
        return self._colours(kind.vector)

    def _colours(self, vectors: Vectors) -> NDArray[np.uint8]:
        assert self._palette is not None
        return self._palette(vectors)

    def _clear(self) -> None:
        if self._layers is not None:
            self._layers.clear()

    def _drop(self) -> None:
        if self._renders is not None:
            self._renders.stop()
        for layers in (self._layers, self._slide):
            if layers is not None:
                layers.remove()
        self.opened = self.edited = self._renders = self._palette = None
        self._layers = self._slide = None
        self.kinds = []

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        for layers in (self._layers, self._slide):
            if layers is not None:
                layers.removed(layer)
        if self.opened is not None and layer is self.opened.source:
            self._drop()
            self.opened_changed.emit()
        elif self._renders is not None and PAINTING_KEY in layer.metadata:
            self._renders.overlay_removed()

    def close(self) -> None:
        """Take the layers away and stop listening. Safe to call twice."""
        self._drop()
        self._lookup.close()
        with suppress(ValueError):
            self.bench.viewer.layers.events.removed.disconnect(self._on_removed)
        self.bench.heard.disconnect(self._hear, missing_ok=True)
