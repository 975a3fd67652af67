"""One canvas by a preset of the engine or by a baseline, with a stopwatch in every part."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_ssldiff.diffusion.bundle import Denoiser
from napari_ssldiff.diffusion.canvas import plan
from napari_ssldiff.diffusion.presets import PRESETS
from napari_ssldiff.evaluation.baselines import Baseline
from napari_ssldiff.evaluation.bench_scene import Ground, canvas_of, request_for
from napari_ssldiff.evaluation.instrument import Stopwatch, watched
from napari_ssldiff.evaluation.layouts import TILE
from napari_ssldiff.models.load import ModelBundle
from napari_ssldiff.synthesis import Finished, Preview, Progress, Sampler, TileDone, synthesize
from napari_ssldiff.synthesis.prepare import frame_of, resolve
from napari_ssldiff.synthesis.run import canvas_task, to_uint8

Report = Callable[[str, float, float], None]

#: Windows per network call for a baseline that is matched to an engine that was not run.
BATCH = 16


@dataclass
class Run:
    """One canvas, measured.

    Parameters
    ----------
    image
        ``(size, size, 3)`` uint8.
    seconds
        Wall time from the request to the last pixel; embedding is not in it.
    tiles
        Seconds until each whole 256-px tile was finished.
    evaluations
        Counted.
    network, autoencoder, preview
        Seconds inside them; ``None`` where the device does not tell.
    batch
        Most windows of a network call.
    """

    image: NDArray[np.uint8]
    seconds: float
    tiles: list[float]
    evaluations: int
    network: float | None
    autoencoder: float | None
    preview: float | None
    batch: int


class Watches:
    """The stopwatches of one run."""

    def __init__(self, model: Denoiser, student: bool) -> None:
        self.network, self.decode, self.preview = (Stopwatch(model.device) for _ in range(3))
        self._stack = ExitStack()
        self._targets: list[tuple[Any, str, Stopwatch]] = [
            (model.student if student else model, "network", self.network),
            (model.autoencoder, "decode", self.decode),
            (model.autoencoder, "preview", self.preview),
        ]

    def __enter__(self) -> Watches:
        for target in self._targets:
            self._stack.enter_context(watched(*target))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class Runner:
    """Runs presets and baselines with one model on one field.

    Parameters
    ----------
    progress
        Told ``(stage, done, total)``.
    """

    def __init__(self, bundle: ModelBundle, ground: Ground, progress: Report) -> None:
        self.bundle, self.ground, self.progress = bundle, ground, progress
        #: Windows per network call of a baseline that is matched to the engine.
        self.batch = BATCH

    def sampler(self, preset: str, seed: int, steps: int | None) -> Sampler:
        """Steps are left to the student where it does the work."""
        if PRESETS[preset].uses_student(self.bundle.spec):
            steps = None
        return resolve(Sampler(preset=preset, steps=steps, seed=seed), self.bundle)

    def per_window(self, preset: str, steps: int | None) -> float:
        """Evaluations of one window in a run of a preset, as the engine plans them."""
        bundle, scene = self.bundle, canvas_of(self.bundle, self.bundle.spec.window)
        request = request_for(bundle, scene, self.ground, self.sampler(preset, 0, steps))
        task = canvas_task(request, bundle, None, frame_of(scene, request.region, bundle, "model"))
        planned = plan(task, PRESETS[preset], bundle.spec)
        return planned.evaluations / len(planned.windows)

    def _passes(self, preset: str, steps: int | None) -> int:
        """Rows of a network call per window: two where any step is guided."""
        taken = self.sampler(preset, 0, steps).steps or 1
        return 2 if self.per_window(preset, steps) > taken else 1

    def engine(self, preset: str, size: int, seed: int, steps: int | None) -> Run:
        """A preset through :func:`synthesize`, as the widget and the command line run it."""
        bundle, image = self.bundle, np.zeros((size, size, 3), np.uint8)
        scene, tiles, evaluations = canvas_of(self.bundle, size), [], 0
        request = request_for(bundle, scene, self.ground, self.sampler(preset, seed, steps))
        student = PRESETS[preset].uses_student(bundle.spec)
        passes = self._passes(preset, steps)
        with Watches(bundle.denoiser, student) as watches:
            began = time.perf_counter()
            for event in synthesize(request, bundle=bundle, scene=scene):
                if isinstance(event, TileDone):
                    image[event.box.slices] = event.pixels[..., :3]
                    if event.box.shape == (TILE, TILE):
                        tiles.append(time.perf_counter() - began)
                elif isinstance(event, Preview):
                    watches.preview.follow()
                elif isinstance(event, Progress):
                    self.progress(f"{preset}, {size} px: {event.stage}", event.done, event.total)
                elif isinstance(event, Finished):
                    evaluations = event.evaluations
            seconds = time.perf_counter() - began
            return Run(
                image, seconds, tiles, evaluations, watches.network.seconds,
                watches.decode.seconds, watches.preview.seconds,
                watches.network.largest // passes,
            )  # fmt: skip

    def baseline(self, baseline: Baseline, size: int, seed: int, steps: int | None) -> Run:
        """A baseline on the task that the engine would have; all tiles are ready at its end."""
        bundle, model = self.bundle, self.bundle.denoiser
        scene, done = canvas_of(self.bundle, size), [0]
        sampler = self.sampler(baseline.follows, seed, steps)
        request = request_for(bundle, scene, self.ground, sampler)
        windows = len(baseline.layout(bundle.spec, size).starts) ** 2
        passes = self._passes(baseline.follows, steps)
        total = windows * self.per_window(baseline.follows, steps)

        def told(evaluations: int) -> None:
            done[0] = evaluations
            self.progress(f"{baseline.name}, {size} px: denoising", evaluations, total)

        with Watches(model, False) as watches:
            began = time.perf_counter()
            frame = frame_of(scene, request.region, bundle, "model")
            task = canvas_task(request, bundle, None, frame)
            latents = baseline.sample(model, task, self.batch, told)
            image = to_uint8(baseline.decode(model, latents))
            seconds = time.perf_counter() - began
            return Run(
                image, seconds, [seconds] * (size // TILE) ** 2, done[0],
                watches.network.seconds, watches.decode.seconds, 0.0,
                watches.network.largest // passes,
            )  # fmt: skip
