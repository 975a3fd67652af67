"""Stopping and holding work from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from napari_ssldiff.errors import Cancelled

#: Seconds between two looks at what else could end a pause.
_LOOK = 0.05


class CancelToken:
    """Set from any thread; the work looks at it before every network call."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._go = threading.Event()
        self._go.set()

    def cancel(self) -> None:
        """Ask the work to stop, held or not."""
        self._stop.set()
        self._go.set()

    def pause(self) -> None:
        """Hold the work, with all it has, before its next network call."""
        if not self.cancelled:
            self._go.clear()

    def resume(self) -> None:
        """Let it go on."""
        self._go.set()

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._stop.is_set()

    @property
    def paused(self) -> bool:
        """Whether the work is held."""
        return not self._go.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise :class:`Cancelled` if asked to stop."""
        if self.cancelled:
            raise Cancelled("cancelled; finished tiles are kept")

    def hold(self, abandoned: Callable[[], bool] = lambda: False) -> None:
        """Wait as long as the work is paused and not ``abandoned``; raise if asked to stop."""
        # A pause may come in between the two halves of a cancel, so that nothing sets it going.
        while not (self._go.wait(_LOOK) or abandoned() or self.cancelled):
            pass
        self.raise_if_cancelled()
