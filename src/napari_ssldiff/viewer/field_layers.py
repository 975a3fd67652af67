"""The layers of a field in the viewer: a map in colours, a brush, a heat map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.viewer.layer_scene import FIELD_KEY
from napari_ssldiff.viewer.overlay import place_at

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer

    from napari_ssldiff.embeddings.field import EmbeddingField


class FieldLayers:
    """Layers over the cells of one field. The user may remove any of them at any time.

    Parameters
    ----------
    viewer, source, name
        Where they go, the scene's own layer, and what they are called after.
    field
        Whose cells; only its frame is used.
    pressed
        Told ``(row, column)`` of a cell of the map that was clicked.
    stroked
        Called after every stroke of the brush.
    traced
        Told the points ``(row, column)`` of a path that was drawn or changed; whole numbers are the
        middles of cells.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        source: Image,
        name: str,
        field: EmbeddingField,
        pressed: Callable[[int, int], object],
        stroked: Callable[[], object] = lambda: None,
        traced: Callable[[NDArray[np.float64]], object] = lambda points: None,
    ) -> None:
        self._viewer, self._name, self._shape = viewer, name, field.shape
        self._place = {
            **place_at(source, field.origin, field.cell),
            "metadata": {FIELD_KEY: field.encoder},
        }
        self._seen = np.zeros(field.shape, np.int64)
        self._pressed, self._stroked, self._traced = pressed, stroked, traced
        self._layers: dict[str, Layer] = {}

    def show_map(self, colours: NDArray[np.uint8]) -> None:
        """``(rows, columns, 3 or 4)``: the map, made anew where the user has removed it."""
        from napari.layers import Image

        if "map" in self._layers:
            self._layers["map"].data = colours
            return
        layer = Image(
            colours, rgb=True, name=f"{self._name} · embeddings", opacity=0.5,
            interpolation2d="nearest", **self._place,
        )  # fmt: skip
        layer.mouse_drag_callbacks.append(self._on_press)
        self._add("map", layer)

    def show_heat(self, values: NDArray[np.float32], low: float) -> None:
        """``(rows, columns)`` cosines, clear where they are not numbers; ``low`` is darkest."""
        from napari.layers import Image

        limits = (min(low, 0.99), 1.0)
        heat: Any = self._layers.get("heat")
        if heat is not None:
            heat.data, heat.contrast_limits = values, limits
            return
        layer = Image(
            values, name=f"{self._name} · similarity", colormap="inferno",
            contrast_limits=limits, opacity=0.6, interpolation2d="nearest", **self._place,
        )  # fmt: skip
        self._add("heat", layer)

    @property
    def painted(self) -> NDArray[np.int64]:
        """``(rows, columns)`` labels of the brush; zeros where it was removed."""
        brush = self._layers.get("brush")
        return np.zeros(self._shape, np.int64) if brush is None else np.asarray(brush.data, int)

    def brush(self, colours: Sequence[NDArray[np.uint8]]) -> Labels:
        """The brush, label ``i + 1`` in the ``i``-th colour; made where there is none."""
        from napari.layers import Labels
        from napari.utils.colormaps import DirectLabelColormap

        table: dict[int | None, Any] = {None: (0, 0, 0, 0), 0: (0, 0, 0, 0)}
        table |= {i + 1: (*(colour / 255), 1.0) for i, colour in enumerate(colours)}
        colormap, brush = DirectLabelColormap(color_dict=table), self._layers.get("brush")
        if isinstance(brush, Labels):
            brush.colormap = colormap
            return brush
        made = Labels(
            np.zeros(self._shape, np.uint8), name=f"{self._name} · brush", colormap=colormap,
            opacity=0.8, **self._place,
        )  # fmt: skip
        made.brush_size = 1
        # events.paint comes before the data changes. After it there is the first of these; after
        # napari's undo of a stroke only the second, which comes in other cases too.
        made.events.labels_update.connect(self._on_data)
        made.events.set_data.connect(self._on_data)
        self._add("brush", made)
        return made

    def _on_data(self, event: Any) -> None:
        if not np.array_equal(self._seen, self.painted):
            self._seen = self.painted.copy()
            self._stroked()

    def cover(self, labels: NDArray[np.int64]) -> None:
        """Lay ``(rows, columns)`` labels, as a stroke of the brush does."""
        brush = self._layers["brush"]
        brush.data = labels.astype(np.uint8)

    def draw_path(self) -> None:
        """Give the user the tool that draws a path from cell to cell; the last one goes."""
        from napari.layers import Shapes

        shapes = self._layers.get("path")
        if not isinstance(shapes, Shapes):
            shapes = Shapes(
                None, ndim=2, name=f"{self._name} · path", edge_width=0.15, edge_color="#ffb000",
                face_color="transparent", **self._place,
            )  # fmt: skip
            shapes.events.data.connect(self._on_path)
            self._add("path", shapes)
        shapes.data = []
        self._viewer.layers.selection.active = shapes
        shapes.mode = "add_path"

    def _on_path(self, event: Any) -> None:
        # The events before a change come with the shapes of before it.
        if str(getattr(event, "action", "changed")) in ("adding", "removing", "changing"):
            return
        shapes: Any = self._layers.get("path")
        points = np.asarray(shapes.data[-1], float) if shapes and len(shapes.data) else None
        # A path begins as one point.
        if points is not None and np.ptp(points, axis=0).any():
            self._traced(points)

    def activate(self) -> None:
        """Make the map the layer that takes clicks."""
        if "map" in self._layers:
            self._viewer.layers.selection.active = self._layers["map"]

    def clear(self) -> None:
        """Take all paint off."""
        self._seen = np.zeros(self._shape, np.int64)
        if "brush" in self._layers:
            self._layers["brush"].data = np.zeros(self._shape, np.uint8)
        if "path" in self._layers:
            self._layers["path"].data = []

    def removed(self, layer: Layer) -> None:
        """The user has removed a layer, maybe one of these."""
        self._layers = {name: mine for name, mine in self._layers.items() if mine is not layer}

    def remove(self) -> None:
        """Take them out of the viewer."""
        layers, self._layers = self._layers, {}
        for layer in layers.values():
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

    def _add(self, name: str, layer: Layer) -> None:
        self._layers[name] = layer
        active = self._viewer.layers.selection.active
        self._viewer.add_layer(layer)
        # napari selects what is new, which would take the tool out of the user's hand.
        if active is not None and active in self._viewer.layers:
            self._viewer.layers.selection.active = active

    def _on_press(self, layer: Image, event: Any) -> Iterator[None]:
        yield
        if event.type == "mouse_move":  # a drag, which pans
            return
        at = layer.world_to_data(event.position)
        row, column = (round(float(v)) for v in at[-2:])
        if 0 <= row < self._shape[0] and 0 <= column < self._shape[1]:
            self._pressed(row, column)
