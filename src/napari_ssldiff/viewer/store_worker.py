"""Work of the model store on a thread of its own; the window hears of it by signals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Qt, Signal

from napari_ssldiff.errors import Cancelled, SSLDiffError
from napari_ssldiff.viewer.native import load_triton_apart

if TYPE_CHECKING:
    from napari_ssldiff.models.store.work import Work

_EVERY = 0.1  # seconds between two words of progress


class _Post(QObject):
    """Carries what the thread says to the main one; held by both, so that neither loses it."""

    progress = Signal(str, float)
    question = Signal(str)
    ended = Signal(str, bool)


class StoreWorker(QObject):
    """One piece of work at a time.

    Signals: ``progress`` (stage, fraction), ``question`` (answer it by :meth:`answer`), ``ended``
    (what to say, whether it went well).
    """

    progress = Signal(str, float)
    question = Signal(str)
    ended = Signal(str, bool)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thread: threading.Thread | None = None
        self._cancel = threading.Event()
        self._answered = threading.Event()
        self._answer = False
        # A thread that waits for an answer must not outlive the window that would give it.
        self.destroyed.connect(partial(_stop, self._cancel, self._answered))

    @property
    def busy(self) -> bool:
        """Whether something goes on."""
        return self._thread is not None

    def start(self, act: Callable[[Work], str]) -> None:
        """Begin; ``act`` is given whom to tell, and returns what to say at the end."""
        if self.busy:
            return
        self._cancel.clear()
        post, queued = _Post(), Qt.ConnectionType.QueuedConnection
        post.progress.connect(self.progress, queued)
        post.question.connect(self.question, queued)
        post.ended.connect(self._on_ended, queued)
        self._post = post
        self._thread = threading.Thread(
            target=self._run, args=(act, post), name="napari-ssldiff-store", daemon=True
        )
        self._thread.start()

    def cancel(self) -> None:
        """Stop at the next chance."""
        _stop(self._cancel, self._answered)

    def answer(self, yes: bool) -> None:
        """Answer the question that was asked."""
        self._answer = yes
        self._answered.set()

    def _on_ended(self, text: str, well: bool) -> None:
        self._thread = None
        self.ended.emit(text, well)

    def _run(self, act: Callable[[Work], str], post: _Post) -> None:
        from napari_ssldiff.models.store.work import Work

        told = [0.0]

        def progress(stage: str, done: float, total: float) -> None:
            now = time.monotonic()
            if now - told[0] > _EVERY or done >= total:
                told[0] = now
                post.progress.emit(stage, done / max(total, 1))

        def check() -> None:
            if self._cancel.is_set():
                raise Cancelled("by you")

        def ask(question: str) -> bool:
            self._answered.clear()
            self._answer = False
            post.question.emit(question)
            self._answered.wait()
            check()
            return self._answer

        try:
            load_triton_apart()
            text, well = act(Work(progress, check, ask)), True
        except Cancelled:
            text, well = "Cancelled; nothing was changed.", True
        except SSLDiffError as error:
            text, well = str(error), False
        except Exception as error:  # told, instead of a dialog that waits for ever
            text, well = f"{type(error).__name__}: {error}", False
        with suppress(RuntimeError):  # the window is gone
            post.ended.emit(text, well)


def _stop(cancel: threading.Event, answered: threading.Event, *_: object) -> None:
    cancel.set()
    answered.set()
