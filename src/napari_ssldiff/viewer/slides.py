"""The endless slides of a viewer, and the worker that makes their tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_ssldiff.viewer.endless import EndlessView, slide_of
from napari_ssldiff.viewer.messages import ChoreFailed, TileMade
from napari_ssldiff.viewer.session import Session
from napari_ssldiff.viewer.worker import Worker

if TYPE_CHECKING:
    from napari.components import ViewerModel


class Slides:
    """In step with the viewer's layers. Main thread only."""

    def __init__(self, viewer: ViewerModel, session: Session, worker: Worker) -> None:
        self._viewer, self._session, self._worker = viewer, session, worker
        self.views: dict[Any, EndlessView] = {}

    def serve(self) -> None:
        """Have the worker make the tiles of the slides that are in the viewer, and no others."""
        shown = {layer: slide for layer in self._viewer.layers if (slide := slide_of(layer))}
        self.views = {
            layer: self.views.get(layer) or EndlessView(layer, slide)
            for layer, slide in shown.items()
        }
        for slide in shown.values():
            slide.paused = self._session.slides_paused
            slide.lazy.on_wanted = self._worker.wake
        self._worker.serve(dict.fromkeys(shown.values()))
        self._session.slides = len(self.views)

    def pause(self, paused: bool) -> None:
        """Make no tiles for now, or go on."""
        self._session.slides_paused = paused
        for view in self.views.values():
            view.slide.paused = paused
        self._worker.wake()

    def flush(self) -> None:
        """Show what was made, and count what is missing."""
        for view in self.views.values():
            view.flush()
        self._session.missing = sum(view.slide.lazy.waiting for view in self.views.values())

    def made(self, message: TileMade) -> None:
        """A tile is there."""
        for view in self.views.values():
            if view.slide.id == message.chore:
                view.made(message.box)

    def failed(self, message: ChoreFailed) -> str:
        """A slide broke: nothing is asked for any more; what to tell the user."""
        text = message.text
        for view in self.views.values():
            if view.slide.id == message.chore:
                view.slide.lazy.forget()
                text = f"{view.layer.name}: {message.text}"
        return text
