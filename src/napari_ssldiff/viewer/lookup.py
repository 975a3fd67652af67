"""Asking an index of a data set, on a thread of its own: the last question counts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.field import Vectors
from napari_ssldiff.embeddings.index import Index, RealCell, pictures
from napari_ssldiff.errors import Cancelled, SSLDiffError
from napari_ssldiff.viewer.messages import Message, NearFound

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """What an index knows of a cell.

    Parameters
    ----------
    row, column
        Which.
    cells
        The real cells most like it, the nearest first.
    pictures
        Their pixels; ``None`` where an image has moved since it was indexed.
    problem
        What went wrong; ``""`` where nothing has.
    """

    row: int
    column: int
    cells: tuple[RealCell, ...] = ()
    pictures: tuple[NDArray[np.uint8] | None, ...] = ()
    problem: str = ""


class Lookup:
    """Questions to indices. The worker is not asked: it may be busy for minutes.

    Parameters
    ----------
    deliver
        Called on this thread with a :class:`NearFound`; must bring it to the main thread.
    edge
        Of the pictures, in pixels.
    """

    def __init__(self, deliver: Callable[[Message], None], edge: int) -> None:
        self._deliver, self._edge = deliver, edge
        self._condition = threading.Condition()
        self._question: tuple[Index, Vectors, int, int, int] | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def ask(self, index: Index, vector: Vectors, count: int, row: int, column: int) -> None:
        """Ask for the ``count`` cells nearest to a ``(d,)`` vector, that of a cell."""
        with self._condition:
            if self._closed:
                return
            self._question = index, vector, count, row, column
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._loop, name="napari-ssldiff-lookup", daemon=True
                )
                self._thread.start()
            self._condition.notify()

    def close(self) -> None:
        """End the thread; nothing is delivered any more. Safe to call twice."""
        with self._condition:
            self._closed, self._question = True, None
            self._condition.notify()
        if self._thread is not None:
            self._thread.join(5)

    def _check(self) -> None:
        if self._closed or self._question is not None:
            raise Cancelled("another cell was pointed at")

    def _loop(self) -> None:
        while True:
            with self._condition:
                while not (self._closed or self._question):
                    self._condition.wait()
                if self._closed:
                    return
                question, self._question = self._question, None
            assert question is not None
            try:
                answer = self._answer(*question)
                self._check()
            except Cancelled:
                continue
            self._deliver(NearFound(0, answer))

    def _answer(
        self, index: Index, vector: Vectors, count: int, row: int, column: int
    ) -> Elsewhere:
        try:
            (cells,) = index.nearest(vector, count, self._check)
            shown = pictures(index, cells, self._edge)
            return Elsewhere(row, column, tuple(cells), tuple(shown))
        except Cancelled:
            raise
        except Exception as error:  # an index is a stranger's file
            if not isinstance(error, SSLDiffError):
                logger.exception("asking %s failed", index.folder)
            return Elsewhere(row, column, problem=" ".join(str(error).split())[:200])
