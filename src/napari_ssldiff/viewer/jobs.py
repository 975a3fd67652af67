"""What the worker does: vary a region, open an endless slide, export a part of a scene."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.errors import Cancelled
from napari_ssldiff.export.composite import Composite
from napari_ssldiff.export.lazy import LazyImage
from napari_ssldiff.export.ome_zarr import write_ome_zarr
from napari_ssldiff.export.overlay_store import OverlayStore
from napari_ssldiff.export.provenance import provenance_of
from napari_ssldiff.geometry import Box, Region
from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.viewer.backend import Cancel, Card, Content, Focus
from napari_ssldiff.viewer.cells import Cells
from napari_ssldiff.viewer.endless import EndlessSlide, make_slide, provenance_of_slide
from napari_ssldiff.viewer.guides import Coarse
from napari_ssldiff.viewer.messages import (
    JobPainted,
    JobPrepared,
    JobPreview,
    JobProgress,
    Message,
    SlideOpened,
)
from napari_ssldiff.viewer.overlay import OverlayController
from napari_ssldiff.viewer.session import Parameters, duration
from napari_ssldiff.viewer.worker import Engine, JobControl

if TYPE_CHECKING:
    from napari_ssldiff.synthesis.explore import Arrangement
    from napari_ssldiff.synthesis.imagine import Prompt

Post = Callable[[Message], None]
_numbers = itertools.count(1)
_INTERVAL = 0.05  # seconds between two progress messages: more only keep the main thread busy


def next_id() -> int:
    """The number of a new job."""
    return next(_numbers)


@dataclass(frozen=True, eq=False)
class GenerateJob:
    """Vary one region of a scene into an overlay, or fill it with what words say.

    Parameters
    ----------
    scene, region
        What to vary, in level-0 pixels.
    model_id, device
        Which model, and where it runs.
    parameters
        How to sample.
    paint
        Takes finished pixels, ``(h, w, 4)`` uint8 over a box, on the worker's thread, and gives
        the part that changed.
    focus
        Where the user looks; tiles there come first.
    prompt
        Takes the place of the region's own embeddings.
    content
        A field that does, where there is no prompt.
    coarse
        What it keeps to from afar.
    cells
        Where its cells are to lie.
    """

    scene: Scene
    region: Region
    model_id: str
    device: str
    parameters: Parameters
    paint: Callable[[Box, NDArray[np.uint8]], Box]
    focus: Focus = lambda: None
    prompt: Prompt | None = None
    content: Content | None = None
    coarse: Coarse | None = None
    cells: Cells | None = None
    id: int = field(default_factory=next_id)

    def run(self, engine: Engine, control: JobControl, post: Post) -> str:
        """Load, embed or imagine, sample, paint."""
        # Loads the engine and torch the first time: here, and not at the module's import.
        from napari_ssldiff.synthesis.events import Finished, Preview, Progress, TileDone

        report = Reporter(self.id, post)
        bundle, token = load_model(self, engine, control, report)
        seconds, tiles = 0.0, 0
        notes: tuple[str, ...] = ()
        try:
            content = self.content
            if self.prompt is not None:
                report("Reading the words")
                content = imagined = engine.backend.imagine(
                    self.scene, self.region, bundle, self.prompt, self.parameters,
                    progress=report, cancel=token,
                )  # fmt: skip
                notes = imagined.notes
            elif content is None:
                report("Reading the region")
            request = engine.backend.make_request(
                self.scene, self.region, bundle, self.parameters, content=content,
                coarse=self.coarse, cells=self.cells, progress=report, cancel=token,
            )  # fmt: skip
            facts = {
                "device": self.device,
                **getattr(bundle, "computed", {}),
                "crs": self.scene.crs,
                "over_the_overlay": self.parameters.over,
                "draft_of_an_edit": self.content is not None and self.parameters.preset == "draft",
            }
            post(JobPrepared(self.id, provenance_of(request, extra=facts), notes))
            report("Starting to sample")
            events = engine.backend.synthesize(
                request, bundle=bundle, scene=self.scene, cancel=token, focus=self.focus
            )
            # Closed in every case: left half-way it would hold the model's tensors.
            with closing(events):
                for event in events:
                    if isinstance(event, Progress):
                        report(event.stage, event.done, event.total)
                    elif isinstance(event, Preview):
                        post(JobPreview(self.id, event.box, event.pixels, self.region))
                    elif isinstance(event, TileDone):
                        tiles += 1
                        changed = self.paint(event.box, event.pixels)
                        if changed.area:
                            post(JobPainted(self.id, changed))
                    elif isinstance(event, Finished):
                        seconds = event.seconds
        except Cancelled:
            kept = f"; {tiles} finished tiles stay" if tiles else ""
            raise Cancelled(f"Cancelled{kept}.") from None
        b = self.region.bounds
        done = "varied" if content is None else "synthesised"
        told = "".join(f" {note[:1].upper()}{note[1:]}." for note in notes)
        took = f"{duration(seconds)} (seed {self.parameters.seed})"
        return f"{b.w} × {b.h} px {done} in {took}.{told}"


def regions_to_come(
    jobs: Iterable[tuple[Any, OverlayController | None]], card: Callable[[str], Card | None]
) -> list[tuple[OverlayController, Region, Length]]:
    """Which regions of which overlays jobs will paint, and how long the model's pixels are.

    Parameters
    ----------
    jobs
        Those that run or wait, each with its overlay.
    card
        Of a model, by its id.
    """
    return [
        (overlay, job.region, Length(found.resolution, found.unit))
        for job, overlay in jobs
        if isinstance(job, GenerateJob) and overlay and (found := card(job.model_id))
    ]


@dataclass(frozen=True, eq=False)
class OpenSlideJob:
    """Make an endless slide of what a region holds, or of words; its pixels are made later, where
    one looks.

    Parameters
    ----------
    scene
        The slide's neighbour, whose unit it takes.
    region
        What to take embeddings and colours from, in level-0 pixels; ``None`` where words say it.
    model_id, device
        Which model, and where it runs.
    parameters
        Steps, guidance and seed.
    arrangement
        ``"mirror"`` or ``"shuffle"``.
    edge
        Of the slide, in pixels of the model.
    prompt
        What it shows, in the place of what the region holds.
    """

    scene: Scene
    region: Region | None
    model_id: str
    device: str
    parameters: Parameters
    arrangement: Arrangement = "mirror"
    edge: int = 2**20
    prompt: Prompt | None = None
    id: int = field(default_factory=next_id)

    def run(self, engine: Engine, control: JobControl, post: Post) -> str:
        """Load, embed or imagine, hand over."""
        report = Reporter(self.id, post)
        bundle, token = load_model(self, engine, control, report)
        how: dict[str, Any] = {"edge": self.edge, "progress": report, "cancel": token}
        notes: Iterable[str] = ()
        if self.prompt is not None:
            report("Reading the words")
            lazy = engine.backend.explore_words(self.prompt, bundle, self.parameters, **how)
            slide = make_slide(lazy, self.scene, provenance_of_slide(lazy), "words")
            notes = getattr(lazy.places, "record", {}).get("notes", ())
        else:
            assert self.region is not None
            report("Reading the region")
            lazy = engine.backend.explore(
                self.scene, self.region, bundle, self.parameters, arrangement=self.arrangement,
                **how,
            )  # fmt: skip
            slide = make_slide(lazy, self.scene, provenance_of_slide(lazy, self.scene))
        post(SlideOpened(self.id, slide))
        told = "".join(f" {note[:1].upper()}{note[1:]}." for note in notes)
        return (
            f"An endless slide of {self.edge} × {self.edge} px: zoom in, and it is made where you "
            f"look. Choose it as the scene to draw on it and to export.{told}"
        )


@dataclass(frozen=True, eq=False)
class ExportJob:
    """Write a part of a scene, with what is synthetic in it, as OME-Zarr.

    Parameters
    ----------
    scene, box
        What to write, in level-0 pixels.
    store
        The overlay, or ``None`` where nothing is synthetic.
    path, version
        Where to, and as which OME-Zarr.
    provenance
        Of the overlay's pixels, or of the slide's.
    slide
        The endless slide that the scene is; all of it is synthetic.
    """

    scene: Scene
    box: Box
    store: OverlayStore | None
    path: Path
    version: Literal["0.5", "0.4"] = "0.5"
    provenance: Mapping[str, Any] | None = None
    slide: EndlessSlide | None = None
    id: int = field(default_factory=next_id)

    def run(self, engine: Engine, control: JobControl, post: Post) -> str:
        """Write it; the output appears whole or not at all."""
        scene, box, size = self.scene, self.box, self.scene.pixel_size
        image = Composite(scene, box, self.store)
        report = Reporter(self.id, post)
        synthetic = None if self.store is None else image.synthetic
        if self.slide is not None:
            report("Making the tiles")
            self.slide.lazy.prepare(
                box,
                control.raise_if_cancelled,
                lambda done, total: report("Making the tiles", done, total),
            )
            synthetic = LazyImage(box.shape, np.uint8, lambda part: np.ones(part.shape, np.uint8))
        report("Exporting")
        written = write_ome_zarr(
            self.path,
            image,
            pixel_size=size,
            translation=(scene.origin[0] + box.y * size.y, scene.origin[1] + box.x * size.x),
            synthetic=synthetic,
            provenance=self.provenance,
            version=self.version,
            name=self.path.name.removesuffix(".zarr").removesuffix(".ome"),
            progress=lambda done, total: report("Exporting", done, total),
            cancel=lambda: control.cancelled,
        )
        return f"Exported {box.w} × {box.h} px to {written}"


class Modelled(Protocol):
    """A job that needs a model."""

    @property
    def model_id(self) -> str: ...
    @property
    def device(self) -> str: ...


def load_model(
    job: Modelled, engine: Engine, control: JobControl, report: Reporter
) -> tuple[Any, Cancel]:
    """A job's model, and the token that stops what the engine does with it."""
    report("Loading the model")
    bundle = engine.bundle(job.model_id, job.device)
    token = engine.backend.new_cancel()
    control.attach(token)
    control.raise_if_cancelled()
    plan = getattr(bundle, "plan", None)
    if plan is not None and plan.notable:
        report(plan.text)
    return bundle, token


class Reporter:
    """Posts progress, at most every twentieth of a second except where the stage changes."""

    def __init__(self, job: int, post: Post) -> None:
        self._job, self._post = job, post
        self._stage, self._last = "", 0.0

    def __call__(self, stage: str, done: float = 0, total: float = 0) -> None:
        """Report ``done`` of ``total``; a total of 0 means that nobody knows."""
        now = time.monotonic()
        if stage == self._stage and now - self._last < _INTERVAL and done < total:
            return
        self._stage, self._last = stage, now
        fraction = min(1.0, max(0.0, done / total)) if total > 0 else None
        self._post(JobProgress(self._job, stage[:1].upper() + stage[1:], fraction))
