"""An overlay kept in step with a field: what has changed is synthesised, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.edited import EditedField
from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.errors import InputError
from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.viewer.field_job import OpenedField
from napari_ssldiff.viewer.messages import (
    JobCancelled,
    JobDone,
    JobFailed,
    JobPainted,
    Message,
    PatchDone,
)
from napari_ssldiff.viewer.patches import patches_of
from napari_ssldiff.viewer.session import Parameters
from napari_ssldiff.viewer.shown import Shown

if TYPE_CHECKING:
    from napari_ssldiff.viewer.workbench import Workbench


@dataclass(frozen=True)
class _Content:
    field: EmbeddingField
    history: tuple[str, ...]


class Renders:
    """The synthesis of one field's edits. Main thread only.

    Parameters
    ----------
    bench
        Queues the jobs.
    opened
        The field as it was opened: what the image itself shows.
    """

    def __init__(self, bench: Workbench, opened: OpenedField) -> None:
        self._bench, self._opened = bench, opened
        self._shown = Shown(opened.field)
        self._drafts: set[int] = set()

    def overlay_removed(self) -> None:
        """With the overlay went what it showed."""
        self._shown = Shown(self._opened.field)

    def stale(self, field: EmbeddingField) -> NDArray[np.bool_]:
        """``(rows, columns)``: cells that do not show a field and are not on their way to."""
        return self._shown.stale(field)

    def forget(self, cells: NDArray[np.bool_]) -> None:
        """Have cells made again whatever they show."""
        self._shown.forget(cells)

    def show(self, edited: EditedField, parameters: Parameters, draft: bool = False) -> bool:
        """Queue what does not show the field yet, as one job; whether there was anything.

        A draft takes the place of those before it that are no longer right; anything else of all.

        Raises
        ------
        InputError
            If nothing of it lies in the image.
        """
        field, shown = edited.field, self._shown
        self.stop(lambda job: not draft or shown.outdated(job, field))
        touched = shown.stale(field)
        if not touched.any():
            return False
        patches = patches_of(field, touched, self._opened.scene.box)
        inside = np.zeros(field.shape, bool)
        for cells, _ in patches:
            inside |= cells
        shown.settle(touched & ~inside, field)
        if not patches:
            raise InputError("the cells that were painted lie outside the image")
        edges = replace(parameters.edges, grow=Length(0))
        if not edges.context.value and not edges.match.value:
            # What lies around stays as it is, so that an edit grows into it.
            edges = replace(edges, context=Length(cell_of(self._opened)))
        how = replace(parameters, edges=edges, over=True, strength=1.0)
        content = _Content(field, edited.history)
        regions = [region for _, region in patches]
        job = self._bench.render(regions, content, how, self._opened.model_id)
        shown.begin(job, [cells for cells, _ in patches], field)
        if draft:
            self._drafts.add(job)
        return True

    def hear(self, message: Message) -> bool:
        """Take in what the worker says; whether something was painted that must be mended."""
        if isinstance(message, JobPainted):
            self._shown.painted(message.job)
        elif isinstance(message, PatchDone):
            self._shown.patch_done(message.job)
        elif isinstance(message, JobDone | JobCancelled | JobFailed):
            self._drafts.discard(message.job)
            return self._shown.ended(message.job)
        return False

    def stop(self, which: Callable[[int], bool] = lambda job: True) -> None:
        """Drop drafts; what of them is painted already counts as neither old nor new."""
        dropped = {job for job in self._drafts if which(job)}
        if dropped:
            self._bench.worker.cancel(lambda job: job.id in dropped)
        for job in dropped:
            self._shown.drop(job)
        self._drafts -= dropped


def cell_of(opened: OpenedField) -> float:
    """Edge of a cell in pixels of the model."""
    field, size = opened.field, opened.scene.encoder_pixel_size
    if size.unit == "pixel":  # such a scene is taken to be at the model's resolution
        return float(round(field.cell[0]))
    return float(round(field.cell[0] * size.y / field.resolution))
