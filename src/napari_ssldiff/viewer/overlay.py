"""The live overlay: one multiscale RGBA layer per scene, and a small preview below it.

napari has no partial update of images: a refresh reads and uploads the whole loaded view. So
refreshes are gathered (:meth:`OverlayController.flush` is called at most ten times a second) and
left out for tiles that are not in the loaded view. The coarsest level is a numpy array, because
napari keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.export.overlay_store import OverlayStore
from napari_ssldiff.export.provenance import NAMESPACE, SYNTHETIC_NOTE
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.viewer.regions import Points
from napari_ssldiff.viewer.view import in_view, view_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

#: Key of a layer's metadata that holds its :class:`Painting`.
PAINTING_KEY = "napari_ssldiff_painting"


@dataclass
class Painting:
    """What lies behind an overlay layer; it lives as long as the layer, not as the dock widget.

    ``runs`` is the provenance of every run that has painted, oldest first.
    """

    store: OverlayStore
    runs: list[dict[str, Any]] = field(default_factory=list)


class OverlayController:
    """Paints one scene's synthetic pixels. All but :meth:`paint` belongs to the main thread.

    Parameters
    ----------
    viewer
        Where the layers go.
    source
        The scene's own layer; the overlay takes its place in the world.
    scene
        The scene.

    Raises
    ------
    OutputError
        If the store cannot be made (no room for temporary files).
    """

    def __init__(self, viewer: ViewerModel, source: Image, scene: Scene) -> None:
        self.viewer, self.source, self.scene = viewer, source, scene
        self.closed = False
        self._dirty: list[Box] = []
        self._preview: Image | None = None
        self._pending: tuple[Box, NDArray[np.uint8], Region] | None = None
        self._runs: dict[int, dict[str, Any]] = {}
        #: The middle of what the window shows, in level-0 pixels; read by the worker.
        self.focus: tuple[float, float] | None = None
        found = _existing(viewer, scene)
        if found is not None:
            self.layer: Image = found
            self._painting: Painting = found.metadata[PAINTING_KEY]
        else:
            self._painting = Painting(OverlayStore(scene.box))
            self.layer = self._make_layer()

    @property
    def store(self) -> OverlayStore:
        """The pixels."""
        return self._painting.store

    def paint(self, box: Box, rgba: NDArray[np.uint8]) -> Box:
        """Finished pixels into the store, from any thread; what changed (nothing once closed)."""
        try:
            return self.store.paint(box, rgba)
        except ValueError:
            if self.closed:  # the user removed the layer while the tile was on its way
                return Box(0, 0, 0, 0)
            raise

    def start_run(self, job: int, provenance: Mapping[str, Any]) -> None:
        """What the pixels of ``job`` carry from now on."""
        self._runs[job] = dict(provenance)

    def painted(self, job: int, box: Box) -> None:
        """Pixels of ``job`` have changed; shown by the next :meth:`flush`."""
        self._dirty.append(box)
        run = self._runs.get(job)
        if run is not None and not any(run is known for known in self._painting.runs):
            self._painting.runs = [*_lasting(self._painting.runs, run), run]
            self._stamp()

    def preview(self, box: Box, pixels: NDArray[np.uint8], region: Region) -> None:
        """The sampler's view of a region, shown by the next :meth:`flush`; the last one counts."""
        self._pending = (box, pixels, region)

    def look(self) -> None:
        """Notice where the user looks."""
        shown = None if self.closed else view_of(self.layer)
        self.focus = None if shown is None else shown.centre

    def flush(self) -> bool:
        """Show what has changed; call this at most ten times a second.

        Returns
        -------
        Whether the overlay was drawn again.
        """
        if self.closed:
            return False
        if self._pending is not None:
            self._show_preview(*self._pending)
            self._pending = None
        dirty, self._dirty = self._dirty, []
        if not any(in_view(self.layer, box) for box in dirty):
            return False
        self.layer.refresh(thumbnail=False, extent=False, highlight=False)
        return True

    def settle(self, job: int) -> None:
        """``job`` has ended: the preview goes, the thumbnail follows."""
        self._runs.pop(job, None)
        self._pending = None
        self._drop_preview()
        if not self.closed:
            self._dirty.clear()
            self.layer.refresh(extent=False, highlight=False)

    @property
    def provenance(self) -> dict[str, Any]:
        """Of all pixels painted so far: the last run, and those before under ``earlier_runs``."""
        *earlier, last = self._painting.runs or [{}]
        return {
            "note": SYNTHETIC_NOTE,
            **last,
            "synthetic": True,
            "overlay_of": self.scene.path,
            "background": list(self.scene.background),
            "earlier_runs": earlier,
        }

    @property
    def painted_in(self) -> list[tuple[Region, Length]]:
        """Where was painted, and how long the model's pixels were; the oldest first."""
        found = []
        for run in self._painting.runs:
            request = run.get("request", {})
            if "region" in request and "field" in request:
                made = request["field"]
                where = Region.from_vertices(request["region"])
                found.append((where, Length(float(made["resolution"]), str(made["unit"]))))
        return found

    @property
    def empty(self) -> bool:
        """Whether nothing was ever painted."""
        return not self.store.touched(self.scene.box)

    def close(self) -> None:
        """The overlay's layer is gone: free its store."""
        self.closed = True
        self._drop_preview()
        self.store.close()

    def is_preview(self, layer: Any) -> bool:
        """Whether ``layer`` is this controller's preview."""
        return layer is not None and layer is self._preview

    def preview_removed(self) -> None:
        """The user removed the preview; the next one makes a new layer."""
        self._preview = None

    def _make_layer(self) -> Image:
        from napari.layers import Image

        levels = self.store.levels
        layer = Image(
            levels if len(levels) > 1 else levels[0],
            multiscale=len(levels) > 1,
            rgb=True,
            cache=False,
            name=f"{self.scene.name} · synthetic",
            metadata={PAINTING_KEY: self._painting, NAMESPACE: self.provenance},
            **place_of(self.source),
        )
        _insert(self.viewer, layer, self.source)
        return layer

    def _stamp(self) -> None:
        # A new mapping: metadata is what napari hands to writers, at any moment.
        self.layer.metadata = {**self.layer.metadata, NAMESPACE: self.provenance}

    def _show_preview(self, box: Box, pixels: NDArray[np.uint8], region: Region) -> None:
        from napari.layers import Image

        h, w = pixels.shape[:2]
        factors = (box.h / h, box.w / w)
        local = Region.from_vertices(np.asarray(region.vertices) - (box.y, box.x))
        inside = local.mask(Box(0, 0, h, w), (1 / factors[0], 1 / factors[1]))
        rgba = np.dstack([pixels, np.where(inside, 255, 0).astype(np.uint8)])
        place = place_at(self.source, (box.y, box.x), factors)
        if self._preview is not None and self._preview in self.viewer.layers:
            # A canvas in bands has previews that grow: a new layer for each would stop the window.
            self._preview.data = rgba
            self._preview.scale, self._preview.translate = place["scale"], place["translate"]
            return
        self._preview = Image(
            rgba,
            rgb=True,
            name=f"{self.scene.name} · preview",
            interpolation2d="linear",
            metadata={
                NAMESPACE: {
                    "synthetic": True,
                    "note": SYNTHETIC_NOTE,
                    "overlay_of": self.scene.path,
                }
            },
            **place,
        )
        _insert(self.viewer, self._preview, self.source)

    def _drop_preview(self) -> None:
        layer, self._preview = self._preview, None
        if layer is not None and layer in self.viewer.layers:
            self.viewer.layers.remove(layer)


def _lasting(runs: list[dict[str, Any]], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Runs that a new one leaves standing: an edit's drafts are many, and of none is anything left
    once its region was made again.
    """

    def gone(run: Mapping[str, Any]) -> bool:
        drafted, again = (r.get("request", {}).get("region") for r in (run, new))
        return bool(run.get("draft_of_an_edit")) and drafted == again

    return [run for run in runs if not gone(run)]


def _existing(viewer: ViewerModel, scene: Scene) -> Image | None:
    """This scene's overlay from an earlier dock widget."""
    for layer in viewer.layers:
        painting = layer.metadata.get(PAINTING_KEY)
        if not isinstance(painting, Painting) or painting.store.box != scene.box:
            continue
        finest = layer.data[0] if layer.multiscale else layer.data
        # A duplicate has the metadata too, but its pixels are copies.
        own = finest is painting.store.levels[0]
        if own and layer.metadata[NAMESPACE].get("overlay_of") == scene.path:
            found: Image = layer
            return found
    return None


def place_of(source: Image) -> dict[str, Any]:
    return {
        "scale": np.array(source.scale),
        "translate": np.array(source.translate),
        "rotate": np.array(source.rotate),
        "shear": np.array(source.shear),
        "affine": np.array(source.affine.affine_matrix),
        "units": source.units,
        "axis_labels": source.axis_labels,
    }


def place_at(
    source: Image, corner: tuple[float, float], pixel: tuple[float, float]
) -> dict[str, Any]:
    """The place of a layer whose pixels are larger than the source's.

    Parameters
    ----------
    corner
        ``(y, x)`` of its outer corner, in level-0 pixels.
    pixel
        ``(height, width)`` of one of its pixels, likewise.
    """
    place = place_of(source)
    # napari's place of pixel (0, 0): its centre, in the source's data coordinates.
    first = (corner[0] + pixel[0] / 2 - 0.5, corner[1] + pixel[1] / 2 - 0.5)
    place["translate"] = place["translate"] + _linear(source) @ first
    place["scale"] = place["scale"] * pixel
    return place


def _linear(source: Image) -> Points:
    """Scale, then shear, then rotation: what napari does before the translation."""
    shear = np.eye(2)
    shear[0, 1] = np.asarray(source.shear).ravel()[0]
    matrix: Points = np.asarray(source.rotate) @ shear @ np.diag(source.scale)
    return matrix


def _insert(viewer: ViewerModel, layer: Image, source: Image) -> None:
    """Just above the scene, so that regions and the user's own layers stay on top."""
    active = viewer.layers.selection.active
    at = viewer.layers.index(source) + 1 if source in viewer.layers else len(viewer.layers)
    viewer.layers.insert(at, layer)
    # napari selects what is new, which would take the drawing tool out of the user's hand.
    if active is not None and active in viewer.layers:
        viewer.layers.selection.active = active
