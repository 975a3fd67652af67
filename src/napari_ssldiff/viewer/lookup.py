"""Reading what is like a cell, on a thread of its own: the last question counts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.embeddings.field import Vectors
from napari_ssldiff.embeddings.index import Index, RealCell, pictures
from napari_ssldiff.errors import Cancelled, SSLDiffError
from napari_ssldiff.viewer.field_job import PICTURE, OpenedField
from napari_ssldiff.viewer.messages import Message, NearFound, PicturesRead
from napari_ssldiff.viewer.pointing import NEIGHBOURS, Pointed
from napari_ssldiff.viewer.told import line_of

logger = logging.getLogger(__name__)

#: Raises :class:`Cancelled` where the answer is not wanted any more.
Check = Callable[[], None]
#: Its answers, one after the other; it calls the check often.
Question = Callable[[Check], Iterator[Message]]


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
    """Questions to slides and indices. The worker is not asked: it may be busy for minutes.

    Parameters
    ----------
    deliver
        Called on this thread with every answer; must bring it to the main thread.
    """

    def __init__(self, deliver: Callable[[Message], None]) -> None:
        self._deliver = deliver
        self._condition = threading.Condition()
        self._questions: Sequence[Question] = ()
        self._closed = False
        self._thread: threading.Thread | None = None

    def ask(self, *questions: Question) -> None:
        """Ask one question after the other; those of before are dropped."""
        with self._condition:
            if self._closed:
                return
            self._questions = questions
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._loop, name="napari-ssldiff-lookup", daemon=True
                )
                self._thread.start()
            self._condition.notify()

    def close(self) -> None:
        """End the thread; nothing is delivered any more. Safe to call twice."""
        with self._condition:
            self._closed, self._questions = True, ()
            self._condition.notify()
        if self._thread is not None:
            self._thread.join(5)

    def _check(self) -> None:
        if self._closed or self._questions:
            raise Cancelled("another cell was pointed at")

    def _loop(self) -> None:
        while True:
            with self._condition:
                while not (self._closed or self._questions):
                    self._condition.wait()
                if self._closed:
                    return
                questions, self._questions = self._questions, ()
            try:
                for question in questions:
                    for answer in question(self._check):
                        self._check()
                        self._deliver(answer)
            except Cancelled:
                continue


def questions_of(
    opened: OpenedField, pointed: Pointed, index: Index | None, row: int, column: int
) -> Iterator[Question]:
    """What is asked when a cell, or a kind, is pointed at."""
    yield pictures_here(opened, pointed)
    if index is not None:
        yield cells_elsewhere(index, pointed.vector, NEIGHBOURS, row, column, PICTURE)


def pictures_here(opened: OpenedField, pointed: Pointed) -> Question:
    """The pixels of the real cells most like what was pointed at, from their slide."""

    def answer(check: Check) -> Iterator[Message]:
        made = list[NDArray[np.uint8]]()
        try:
            for near in pointed.near:
                check()
                made.append(opened.picture(near.row, near.column))
        except Cancelled:
            raise
        except Exception as error:  # a slide may be gone by now
            _log(error, opened.scene.path)
            yield PicturesRead(0, pointed, tuple(made), line_of(error))
        else:
            yield PicturesRead(0, pointed, tuple(made))

    return answer


def cells_elsewhere(
    index: Index, vector: Vectors, count: int, row: int, column: int, edge: int
) -> Question:
    """The ``count`` cells of a data set nearest to a ``(d,)`` vector, that of a cell.

    ``edge``: of their pictures, in pixels.
    """

    def answer(check: Check) -> Iterator[Message]:
        try:
            (cells,) = index.nearest(vector, count, check)
            shown = pictures(index, cells, edge)
            found = Elsewhere(row, column, tuple(cells), tuple(shown))
        except Cancelled:
            raise
        except Exception as error:  # an index is a stranger's file
            _log(error, str(index.folder))
            found = Elsewhere(row, column, problem=line_of(error))
        yield NearFound(0, found)

    return answer


def _log(error: Exception, asked: str) -> None:
    if not isinstance(error, SSLDiffError):
        logger.error("asking %s failed", asked, exc_info=error)
