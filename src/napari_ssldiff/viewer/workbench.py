"""What the dock widget does, without a view: scenes, regions, jobs and overlays of one viewer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from psygnal import Signal

from napari_ssldiff.errors import InputError
from napari_ssldiff.export.composite import composite_scene
from napari_ssldiff.export.files import check_output
from napari_ssldiff.geometry import Region
from napari_ssldiff.scenes.extend import extend
from napari_ssldiff.scenes.lengths import Length
from napari_ssldiff.scenes.scene import Scene
from napari_ssldiff.viewer import messages as m
from napari_ssldiff.viewer.backend import Backend, Card, Content, EngineBackend
from napari_ssldiff.viewer.cells import Cells, cells_for
from napari_ssldiff.viewer.choice import ModelChoice
from napari_ssldiff.viewer.endless import EndlessView, slide_of
from napari_ssldiff.viewer.exporting import export_job
from napari_ssldiff.viewer.field_job import OpenFieldJob
from napari_ssldiff.viewer.guides import Coarse, guide_for
from napari_ssldiff.viewer.jobs import GenerateJob, OpenSlideJob, regions_to_come
from napari_ssldiff.viewer.layer_scene import is_source, scene_of
from napari_ssldiff.viewer.overlay import OverlayController
from napari_ssldiff.viewer.overlays import Overlays
from napari_ssldiff.viewer.patches import PatchesJob
from napari_ssldiff.viewer.reader import layer_data
from napari_ssldiff.viewer.region_book import RegionBook
from napari_ssldiff.viewer.session import Eta, Parameters, Session, Severity, Status, WorkProgress
from napari_ssldiff.viewer.slides import Slides
from napari_ssldiff.viewer.told import guard_size, notify, told
from napari_ssldiff.viewer.wording import Target, new_canvas, prompt_of, prompts_for
from napari_ssldiff.viewer.worker import Job, Worker

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_ssldiff.synthesis.explore import Arrangement
    from napari_ssldiff.synthesis.imagine import Prompt

Extent = Literal["region", "scene"]
_CANVAS = Length(1024)


class Workbench:
    """The plugin's work on one viewer. Main thread only, but for what the worker does.

    Parameters
    ----------
    viewer
        Any napari viewer model.
    deliver
        Called on the worker's thread with a message; must bring it to :meth:`handle` on the
        main thread.
    backend
        The engine; this package's own by default.
    confirm
        Asks the user a yes-or-no question; without it, no.
    """

    scenes_changed = Signal()
    scene_changed = Signal()
    heard = Signal(object)  # the worker's messages

    def __init__(
        self,
        viewer: ViewerModel,
        deliver: Callable[[m.Message], None],
        backend: Backend | None = None,
        confirm: Callable[[str], bool] = lambda question: False,
    ) -> None:
        self.viewer = viewer
        self.backend = backend or EngineBackend()
        self.confirm = confirm
        self.session = Session()
        self.regions = RegionBook(viewer)
        self.deliver, self.worker = deliver, Worker(self.backend, deliver)
        self.source: Image | None = None
        self.scene: Scene | None = None
        self.choice = ModelChoice(viewer, self.backend, self.session)
        self._overlays = Overlays(viewer)
        self._jobs: dict[int, tuple[Job, OverlayController | None]] = {}
        self.slides = Slides(viewer, self.session, self.worker)
        self._eta = Eta()
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        self.slides.serve()
        self.choose_source(next(iter(self.sources()), None))

    # What there is to choose from

    def sources(self) -> list[Image]:
        """The image layers that can be scenes, topmost first."""
        return [layer for layer in reversed(self.viewer.layers) if is_source(layer)]

    def card(self, model_id: str) -> Card | None:
        """The card of a model."""
        return self.choice.card(model_id)

    @told
    def refresh_models(self) -> None:
        """Look again which models there are; one that is gone is no longer chosen."""
        self.choice.refresh()

    @told
    def choose_source(self, layer: Image | None) -> None:
        """Turn to the scene of an image layer; its nearest model is chosen with it."""
        self.source, self.scene = layer, None
        try:
            self.scene = None if layer is None else scene_of(layer)
            self.choice.attach(layer, self.scene)
        finally:
            self.regions.attach(self.source if self.scene else None, self.scene)
            self.scene_changed.emit()

    # What the user does

    @told
    def draw(self, kind: Literal["rectangle", "polygon"]) -> None:
        """Give the user the drawing tool on the scene's own Shapes layer."""
        self.regions.draw(kind)
        how = {
            "rectangle": "Drag a rectangle on the image.",
            "polygon": "Click the corners of a polygon; a double click ends it.",
        }
        self.say(how[kind])

    @told
    def adopt(self, shapes: Any) -> None:
        """Take over the shapes of another layer."""
        count = self.regions.adopt(shapes)
        self.say(f"{count} region{'s' * (count > 1)} taken over from {shapes.name}.")

    @told
    def extend(self, margin: int) -> None:
        """Add the scene with room around it, ``margin`` level-0 pixels, and turn to it.

        What is drawn there is outpainting.
        """
        from napari.layers import Image

        scene, source = self._chosen_scene()
        if slide_of(source) is not None:
            raise InputError(f"{scene.name} is endless: open a larger one to go past its edge")
        levels, attributes, _ = layer_data(extend(scene, margin))
        layer = Image(levels, **attributes)
        self.viewer.layers.insert(self.viewer.layers.index(source) + 1, layer)
        self.choose_source(layer)
        self.say("Draw a region past the old edge; with a context it continues what is there.")

    @told
    def generate(self) -> None:
        """Queue a variation of every chosen region."""
        self._chosen_scene()
        self._fill([(region, None) for region in self.regions.chosen()])

    @told
    def synthesise(
        self, target: Target = "regions", width: Length = _CANVAS, height: Length = _CANVAS
    ) -> None:
        """Queue what the session's words say: in regions, all over the scene, or on a new canvas
        of ``width`` × ``height``."""
        if target == "canvas":
            if self.session.guide.of == "source":
                raise InputError("a new canvas is empty: it has no coarse picture to keep")
            self.choice.suit(self.session.wording)
            model, variant = self.choice.taken, self.session.variant
            self.viewer.add_layer(layer := new_canvas(model, width, height))
            self.choose_source(layer)
            self.choice.take(model.id, variant)
        scene, _ = self._chosen_scene()
        wanted = list(prompts_for(target, self.session, self.regions, scene))
        # A canvas was made for one magnification, however closely it is looked at.
        self._fill(wanted, model=model.id if target == "canvas" else None)

    def render(
        self, regions: Sequence[Region], content: Content, how: Parameters, model: str
    ) -> int:
        """Queue the synthesis of regions from a field, which is one of ``model``'s, as one job; its
        number."""
        return self._fill([(region, None) for region in regions], content, how, model)

    def open_field(self, count: int, whole: bool = False) -> None:
        """Queue the embeddings of the first chosen region; ``whole``: by the slide's kinds."""
        scene, source = self._chosen_scene()
        model, device = self.choice.taken.id, self.session.device
        region = self.regions.chosen()[0]
        guard_size(region, "read", self.confirm)
        self.submit(OpenFieldJob(scene, source, region, model, device, count, whole))

    def _fill(
        self,
        wanted: Sequence[tuple[Region, Prompt | None]],
        content: Content | None = None,
        parameters: Parameters | None = None,
        model: str | None = None,
    ) -> int:
        scene, source = self._chosen_scene()
        model, device = model or self.choice.taken.id, self.session.device
        for region, _ in wanted:
            guard_size(region, "made", self.confirm)
        overlay, how = self._overlays.of(source, scene), parameters or self.session.parameters
        overlay.look()
        if how.over:
            scene = composite_scene(scene, overlay.store)
        look = overlay.paint, lambda: overlay.focus
        made = [
            GenerateJob(
                scene, r, model, device, how, *look, p, content,
                self._coarse(r, source, scene) if content is None else None,
                self._cells(r, source, model) if content is None else None,
            ) for r, p in wanted
        ]  # fmt: skip
        jobs: list[Job] = [*made] if content is None else [PatchesJob(tuple(made))]
        for job in jobs:
            self.submit(job, overlay)
        return job.id

    @told
    def open_endless(
        self, arrangement: Arrangement | Literal["words"] = "mirror", edge: int = 2**20
    ) -> None:
        """Queue an endless slide of what the first chosen region holds, or of the session's words.

        Parameters
        ----------
        arrangement
            ``"mirror"``, ``"shuffle"``, or ``"words"``, which needs no region.
        edge
            Of the slide, in pixels of the model.
        """
        scene, _ = self._chosen_scene()
        model, session = self.choice.taken.id, self.session
        how, device = session.parameters, session.device
        if arrangement == "words":
            job = OpenSlideJob(
                scene, None, model, device, how, edge=edge, prompt=prompt_of(session)
            )
            self.submit(job, None)
            return
        region = self.regions.chosen()[0]
        guard_size(region, "read", self.confirm)
        self.submit(OpenSlideJob(scene, region, model, device, how, arrangement, edge), None)

    @told
    def export(
        self, path: str | Path, version: Literal["0.5", "0.4"] = "0.5", extent: Extent = "region"
    ) -> None:
        """Queue an export of the chosen regions' bounds, or of the whole scene."""
        scene, source = self._chosen_scene()
        overlay = self._overlays.get(source)
        box = scene.box
        if extent == "region":
            bounds = [region.bounds for region in self.regions.chosen()]
            box = functools.reduce(lambda a, b: a.union(b), bounds).intersect(scene.box)
        job = export_job(scene, source, box, overlay, check_output(path), version, self.confirm)
        self.submit(job, overlay)

    def cancel(self) -> None:
        """Stop what runs and what waits. Finished tiles stay."""
        if self.worker.cancel():
            self.session.cancelling = True
            self.say("Cancelling…")

    def hold(self, held: bool) -> None:
        """Pause what runs and what waits, with all that it has, or go on."""
        self.session.held = held and self.session.busy
        self.worker.pause(self.session.held)
        if self.session.busy:
            self.say("Paused: finished tiles stay, the rest waits." if held else "Working…")

    def say(self, text: str, severity: Severity = "info") -> None:
        """Put a line into the status."""
        self.session.status = Status(text[:1].upper() + text[1:], severity)

    # What the worker reports

    def handle(self, message: m.Message) -> None:
        """Take in one message of the worker's, on the main thread."""
        self.heard.emit(message)
        if isinstance(message, m.DevicesFound):
            self.session.devices = message.devices
            return
        if isinstance(message, m.TileMade):
            return self.slides.made(message)
        if isinstance(message, m.ChoreFailed):
            self.say(text := self.slides.failed(message), "error")
            return notify(text)
        if message.job not in self._jobs:
            return
        _, overlay = self._jobs[message.job]
        if isinstance(message, m.JobStarted):
            self._count()
            queue = f" {self.session.waiting} more in the queue." if self.session.waiting else ""
            self.say(f"Working…{queue}")
        elif isinstance(message, m.JobProgress):
            left = self._eta.update(message.stage, message.fraction)
            self.session.progress = WorkProgress(message.stage, message.fraction, left)
        elif isinstance(message, (m.JobDone, m.JobCancelled, m.JobFailed)):
            self._ended(message)
        elif isinstance(message, m.SlideOpened):
            EndlessView.open(self.viewer, message.slide)
        elif overlay is not None and not overlay.closed:
            if isinstance(message, m.JobPrepared):
                overlay.start_run(message.job, message.provenance)
            elif isinstance(message, m.JobPreview):
                overlay.preview(message.box, message.pixels, message.region)
            elif isinstance(message, m.JobPainted):
                overlay.painted(message.job, message.box)

    def tick(self) -> None:
        """Show what the worker has painted; call it about ten times a second while busy."""
        self._overlays.flush()
        self.slides.flush()

    def close(self) -> bool:
        """End the worker and stop listening; whether its thread has ended. Safe to call twice."""
        self.viewer.layers.events.inserted.disconnect(self._on_inserted)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.choice.close()
        self.regions.detach()
        return self.worker.close()

    # Inside

    def _chosen_scene(self) -> tuple[Scene, Image]:
        if self.source is None:
            raise InputError("there is no scene: open an image, or one of File ▸ Open Sample")
        if self.scene is None:
            self.scene = scene_of(self.source)  # says once more why it cannot be used
            self.regions.attach(self.source, self.scene)
        return self.scene, self.source

    def _coarse(self, region: Region, source: Image, scene: Scene) -> Coarse | None:
        waiting = regions_to_come(self._jobs.values(), self.card)
        return guide_for(self.session.guide, region, source, scene, self._overlays, waiting)

    def _cells(self, region: Region, source: Image, model: str) -> Cells | None:
        heard = self.backend.choices(model).cells
        return cells_for(self.session.cells, region, source) if heard else None

    def submit(self, job: Job, overlay: OverlayController | None = None) -> None:
        """Queue a job."""
        self._jobs[job.id] = (job, overlay)
        self.worker.submit(job)
        if self.session.held:
            self.hold(False)  # who asks for more wants to see it
        if not self.session.busy:
            self.session.progress = WorkProgress("Waiting for the worker")
            self.session.busy = True
        self._count()
        if self.session.waiting:
            self.say(f"{self.session.waiting} more in the queue.")

    def _count(self) -> None:
        self.session.waiting = max(0, len(self._jobs) - 1)

    def _ended(self, message: m.JobDone | m.JobCancelled | m.JobFailed) -> None:
        _, overlay = self._jobs.pop(message.job)
        if overlay is not None:
            overlay.settle(message.job)
        self._count()
        if isinstance(message, m.JobDone):
            self.say(message.text, "success")
        elif isinstance(message, m.JobCancelled):
            self.say(message.text or "Cancelled.")
        else:
            self.say(message.text, "error")
            notify(message.text)
        if not self._jobs:
            self.session.busy = self.session.cancelling = self.session.held = False
            self.session.progress = WorkProgress()

    def _on_inserted(self) -> None:
        self.slides.serve()
        self.scenes_changed.emit()
        if self.source is None:
            self.choose_source(next(iter(self.sources()), None))

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        self.regions.layer_removed(layer)
        self.slides.serve()
        for overlay in self._overlays.removed(layer):
            self._stop(overlay)
        self.scenes_changed.emit()
        if layer is self.source:
            self.choose_source(next(iter(self.sources()), None))

    def _stop(self, overlay: OverlayController) -> None:
        mine = {number for number, (_, of) in self._jobs.items() if of is overlay}
        if self.worker.cancel(lambda job: job.id in mine):
            self.say("Cancelled: its layer was removed.")
