"""Stopping work from another thread."""

from __future__ import annotations

import threading

from napari_ssldiff.errors import Cancelled


class CancelToken:
    """Set from any thread; the work looks at it before every network call."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise :class:`Cancelled` if asked to stop."""
        if self.cancelled:
            raise Cancelled("cancelled; finished tiles are kept")
