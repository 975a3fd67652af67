"""Threads for runs: one of their own that ends with them, or one that is kept for the next."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

NAME = "napari-ssldiff-sampler"


def start(work: Callable[[], None], keep: bool = False) -> Callable[[], None]:
    """Run ``work`` on another thread; the result waits for its end.

    Parameters
    ----------
    work
        Must not raise.
    keep
        Take a thread that has ended its work before, and keep it afterwards. Torch holds the
        plans of cuDNN's convolutions and attention per thread: on a new one all are made again,
        which takes longer than many a draft.
    """
    if keep:
        return _kept.start(work)
    thread = threading.Thread(target=work, name=NAME, daemon=True)
    thread.start()
    return thread.join


class _Kept:
    """Threads that wait for work; as many as were ever needed at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue[tuple[Callable[[], None], threading.Event]]] = []

    def start(self, work: Callable[[], None]) -> Callable[[], None]:
        done = threading.Event()
        with self._lock:
            mine = self._idle.pop() if self._idle else None
        if mine is None:
            mine = queue.SimpleQueue()
            threading.Thread(target=self._serve, args=(mine,), name=NAME, daemon=True).start()
        mine.put((work, done))

        def wait() -> None:
            done.wait()

        return wait

    def _serve(self, mine: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]]) -> None:
        while True:
            work, done = mine.get()
            try:
                work()
            except BaseException:
                done.set()  # this thread ends, and nobody is given it again
                raise
            del work  # it holds the run's tensors
            with self._lock:
                self._idle.append(mine)
            done.set()


_kept = _Kept()
