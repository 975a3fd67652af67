"""Patches of a field that an edit has touched, made one after another in one job."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.field import EmbeddingField
from napari_ssldiff.embeddings.outline import gathered
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.viewer.jobs import GenerateJob, Post, next_id
from napari_ssldiff.viewer.messages import JobProgress, Message, PatchDone
from napari_ssldiff.viewer.session import duration
from napari_ssldiff.viewer.worker import Engine, JobControl

#: Cells between two patches that are made as one: they share windows of the model, which is larger.
GAP = 2


def patches_of(
    made: EmbeddingField, touched: NDArray[np.bool_], inside: Box
) -> list[tuple[NDArray[np.bool_], Region]]:
    """The cells that an edit has touched and no others: patches of them, each with its region, as
    far as it lies in the scene; none of those that do not. What lies near is one patch.
    """
    origin, size = np.array([made.origin, made.cell])
    low, high = np.array([inside.y, inside.x]), np.array([inside.y1, inside.x1])
    found = []
    for cells, rings in gathered(touched, GAP):
        corners = [np.clip(np.round(origin + np.array(r) * size), low, high) for r in rings]
        corners = [ring for ring in corners if np.ptp(ring, axis=0).all()]
        if corners:
            found.append((cells, Region.from_rings(corners)))
    return found


@dataclass(frozen=True, eq=False)
class PatchesJob:
    """Several regions of one field, one after another.

    Parameters
    ----------
    parts
        What to make, in order. A :class:`PatchDone` follows each; all other messages carry the
        number of the whole.
    """

    parts: tuple[GenerateJob, ...]
    id: int = field(default_factory=next_id)

    def run(self, engine: Engine, control: JobControl, post: Post) -> str:
        """Make them."""
        begin, count, text = time.perf_counter(), len(self.parts), ""
        for i, part in enumerate(self.parts):
            text = replace(part, id=self.id).run(engine, control, _share(post, i, count))
            post(PatchDone(self.id))
        if count == 1:
            return text
        took = duration(time.perf_counter() - begin)
        return f"{count} patches synthesised in {took} (seed {self.parts[0].parameters.seed})"


def _share(post: Post, index: int, count: int) -> Callable[[Message], None]:
    """Progress of one of several, as that of all."""

    def tell(message: Message) -> None:
        if count > 1 and isinstance(message, JobProgress) and message.fraction is not None:
            message = replace(message, fraction=(index + message.fraction) / count)
        post(message)

    return tell
