"""The ways through a request: whole, in bands, or tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from napari_ssldiff.diffusion.bands import early, sample_bands
from napari_ssldiff.diffusion.blend import scaled
from napari_ssldiff.diffusion.canvas import CanvasTask, Counters
from napari_ssldiff.diffusion.decode import Decoder
from napari_ssldiff.diffusion.lazy import LazyCanvas
from napari_ssldiff.diffusion.memory import twice
from napari_ssldiff.diffusion.presets import Preset
from napari_ssldiff.diffusion.scratch import Scratch
from napari_ssldiff.diffusion.task import plan
from napari_ssldiff.diffusion.wave import Edge
from napari_ssldiff.geometry import Box
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.synthesis.cancel import CancelToken
from napari_ssldiff.synthesis.events import Event, Preview, Progress
from napari_ssldiff.synthesis.frame import Frame
from napari_ssldiff.synthesis.match import correction
from napari_ssldiff.synthesis.request import SynthesisRequest
from napari_ssldiff.synthesis.stream import (
    in_thread,
    on_its_thread,
    preview_of,
    sample_in_thread,
    shown,
)
from napari_ssldiff.synthesis.tiles import Tiles

#: Latents of the source, and where they are compared: ``(c, h, w)`` and ``(h, w)`` bool.
Compared = tuple[torch.Tensor, torch.Tensor]
#: Where the viewer looks: ``(y, x)`` on the output grid, or ``None``.
Focus = Callable[[], tuple[float, float] | None]


@dataclass(frozen=True)
class Run:
    """A request on its way."""

    request: SynthesisRequest
    bundle: ModelBundle
    frame: Frame
    task: CanvasTask
    preset: Preset
    total: int
    cancel: CancelToken
    counters: Counters
    budget: int
    viewer: Focus | None = None

    @property
    def check(self) -> Callable[[], None]:
        """Holds or stops what the consumer's own thread does."""
        return self.cancel.hold

    def focus(self) -> tuple[float, float]:
        """Where the viewer looks, on the output grid."""
        at = None if self.viewer is None else self.viewer()
        return self.frame.output.centre if at is None else at

    def focus_in_latents(self) -> tuple[float, float]:
        """The same on the canvas, in latents."""
        per, canvas = self.frame.model_per_output, self.frame.canvas
        y, x = self.focus()
        f = self.bundle.spec.latent_factor
        return (y * per[0] - canvas.y) / f, (x * per[1] - canvas.x) / f

    @cached_property
    def edge(self) -> Edge:
        """Where bands begin: at the end of the longer side that is nearer to what is looked at.

        Across the shorter side, bands are small: fewer windows until the first pixels.
        """
        looked_at = self.viewer is not None and self.viewer() is not None
        (y, x), (h, w) = self.focus_in_latents(), self.task.box.shape
        if w > h:
            return "right" if looked_at and x > w / 2 else "left"
        return "bottom" if looked_at and y > h / 2 else "top"

    def early(self) -> int | None:
        """As :func:`napari_ssldiff.diffusion.bands.early` says, on the thread that samples."""
        model = self.bundle.denoiser
        return on_its_thread(
            lambda check: early(model, self.task, self.preset, check, edge=self.edge),
            self.cancel,
            model.device,
        )

    def whole(self, compared: Compared | None) -> Generator[Event, None, None]:
        """All windows in step; then pixels, outwards from the focus.

        ``compared`` is what the colours are to agree with.
        """
        latents: torch.Tensor | None = None
        place = in_output(self.frame.canvas, self.frame)
        sampling = sample_in_thread(
            self.bundle.denoiser,
            self.task,
            self.preset,
            total=self.total,
            place=place,
            cancel=self.cancel,
            counters=self.counters,
        )
        with closing(sampling):
            for event in sampling:
                if isinstance(event, torch.Tensor):
                    latents = event
                else:
                    yield event
        assert latents is not None
        tiles, decoder = self._decoder()
        if compared is not None:
            real, ring = compared
            tiles.colour = correction(self._show(latents), self._show(real), ring)
        count = 0
        while decoder.pending:
            for n, pixels in decoder.next(latents):
                count += 1
                yield tiles.finish(n, pixels)
            yield Progress("decoding", count, len(tiles), self.counters.evaluations)
        assert count == len(tiles), f"{len(tiles) - count} tiles left undone"

    def tile_by_tile(self) -> Generator[Event, None, None]:
        """Every tile alone, from what its neighbours have left."""
        tiles = Tiles(self.frame, self.request.feather)
        place, needs = self.frame.canvas, tiles.needs

        def work(stopping: Callable[[], None], tell: Callable[[Event], None]) -> None:
            canvas = LazyCanvas(
                self.bundle.denoiser,
                self.task,
                self.preset,
                threads=self.request.sampler.threads,
                precision=self.request.sampler.precision,
                cache_bytes=self.budget // 2,
                tile_bytes=self.budget // 2,
                check=stopping,
                on_batch=lambda n: tell(Progress("denoising", n, self.total, n)),
                counters=self.counters,
            )
            for n in tiles.outwards(self.focus):
                tell(tiles.finish(n, canvas.pixels(needs[n].shift(place.y, place.x))))

        yield from in_thread(work, self.cancel, self.bundle.denoiser.device)

    def early_bands(self, least: int) -> Generator[Event, None, None]:
        """Band by band what memory would hold whole, beside the consumer."""

        def work(stopping: Callable[[], None], tell: Callable[[Event], None]) -> None:
            with closing(self.in_bands(None, least, stopping)) as events:
                for event in events:
                    tell(event)

        yield from in_thread(work, self.cancel, self.bundle.denoiser.device)

    def in_bands(
        self,
        compared: Compared | None,
        least: int | None = None,
        check: Callable[[], None] | None = None,
    ) -> Generator[Event, None, None]:
        """Band by band, pixels as rows become final.

        Parameters
        ----------
        compared
            What the colours are to agree with; then no pixel comes before all rows are final, and
            these wait on disk.
        least, check
            As for :func:`~napari_ssldiff.diffusion.bands.sample_bands`.
        """
        check = check or self.check
        tiles, decoder = self._decoder(self.budget // 4, check)
        picture = _Picture(self, self.budget // 8)
        count = 0
        sampling = sample_bands(
            self.bundle.denoiser,
            self.task,
            self.preset,
            budget=self.budget // 2,  # the last quarter is the decoder's own work
            least=least,
            edge=self.edge,
            check=check,
            counters=self.counters,
        )
        with closing(decoder), closing(sampling), closing(Scratch()) as waiting:
            order = list[Box]()
            made = None if compared is None else torch.zeros(3, *self.task.box.shape)
            for step in sampling:
                if step.x0 is not None and step.place is not None:
                    yield from picture.add(step.x0, step.place, step.evaluations)
                elif step.rows is None:
                    yield Progress("denoising", step.evaluations, self.total, step.evaluations)
                elif made is not None and step.place is not None:
                    made[(slice(None), *step.place.slices)] = self._show(step.rows)
                    waiting.put(step.place, twice(step.rows.cpu))
                    order.append(step.place)
                elif step.place is not None:
                    for finished in decoder.feed(step.rows, step.place):
                        for n, pixels in finished:
                            count += 1
                            yield tiles.finish(n, pixels)
            if compared is not None and made is not None:
                real, ring = compared
                tiles.colour = correction(made, self._show(real), ring)
            for place in order:
                rows = twice(lambda place=place: waiting.take(place, torch.device("cpu")))  # type: ignore[misc]
                for finished in decoder.feed(rows, place):
                    for n, pixels in finished:
                        count += 1
                        yield tiles.finish(n, pixels)
                    yield Progress("decoding", count, len(tiles), self.counters.evaluations)
        assert count == len(tiles), f"{len(tiles) - count} tiles left undone"

    def _show(self, latents: torch.Tensor) -> torch.Tensor:
        return shown(self.bundle.denoiser, latents)

    def _decoder(
        self, budget: int | None = None, check: Callable[[], None] | None = None
    ) -> tuple[Tiles, Decoder]:
        tiles = Tiles(self.frame, self.request.feather)
        decoder = Decoder(
            self.bundle.denoiser,
            self.preset,
            self.task.box.shape,
            tiles.needs,
            focus=self.focus_in_latents,
            edge=self.edge,
            budget=budget,
            check=check or self.check,
            counters=self.counters,
        )
        return tiles, decoder


class _Picture:
    """What has begun of a canvas in bands: as many previews as the canvas would have had whole."""

    def __init__(self, run: Run, budget: int) -> None:
        self._run, self._steps = run, run.task.steps
        self._begin = plan(run.task, run.preset, run.bundle.spec).begin
        self._told = self._begin
        box = run.task.box
        self._pixels = np.zeros((*box.shape, 3), np.uint8) if 3 * box.area <= budget else None
        self._begun: Box | None = None

    def add(self, x0: torch.Tensor, place: Box, evaluations: int) -> Iterator[Preview]:
        """Take in what some rows look like; a preview where it is time for one."""
        if self._pixels is None:
            return
        self._pixels[place.slices] = preview_of(self._run.bundle.denoiser, x0)
        self._begun = place if self._begun is None else self._begun.union(place)
        taken = (self._steps - self._begin) * evaluations // max(1, self._run.total)
        now = self._begin + taken
        if now > self._told:
            self._told = now
            f, canvas = self._run.bundle.spec.latent_factor, self._run.frame.canvas
            there = scaled(self._begun, f).shift(canvas.y, canvas.x)
            yield Preview(
                in_output(there, self._run.frame),
                self._pixels[self._begun.slices].copy(),
                now,
                self._steps,
            )


def in_output(canvas: Box, frame: Frame) -> Box:
    """The canvas (model pixels) on the output grid, to the nearest pixel."""
    per = frame.model_per_output
    y0, x0 = round(canvas.y / per[0]), round(canvas.x / per[1])
    return Box(y0, x0, round(canvas.y1 / per[0]) - y0, round(canvas.x1 / per[1]) - x0)
