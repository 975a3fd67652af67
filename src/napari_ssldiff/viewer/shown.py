"""What an overlay shows of a field: which vector every cell was last made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.field import EmbeddingField, Vectors


@dataclass
class _Run:
    touched: NDArray[np.bool_]
    vectors: Vectors
    painted: bool = False
    dropped: bool = False


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
                expected[run.touched] = run.vectors[run.touched]
        return np.asarray((expected != field.vectors).any(-1))

    def forget(self, cells: NDArray[np.bool_]) -> None:
        """Have cells made again whatever they show."""
        self._vectors[cells] = np.nan  # which equals nothing

    def begin(self, job: int, touched: NDArray[np.bool_], field: EmbeddingField) -> None:
        """``job`` is going to make cells from a field."""
        self._runs[job] = _Run(touched, field.vectors)

    def drop(self, job: int) -> None:
        """``job`` was told to stop, and may paint a little more until it does."""
        run = self._runs.get(job)
        if run is not None:
            run.dropped = True
            if run.painted:
                self.forget(run.touched)

    def painted(self, job: int) -> None:
        """Some of a job's pixels are there."""
        if job in self._runs:
            self._runs[job].painted = True

    def done(self, job: int) -> bool:
        """All of them are; whether the job had been dropped, which was too late."""
        run = self._runs.pop(job, None)
        if run is None:
            return False
        self._vectors[run.touched] = run.vectors[run.touched]
        return run.dropped

    def stopped(self, job: int) -> bool:
        """No more of them will come: what was painted is neither old nor new. Whether something
        was painted by a job that had been dropped.
        """
        run = self._runs.pop(job, None)
        if run is None or not run.painted:
            return False
        self.forget(run.touched)
        return run.dropped

    def settle(self, cells: NDArray[np.bool_], field: EmbeddingField) -> None:
        """Cells outside the image show whatever is asked of them."""
        self._vectors[cells] = field.vectors[cells]
