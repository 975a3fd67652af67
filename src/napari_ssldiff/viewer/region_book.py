"""The Shapes layer "Regions" of a scene, made in the scene's own place and unit."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from psygnal import Signal

from napari_ssldiff.errors import InputError
from napari_ssldiff.geometry import Region
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.viewer.overlay import place_of
from napari_ssldiff.viewer.regions import (
    describe,
    foreign_shapes,
    from_scene_pixels,
    region_of_shape,
    to_scene_pixels,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Shapes

#: Marks the layer as ours; the value is the scene's path.
REGIONS_KEY = "napari_ssldiff_regions"
#: The column of the layer's features that holds prompts.
PROMPT = "prompt"
_STYLE = {"edge_color": "#ffb000", "face_color": "transparent"}


@dataclass(frozen=True)
class Row:
    """One shape of the layer: a region, or what is wrong with it; and its own prompt."""

    index: int
    text: str
    region: Region | None
    prompt: str = ""


class RegionBook:
    """Regions of the chosen scene, in step with their Shapes layer. Main thread only."""

    changed = Signal()
    selection_changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._source: Image | None = None
        self._scene: Scene | None = None
        self.layer: Shapes | None = None

    def attach(self, source: Image | None, scene: Scene | None) -> None:
        """Turn to another scene; its layer is found again where there is one."""
        self._source, self._scene = source, scene
        self._watch(self._find())
        self.changed.emit()

    def ensure(self) -> Shapes:
        """The scene's layer, made where there is none yet.

        Raises
        ------
        InputError
            If no scene is chosen.
        """
        if self.layer is not None and self.layer in self._viewer.layers:
            return self.layer
        if self._source is None or self._scene is None:
            raise InputError("open an image first: regions are drawn on a scene")
        from napari.layers import Shapes

        step = max(1.0, max(self._scene.shape) / 400)  # in data units: visible on any scene
        layer = Shapes(
            None,
            ndim=2,
            name="Regions",
            edge_width=step,
            metadata={REGIONS_KEY: self._scene.path},
            **_STYLE,
            **place_of(self._source),
        )
        self._viewer.add_layer(layer)
        self._watch(layer)
        self.changed.emit()
        return layer

    def draw(self, kind: Literal["rectangle", "polygon"]) -> None:
        """Give the user the tool; the layer becomes the active one."""
        layer = self.ensure()
        self._viewer.layers.selection.active = layer
        layer.visible = True
        layer.mode = f"add_{kind}"

    def add(self, region: Region, kind: str = "polygon") -> None:
        """Add a region, in level-0 pixels, and select it."""
        layer = self.ensure()
        assert self._source is not None
        layer.add(from_scene_pixels(region.vertices, layer, self._source), shape_type=kind)
        layer.selected_data = {len(layer.data) - 1}

    def adopt(self, foreign: Shapes) -> int:
        """Copy the shapes of another layer, converted from its place and units.

        Returns
        -------
        How many; shapes that enclose nothing in the scene are left out.

        Raises
        ------
        InputError
            If its units do not compare, or none of its shapes can be a region.
        """
        layer = self.ensure()
        assert self._source is not None
        assert self._scene is not None
        shapes = foreign_shapes(foreign, self._source)
        count, said = 0, f"the layer {str(foreign.name)!r} holds no shapes"
        for points, kind in shapes:
            try:
                region = region_of_shape(points, kind, self._scene.box)
            except InputError as error:
                said = str(error)
                continue
            self.add(region, "rectangle" if region.is_box else "polygon")
            count += 1
        if not count:
            raise InputError(said)
        layer.selected_data = set(range(len(layer.data) - count, len(layer.data)))
        return count

    def rows(self) -> list[Row]:
        """One per shape, in the layer's order."""
        layer, source, scene = self.layer, self._source, self._scene
        if layer is None or source is None or scene is None:
            return []
        rows, prompts = [], self._prompts()
        for i, (data, kind) in enumerate(zip(layer.data, layer.shape_type, strict=True)):
            try:
                points = to_scene_pixels(data, layer, source)
                region = region_of_shape(points, str(kind), scene.box)
                rows.append(Row(i, describe(region, str(kind)), region, prompts[i]))
            except InputError as error:
                rows.append(Row(i, f"{str(kind).capitalize()} · {error}", None, prompts[i]))
        return rows

    def foreign(self) -> list[Shapes]:
        """Shapes layers of the viewer other than the scene's own."""
        from napari.layers import Shapes

        layers = self._viewer.layers
        return [x for x in layers if isinstance(x, Shapes) and x is not self.layer]

    def set_prompt(self, text: str) -> None:
        """Give the chosen shapes a prompt of their own; ``""`` takes it from them."""
        layer = self.layer
        if layer is None or not self.selected:
            return
        prompts = self._prompts()
        changed = [text if i in self.selected else old for i, old in enumerate(prompts)]
        if changed != prompts:
            layer.features = layer.features.assign(**{PROMPT: changed})
            layer.feature_defaults = {PROMPT: ""}  # napari would give new shapes the last one's
            self.changed.emit()

    def _prompts(self) -> list[str]:
        """Of every shape, from the layer's features, where they are saved and copied with it."""
        layer = self.layer
        if layer is None:
            return []
        if PROMPT not in layer.features:
            return [""] * len(layer.data)
        return [text if isinstance(text, str) else "" for text in layer.features[PROMPT]]

    @property
    def selected(self) -> set[int]:
        """Indices of the chosen shapes."""
        return set() if self.layer is None else {int(i) for i in self.layer.selected_data}

    def select(self, indices: Collection[int]) -> None:
        """Choose shapes, in the layer too."""
        if self.layer is not None and set(indices) != self.selected:
            self.layer.selected_data = {i for i in indices if i < len(self.layer.data)}

    def remove_selected(self) -> None:
        """Delete the chosen shapes."""
        if self.layer is not None and self.selected:
            self.layer.remove_selected()

    def chosen(self) -> list[Region]:
        """The regions to work on: the selected ones, or all where none is selected.

        Raises
        ------
        InputError
            If there is none, or a chosen one is of no use.
        """
        rows = self.rows()
        rows = [row for row in rows if row.index in self.selected] or rows
        if not rows:
            raise InputError(
                "there is no region yet: press Rectangle or Polygon and draw one on the image"
            )
        for row in rows:
            if row.region is None:
                raise InputError(f"region {row.index + 1} cannot be used: {row.text}")
        return [row.region for row in rows if row.region is not None]

    def layer_removed(self, layer: Any) -> None:
        """Tell the book that a layer has left the viewer."""
        if layer is self.layer:
            self._watch(None)
            self.changed.emit()

    def detach(self) -> None:
        """Stop listening."""
        self._watch(None)

    def _find(self) -> Shapes | None:
        if self._scene is None:
            return None
        for layer in self._viewer.layers:
            if layer.metadata.get(REGIONS_KEY) == self._scene.path:
                found: Shapes = layer
                return found
        return None

    def _watch(self, layer: Shapes | None) -> None:
        if layer is self.layer:
            return
        if self.layer is not None:
            self.layer.events.data.disconnect(self._on_data)
            self.layer.selected_data.events.items_changed.disconnect(self._on_selection)
        self.layer = layer
        if layer is not None:
            layer.events.data.connect(self._on_data)
            layer.selected_data.events.items_changed.connect(self._on_selection)

    def _on_data(self, event: Any) -> None:
        # The events before a change come with the shapes of before it.
        if str(getattr(event, "action", "changed")) not in ("adding", "removing", "changing"):
            self.changed.emit()

    def _on_selection(self) -> None:
        self.selection_changed.emit()
