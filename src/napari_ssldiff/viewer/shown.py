"""What an overlay shows of a field: which vector every cell was last made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.field import EmbeddingField, Vectors


@dataclass
class _Run:
    """Patches that a job still has to make, the first of them under way."""

    patches: list[NDArray[np.bool_]]
    vectors: Vectors
    painted: bool = False
    dropped: bool = False
    late: bool = False


class Shown:
    """Vectors behind an overlay's pixels, and behind those that are on their way.

    Parameters
    ----------
    field
        What is shown before anything was made: the image itself.
    """

    def __init__(self, field: EmbeddingField) -> None:
        self._vectors = field.vectors.copy()
        self._runs: dict[int, _Run] = {}

    def stale(self, field: EmbeddingField) -> NDArray[np.bool_]:
        """``(rows, columns)``: cells that will not show ``field`` when all runs have ended."""
        expected = self._vectors.copy()
        for run in self._runs.values():
            if not run.dropped:
                for cells in run.patches:
                    expected[cells] = run.vectors[cells]
        return np.asarray((expected != field.vectors).any(-1))

    def outdated(self, job: int, field: EmbeddingField) -> bool:
        """Whether something that ``job`` still has to make is no longer what ``field`` says."""
        run = self._runs.get(job)
        return run is not None and any(
            (run.vectors[cells] != field.vectors[cells]).any() for cells in run.patches
        )

    def forget(self, cells: NDArray[np.bool_]) -> None:
        """Have cells made again whatever they show."""
        self._vectors[cells] = np.nan  # which equals nothing

    def begin(self, job: int, patches: Sequence[NDArray[np.bool_]], field: EmbeddingField) -> None:
        """``job`` is going to make patches of cells from a field, in this order."""
        self._runs[job] = _Run(list(patches), field.vectors)

    def drop(self, job: int) -> None:
        """``job`` was told to stop, and may paint a little more until it does."""
        run = self._runs.get(job)
        if run is not None:
            run.dropped = True
            if run.painted and run.patches:
                self.forget(run.patches[0])

    def painted(self, job: int) -> None:
        """Some of the pixels of a job's patch are there."""
        if job in self._runs:
            self._runs[job].painted = True

    def patch_done(self, job: int) -> None:
        """All of the patch's are; the next one begins."""
        run = self._runs.get(job)
        if run is not None and run.patches:
            cells = run.patches.pop(0)
            self._vectors[cells] = run.vectors[cells]
            run.painted, run.late = False, run.late or run.dropped

    def ended(self, job: int) -> bool:
        """No more will come. What was painted of a patch that is not whole is neither old nor new.

        Returns
        -------
        Whether something was painted by a job that had been dropped.
        """
        run = self._runs.pop(job, None)
        if run is None:
            return False
        if run.painted and run.patches:
            self.forget(run.patches[0])
            run.late = run.late or run.dropped
        return run.late

    def settle(self, cells: NDArray[np.bool_], field: EmbeddingField) -> None:
        """Cells outside the image show whatever is asked of them."""
        self._vectors[cells] = field.vectors[cells]
