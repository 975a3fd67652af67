"""The overlays of one viewer, by the scenes that they lie over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.viewer.overlay import OverlayController

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


class Overlays:
    """One controller per scene that was painted on. Main thread only."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._by_source: dict[Any, OverlayController] = {}

    def __iter__(self) -> Iterator[OverlayController]:
        return iter(self._by_source.values())

    def get(self, source: Image) -> OverlayController | None:
        """The overlay of a scene's layer, if it has one."""
        return self._by_source.get(source)

    def of(self, source: Image, scene: Scene) -> OverlayController:
        """The overlay of a scene; made where it has none.

        Raises
        ------
        OutputError
            If there is no room for its store.
        """
        found = self._by_source.get(source)
        if found is None or found.closed or found.scene is not scene:
            found = OverlayController(self._viewer, source, scene)
            self._by_source[source] = found
        return found

    def flush(self) -> None:
        """Notice where the user looks, and show what was painted since the last call."""
        for overlay in self:
            overlay.look()
            overlay.flush()

    def removed(self, layer: Any) -> list[OverlayController]:
        """Take in that a layer is gone; the overlays for which nothing has to be made any more."""
        useless = []
        for source, overlay in list(self._by_source.items()):
            if overlay.is_preview(layer):
                overlay.preview_removed()
            if layer is overlay.layer or layer is source:
                useless.append(overlay)
            if layer is overlay.layer:
                overlay.close()
                del self._by_source[source]
        return useless
