"""Endless slides in a viewer: made where one looks, by the worker, while it has nothing else to do.

An :class:`EndlessSlide` is the worker's chore; it lives in its layer's metadata, so that a dock
widget that is opened later serves it again. An :class:`EndlessView` draws what was made, gathered
to at most ten refreshes a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_ssldiff.errors import Cancelled
from napari_ssldiff.export.provenance import NAMESPACE, marked_synthetic
from napari_ssldiff.geometry import Box
from napari_ssldiff.scenes.scene import PixelSize, Scene
from napari_ssldiff.viewer.messages import Message, TileMade
from napari_ssldiff.viewer.view import camera_of, in_view

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_ssldiff.synthesis.endless import LazyScene

#: Key of a layer's metadata that holds its :class:`EndlessSlide`.
ENDLESS_KEY = "napari_ssldiff_endless"
#: Screen pixels per pixel of a slide that was just opened: half size, where its map shows at once
#: and a window's tiles are few enough to be made.
OPENING_ZOOM = 0.5
_numbers = itertools.count(1)


@dataclass(eq=False)
class EndlessSlide:
    """A slide without bounds and its place in the world; a chore of the worker's.

    Parameters
    ----------
    lazy
        What makes its pixels.
    scene
        The slide as a scene like any other, for regions and exports. Reading it makes the pixels,
        so only the worker does.
    provenance
        What its pixels carry.
    paused
        Whether nothing is made, however much is asked for.
    """

    lazy: LazyScene
    scene: Scene
    provenance: Mapping[str, Any]
    paused: bool = False
    id: int = field(default_factory=lambda: next(_numbers))

    @property
    def ready(self) -> bool:
        """Whether a tile is asked for and may be made."""
        return not self.paused and self.lazy.waiting > 0

    def step(self, check: Callable[[], None], post: Callable[[Message], None]) -> None:
        """Make one tile, on the worker's thread."""

        def go_on() -> None:
            check()
            if self.paused:
                raise Cancelled("paused")

        box = self.lazy.step(go_on)
        if box is not None:
            post(TileMade(self.id, box))


def make_slide(
    lazy: LazyScene, source: Scene, provenance: Mapping[str, Any], of: str | None = None
) -> EndlessSlide:
    """A slide to the right of a scene, in the scene's own unit.

    Parameters
    ----------
    of
        What it was made of, for its name; by default the scene.
    """
    spec = lazy.encoder
    own, ground = source.pixel_size, source.encoder_pixel_size
    # Pixels of the model in the scene's frame; where nothing is known both count the same.
    ratio = (1.0, 1.0)
    if ground.unit != "pixel":
        ratio = (spec.resolution / ground.y, spec.resolution / ground.x)
    size = PixelSize(own.y * ratio[0], own.x * ratio[1], own.unit)
    on_ground = None
    if source.ground_pixel_size is not None:
        on_ground = PixelSize(spec.resolution, spec.resolution, spec.unit)
    scene = Scene(
        path=f"endless:{lazy.digest[:16]}",
        name=f"{of or source.name} · endless",
        levels=(lazy.rendered,),
        pixel_size=size,
        ground_pixel_size=on_ground,
        origin=(source.origin[0], source.origin[1] + 1.05 * source.shape[1] * own.x),
        facts={"format": "endless slide", "synthetic": True},
    )
    return EndlessSlide(lazy, scene, provenance)


def slide_of(layer: Any) -> EndlessSlide | None:
    """The endless slide that a layer shows, if it shows one."""
    found = layer.metadata.get(ENDLESS_KEY)
    return found if isinstance(found, EndlessSlide) else None


class EndlessView:
    """One layer of an endless slide. Main thread only."""

    def __init__(self, layer: Image, slide: EndlessSlide) -> None:
        self.layer, self.slide = layer, slide
        self._dirty: list[Box] = []
        self._left = 0

    @classmethod
    def open(cls, viewer: ViewerModel, slide: EndlessSlide) -> EndlessView:
        """Add a layer for a slide on top and go to the middle of it."""
        from napari.layers import Image

        scene = slide.scene
        size, origin = scene.pixel_size, scene.origin
        layer = Image(
            slide.lazy.levels,
            multiscale=True,
            rgb=True,
            cache=False,
            name=scene.name,
            scale=(size.y, size.x),
            # napari places the centre of a pixel, the scene its outer corner.
            translate=(origin[0] + size.y / 2, origin[1] + size.x / 2),
            units=(size.unit, size.unit),
            metadata={ENDLESS_KEY: slide, NAMESPACE: {**slide.provenance, "scene": scene}},
        )
        middle = [
            o + n * p / 2 for o, n, p in zip(origin, scene.shape, (size.y, size.x), strict=True)
        ]
        active = viewer.layers.selection.active
        viewer.layers.append(layer)
        camera = camera_of(viewer)
        camera.center = (0.0, *middle)
        camera.zoom = OPENING_ZOOM / max(size.y, size.x)
        if active is not None and active in viewer.layers:
            viewer.layers.selection.active = active
        return cls(layer, slide)

    def made(self, box: Box) -> None:
        """A tile was made; shown by the next :meth:`flush`."""
        self._dirty.append(box)

    def flush(self) -> bool:
        """Show what was made since; whether the layer was drawn again."""
        dirty, self._dirty = self._dirty, []
        left, self._left = self._left, self.slide.lazy.waiting
        if left and not self._left:
            # The view is complete: time for the thumbnail, which is the coarsest level's.
            self.layer.refresh(extent=False, highlight=False)
            return True
        if not any(in_view(self.layer, box) for box in dirty):
            return False
        self.layer.refresh(thumbnail=False, extent=False, highlight=False)
        return True


def provenance_of_slide(lazy: LazyScene, source: Scene | None = None) -> dict[str, Any]:
    """What an endless slide's pixels carry: all that is needed to make them again.

    Parameters
    ----------
    source
        The scene that it was made of, if there was one.
    """
    whole = lazy.to_dict()
    derived = {} if source is None else {"derived_from": source.path}
    return marked_synthetic(
        {
            "endless": whole,
            "endless_digest": lazy.digest,
            "model": whole["model"],
            "model_hash": whole["model_hash"],
            "seed": lazy.sampler.seed,
            **derived,
        }
    )


def carried(
    slide: EndlessSlide | None, painted: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """What an export carries: of what was ``painted``, and of the slide that lies under it."""
    if slide is None:
        return painted
    if painted is None:
        return slide.provenance
    return {**painted, "source_provenance": slide.provenance}
