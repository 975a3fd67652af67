"""More to paint than the kinds a field holds: words, another region, a way, a direction."""

from __future__ import annotations

from dataclasses import replace
from math import radians
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings import edit
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.viewer.field_job import OpenedField
from napari_ssldiff.viewer.kind_jobs import RegionJob, WordsJob
from napari_ssldiff.viewer.kinds import Kind, Way, named
from napari_ssldiff.viewer.session import Severity
from napari_ssldiff.viewer.told import told
from napari_ssldiff.viewer.wording import prompt_of

if TYPE_CHECKING:
    from napari_ssldiff.synthesis.imagine import Prompt
    from napari_ssldiff.viewer.workbench import Workbench

#: Cells a side of what words are made into, before their mean is taken.
PATCH = 4


class Easel(Protocol):
    """What the tools need of a :class:`~napari_ssldiff.viewer.field_editor.FieldEditor`."""

    bench: Workbench
    opened: OpenedField | None
    kinds: list[Kind]

    @property
    def kept(self) -> EmbeddingField: ...
    @property
    def painted(self) -> NDArray[np.int64]: ...
    @property
    def brush_label(self) -> int: ...
    def ready(self) -> OpenedField: ...
    def choose(self, kind: int) -> bool: ...
    def put(self, kind: Kind, index: int | None = None) -> int: ...
    def lay(self, label: int, cells: NDArray[np.bool_], alone: bool = False) -> None: ...
    def draw_path(self) -> None: ...


class FieldTools:
    """Makes kinds for an editor and lays them. Main thread only."""

    def __init__(self, editor: Easel) -> None:
        self._editor, self._bench = editor, editor.bench
        #: Kinds, from 0, between which a path leads; ``None``: those under its ends.
        self.start: int | None = None
        self.end: int | None = None
        #: Of a path, in cells.
        self.width, self.soft = 1.0, 1.0
        self._points: NDArray[np.float64] | None = None

    def say(self, text: str, severity: Severity = "info") -> None:
        """Put a line into the status."""
        self._bench.say(text, severity)

    @told
    def describe(self) -> None:
        """Queue a kind of cell that is as the session's prompt asks for."""
        self._editor.ready()
        self._bench.submit(self._words(prompt_of(self._bench.session)))

    @told
    def move(self, towards: str, away: str, degrees: float) -> None:
        """Queue a move of cells from one description towards another; what is painted moves, or
        else all of the region.
        """
        there = self._prompt(towards, "describe what cells shall move towards")
        back = self._prompt(away, "describe what cells shall move away from")
        self._bench.submit(replace(self._words(there), away=back, angle=radians(degrees)))

    @told
    def mix(self) -> None:
        """Queue the chosen region to be mixed in: where something is painted, or else all over.

        The one that is open may be among those chosen.
        """
        opened, book = self._editor.ready(), self._bench.regions
        rows = [row for row in book.rows() if row.region is not None]
        rows = [row for row in rows if row.index in book.selected] or rows
        other = next((row for row in rows if row.region != opened.region), None)
        if other is None or other.region is None:
            raise InputError("draw a second region and choose it: it is mixed into the one open")
        self._bench.submit(
            RegionJob(
                opened.scene, other.region, other.index + 1, opened.model_id,
                self._bench.session.device, opened.field,
            )
        )  # fmt: skip

    @told
    def fill(self) -> None:
        """Lay the kind that the brush has on all of the region."""
        self._editor.ready()
        self._editor.lay(self._editor.brush_label, self._inside())

    @told
    def draw_path(self) -> None:
        """Give the user the tool that draws a path."""
        self._editor.ready()
        self._points = None
        self._editor.draw_path()
        self.say("Click along the way, from cell to cell; a double click ends it.")

    @told
    def lead(self, points: NDArray[np.float64]) -> None:
        """Cells along a path, from the meaning where it starts to that where it ends.

        Parameters
        ----------
        points
            ``(n, 2)``: ``(row, column)``, whole numbers being the middles of cells. Both ends are
            taken to the middle of their cell, which then has that meaning exactly.
        """
        editor = self._editor
        opened, kept = editor.ready(), editor.kept
        line = np.array(points, float)
        limit = np.array(kept.shape) - 1
        line[[0, -1]] = np.clip(np.round(line[[0, -1]]), 0, limit)
        ends = [
            self._kind_at(line[i], opened) if chosen is None else editor.kinds[chosen]
            for i, chosen in ((0, self.start), (-1, self.end))
        ]
        goal, weights = edit.way(kept, ends[0].vector, ends[1].vector, line, self.width, self.soft)
        facts = {
            "from": ends[0].name, "to": ends[1].name, "path": line.round(3).tolist(),
            "width": self.width, "soft": self.soft,
        }  # fmt: skip
        mean = edit.average(goal, weights)
        self._points = np.array(points, float)
        here = next((i for i, k in enumerate(editor.kinds) if isinstance(k.goal, Way)), None)
        name = named("path", editor.kinds) if here is None else editor.kinds[here].name
        kind = Kind(
            mean, name, kept.encoder, goal=Way(goal.vectors, weights), op="interpolate",
            facts=facts,
        )  # fmt: skip
        editor.lay(editor.put(kind, here) + 1, weights > 0, alone=True)
        self.say(f"From {ends[0].name} to {ends[1].name}.")

    def again(self) -> None:
        """Lay the path anew, after its width or its ends were changed."""
        if self._points is not None and self._editor.painted.any():
            self.lead(self._points)

    def take(self, kind: Kind, of: str = "") -> None:
        """A kind that the worker has made: to be painted, or laid at once where it has a goal.

        Parameters
        ----------
        of
            Digest of the opened field that it was made for; ``""``: it is one of every field.
        """
        editor = self._editor
        if editor.opened is None or kind.encoder != editor.opened.field.encoder:
            return  # another field was opened meanwhile
        if of and of != editor.opened.field.digest:
            # Of another shape perhaps, and nobody asked for it here.
            return self.say(f"{kind.name} is not mixed in: other embeddings were opened meanwhile")
        index = editor.put(replace(kind, name=named(kind.name, editor.kinds)))
        editor.choose(index)
        if kind.goal is not None:
            painted = editor.painted > 0
            editor.lay(index + 1, painted if painted.any() else self._inside())

    def _prompt(self, text: str, wish: str) -> Prompt:
        self._editor.ready()
        if not text.strip():
            raise InputError(f"the prompt is empty: {wish}")
        return replace(prompt_of(self._bench.session, text), negative="")

    def _words(self, prompt: Prompt) -> WordsJob:
        opened, session = self._editor.ready(), self._bench.session
        # A patch of cells: the prior makes neighbours that agree.
        box = opened.region.bounds
        side = [round(PATCH * c) for c in opened.field.cell]
        patch = Region.from_box(Box(box.y, box.x, *side).intersect(opened.scene.box))
        return WordsJob(
            opened.scene, patch, opened.model_id, session.device, session.parameters, prompt
        )

    def _inside(self) -> NDArray[np.bool_]:
        """``(rows, columns)``: cells whose middle lies in the region that was opened."""
        opened = self._editor.ready()
        field = opened.field
        corners = (np.array(opened.region.vertices) - field.origin) / field.cell
        inside = Region.from_vertices(corners * 16).mask(Box(0, 0, *field.shape), (1 / 16,) * 2)
        return inside if inside.any() else np.ones(field.shape, bool)

    def _kind_at(self, point: NDArray[np.float64], opened: OpenedField) -> Kind:
        """The kind, of those that the field consists of, that a cell is most like."""
        row, column = (int(v) for v in point)
        cosines = opened.found.vectors @ self._editor.kept.vectors[row, column]
        return self._editor.kinds[int(cosines.argmax())]
