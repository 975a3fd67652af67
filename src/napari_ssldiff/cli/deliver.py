"""What several commands share: progress, running a request, writing its result."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ssldiff.errors import Cancelled

if TYPE_CHECKING:
    from napari_ssldiff.models import ModelBundle
    from napari_ssldiff.scenes import Scene
    from napari_ssldiff.synthesis import SynthesisRequest


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


class Meter:
    """A progress line with an estimate of the time left."""

    def __init__(self) -> None:
        self._stage, self._start, self._shown = "", 0.0, 0.0

    def __call__(self, stage: str, done: float, total: float) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._start, self._shown = stage, now, 0.0
        finished = done >= total
        # A terminal gets a moving line, a log file a line now and then.
        if not finished and now - self._shown < (0.2 if sys.stderr.isatty() else 5.0):
            return
        self._shown = now
        spent = now - self._start
        left = spent / done * (total - done) if done else 0.0
        tail = f"{spent:.1f} s" if finished else f"{left:.0f} s left"
        end = "\n" if finished or not sys.stderr.isatty() else ""
        text = f"\r{stage}: {100 * done / max(total, 1):3.0f} %  {tail}   {end}"
        sys.stderr.write(text if sys.stderr.isatty() else text.lstrip("\r"))
        sys.stderr.flush()


@dataclass(frozen=True)
class Drawn:
    """What a run has come to.

    Parameters
    ----------
    store
        The overlay; to be closed.
    tiles, total
        Tiles that are in it, and those that were asked for.
    end
        The :class:`Finished` event, or ``None`` where the user has stopped the run.
    """

    store: Any
    tiles: int
    total: int
    end: Any

    @property
    def computed(self) -> dict[str, Any]:
        """For the provenance: how much is missing, if anything."""
        return {} if self.end else {"unfinished": {"tiles": self.tiles, "of": self.total}}

    def report(self, path: Path) -> None:
        """Say what it took, once all is written.

        Raises
        ------
        Cancelled
            If the run was stopped.
        """
        if self.end is None:
            raise Cancelled(f"{self.tiles} of {self.total} tiles were finished, and are in {path}")
        say(f"{self.end.evaluations} network evaluations in {self.end.seconds:.1f} s")


def render(request: SynthesisRequest, bundle: ModelBundle, scene: Scene, progress: Meter) -> Drawn:
    """Run a request into a fresh overlay store.

    A run that is stopped from the keyboard keeps the tiles that it has finished.
    """
    from napari_ssldiff.export import OverlayStore
    from napari_ssldiff.synthesis import Finished, Progress, Started, TileDone, synthesize
    from napari_ssldiff.synthesis.tiles import TILE

    store: OverlayStore | None = None
    end, tiles, total = None, 0, 0
    try:
        for event in synthesize(request, bundle=bundle, scene=scene):
            if isinstance(event, Started):
                store = OverlayStore(event.output_box)
                total = sum(1 for _ in event.output_box.tiles(TILE))
            elif isinstance(event, Progress):
                progress(event.stage, event.done, event.total)
            elif isinstance(event, TileDone):
                assert store is not None
                store.write(event.box, event.pixels)
                tiles += 1
            elif isinstance(event, Finished):
                end = event
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and tiles:
            say(f"stopped: writing the {tiles} of {total} tiles that are finished")
            return Drawn(store, tiles, total, None)
        if store is not None:
            store.close()
        raise
    return Drawn(store, tiles, total, end)


def write_result(
    path: Path,
    request: SynthesisRequest,
    scene: Scene,
    store: Any,
    version: str,
    computed: Mapping[str, Any],
) -> None:
    """Export a finished overlay at its place in the scene; ``computed`` is its bundle's."""
    from napari_ssldiff.export import Composite, OverlayImage, provenance_of, write_ome_zarr
    from napari_ssldiff.scenes import PixelSize

    own = scene.pixel_size
    extra = {**computed, "crs": scene.crs, "affine": list(scene.affine) if scene.affine else None}
    if request.grid == "source":
        box = store.box
        image: Any = Composite(scene, box, store)
        size = own
        windows = list(zip(scene.display.low, scene.display.high, strict=True))
    else:
        # The field's resolution is the model's; the model itself may be a folder without an id
        # that the registry knows.
        resolution = request.field.resolution
        ground = scene.encoder_pixel_size
        scale = (
            (1.0, 1.0) if ground.unit == "pixel" else (resolution / ground.y, resolution / ground.x)
        )
        box = store.box
        image = OverlayImage(store, scene.background)
        size = PixelSize(own.y * scale[0], own.x * scale[1], own.unit)
        windows = None
    write_ome_zarr(
        path,
        image,
        pixel_size=size,
        translation=(scene.origin[0] + box.y * size.y, scene.origin[1] + box.x * size.x),
        synthetic=image.synthetic,
        provenance=provenance_of(request, extra=extra),
        version=version,  # type: ignore[arg-type]
        name=f"{scene.name} synthetic variation",
        windows=windows,
    )


def picture(path: Path, request: SynthesisRequest, scene: Scene, store: Any) -> None:
    """Source and synthesis side by side, at level 0, at most 2048 px a side."""
    import numpy as np
    from PIL import Image

    from napari_ssldiff.export import side_by_side

    box = store.box if request.grid == "source" else request.region.bounds
    real = scene.read_rgb(box)
    made = store.read(store.box)
    if request.grid == "model":
        made = np.asarray(Image.fromarray(made).resize((box.w, box.h), Image.Resampling.LANCZOS))
    alpha = made[..., 3:].astype(np.float32) / 255
    right = np.round(made[..., :3] * alpha + real * (1 - alpha)).astype(np.uint8)
    if max(box.shape) > 2048:
        shrink = 2048 / max(box.shape)
        size = round(box.w * shrink), round(box.h * shrink)
        real, right = (
            np.asarray(Image.fromarray(p).resize(size, Image.Resampling.LANCZOS))
            for p in (real, right)
        )
    side_by_side(path, real, right)
