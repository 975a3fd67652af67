"""``--dry-run``: what a stage would do, and how long a step of it takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_ssldiff.training.checks import STATE_BYTES, network, parameters
from napari_ssldiff.training.data import ImageSet
from napari_ssldiff.training.loop import Schedule
from napari_ssldiff.training.pipeline import Pipeline
from napari_ssldiff.training.runtime import Runtime
from napari_ssldiff.training.state import read_marker


def describe(
    pipeline: Pipeline,
    stage: str,
    minutes: float | None = None,
    domain: str | None = None,
    *,
    steps: int | None = None,
    runtime: Runtime,
) -> Iterator[str]:
    """Lines on a stage that was checked: images, network, time, output.

    The network takes two real steps in a temporary folder; the output folder stays as it is.
    """
    kind = "encoder" if stage.startswith("encoder") else "pixels"
    for name in [domain] if domain and stage == "encoder" else pipeline.domains:
        path = pipeline.samples_path(name)
        if stage in ("diffusion", "distil") and path.is_file():
            yield f"{name}: prepared samples in {path}, {path.stat().st_size / 1e6:.0f} MB"
            continue
        for part in ("train", "validation"):
            for one in pipeline.images.sets(name, kind, part):
                yield f"{name}, {part}: {_images(one)} at {_resolution(pipeline, name)}"
    if stage == "bundle":
        yield f"output: {pipeline.output / 'bundle'}"
        return
    count = parameters(network(pipeline, stage, domain))
    hardware = runtime.resolve()
    yield (
        f"network: {count / 1e6:.2f} million parameters; state {count * STATE_BYTES / 1e6:.0f} MB, "
        "while it is saved twice that"
    )
    plan = pipeline.schedule(stage, minutes, steps)
    for part_of in pipeline.parts(stage, domain):
        folder = pipeline.folder(stage, part_of)
        seconds = seconds_per_step(pipeline, stage, part_of, plan, runtime)
        info: dict[str, Any] = read_marker(folder) or {"step": 0, "elapsed": 0.0}
        left = max(0, plan.steps - int(info["step"])) * seconds
        boxed = max(0.0, plan.budget - float(info["elapsed"]))
        yield (
            f"steps: {plan.steps} of about {seconds:.3g} s on {hardware.describe()} "
            f"({hardware.device}, {hardware.precision}): {_duration(min(left, boxed))}"
            + (f", cut short by --minutes {minutes:g}" if boxed < left else "")
        )
        begun = f", goes on from step {info['step']}" if info["step"] else ""
        yield f"output: {folder}{begun}"


def seconds_per_step(
    pipeline: Pipeline, stage: str, domain: str | None, plan: Schedule, runtime: Runtime
) -> float:
    """Time of the second step of a run that is thrown away; the first one warms up."""
    short = replace(plan, steps=3, minutes=None, log_every=1, validate_every=10**9)
    short = replace(short, save_every=1e9, sheet_every=1e9)
    with tempfile.TemporaryDirectory() as scratch:
        run: Any = pipeline.start(stage, domain, short, Path(scratch), runtime, rehearsal=True)
        with closing(run):
            next(run)
            begun = time.perf_counter()
            next(run)
            return time.perf_counter() - begun


def _images(one: ImageSet) -> str:
    pixels = sum(image.shape[0] * image.shape[1] for image in one.images)
    files = len(set(one.sources))
    return (
        f"{one.name}: {files} images, {len(one.images)} tiles, {pixels / 1e6:.1f} megapixels, "
        f"{3 * pixels / 1e6:.0f} MB in memory"
    )


def _resolution(pipeline: Pipeline, domain: str) -> str:
    size = pipeline.images.resolution(domain)
    return f"{size.y:g} {size.unit} per pixel"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
